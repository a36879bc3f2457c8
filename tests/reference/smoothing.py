"""The periodic Laplacian element by element with its explicit kernel, and what LAdam makes of it, in plain numpy."""

import numpy as np

KERNELS = {
    "9point": np.array([[1, 4, 1], [4, -20, 4], [1, 4, 1]]) / 6,
    "5point": np.array([[0, 1, 0], [1, -4, 1], [0, 1, 0]]),
}


def laplacian(a, stencil):
    if a.ndim < 2:
        n = a.size
        return np.array([a[i - 1] - 2 * a[i] + a[(i + 1) % n] for i in range(n)]) if n >= 4 else np.zeros_like(a)
    f = a.reshape(a.shape[0], int(np.prod(a.shape[1:])))
    out, (rows, columns) = np.zeros_like(f), f.shape
    if min(rows, columns) < 3:
        return out.reshape(a.shape)
    for i in range(rows):
        for j in range(columns):
            near = f[np.ix_([i - 1, i, (i + 1) % rows], [j - 1, j, (j + 1) % columns])]
            out[i, j] = (KERNELS[stencil] * near).sum()
    return out.reshape(a.shape)


def diffused(a, c2, stencil, min_spatial_size):
    return a + c2 * laplacian(a, stencil) if a.size >= min_spatial_size else a


def variance(flows, c2, stencil, min_spatial_size, bounded):
    for f in flows:
        yield {"second_moment": np.maximum(diffused(f.second_moment, c2, stencil, min_spatial_size), 0)}


def update(flows, c2, stencil, min_spatial_size, bounded):
    for f in flows:
        yield {"update": diffused(f.update, c2, stencil, min_spatial_size)}


def weights(flows, c2, stencil, min_spatial_size, bounded):
    """The new weights are the diffused ones."""
    for f in flows:
        yield {"update": f.param - diffused(f.param - f.update, c2, stencil, min_spatial_size)}


def wave(flows, wave_dt, wave_kappa, wave_damping, c2, stencil, min_spatial_size):
    v = before = None
    for f in flows:
        q = f.update**2
        if v is None:
            v = before = q
        else:
            pull = wave_kappa * (q - v) + diffused(v, c2, stencil, min_spatial_size) - v
            v, before = np.maximum(v + (1 - wave_damping) * (v - before) + wave_dt**2 * pull, 0), v
        yield {"second_moment": v}


def published_wave(flows, wave_dt, wave_kappa, wave_E0, wave_damping, wave_floor, c2, stencil, min_spatial_size):
    """ladam 0.4.1, with its sign."""
    v = before = energy = None
    for f in flows:
        q = f.update**2
        if v is None:
            v = before = np.maximum(q, wave_floor)
            energy = q.mean() if wave_E0 == 0 else wave_E0**2
        else:
            a = -wave_kappa * (q - energy) + diffused(v, c2, stencil, min_spatial_size) - v
            new = (2 - wave_damping) * v - (1 - wave_damping) * before + wave_dt**2 * a
            v, before = np.maximum(new, wave_floor), v
        yield {"second_moment": v}
