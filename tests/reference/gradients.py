"""Clipping, centering and smoothing of gradients, cautious decay, in plain numpy."""

import numpy as np


def _shortened(x, limit):
    length = np.linalg.norm(x)
    return x if length <= limit else x * limit / length


def clip_norm(flows, clip_norm):
    for f in flows:
        yield {"update": _shortened(f.update, clip_norm)}


def clip_global_norm(flows, max_norm):
    return clip_norm(flows, max_norm)  # of the one parameter there is


def zclip(flows, z_thresh, zclip_alpha, zclip_warmup_steps, zclip_eps):
    """The norms of the first steps are kept, as in the authors' code."""
    seen, mean, variance = [], None, None
    for f in flows:
        n = np.linalg.norm(f.update)
        clipped = n
        if mean is not None:
            z = (n - mean) / (np.sqrt(variance) + zclip_eps)
            if z > z_thresh:
                clipped = mean + z_thresh * np.sqrt(variance) / (z / z_thresh)
            mean = zclip_alpha * mean + (1 - zclip_alpha) * clipped
            variance = zclip_alpha * variance + (1 - zclip_alpha) * (clipped - mean) ** 2
        else:
            seen.append(n)
            if len(seen) == zclip_warmup_steps:
                mean, variance = np.mean(seen), np.var(seen)
        yield {"update": f.update * (clipped / n if n else 1.0)}


def agc(flows, clipping, agc_eps):
    for f in flows:
        g, w = (x.reshape(len(x) if x.ndim > 1 else 1, -1) for x in (f.update, f.param))
        rows = [_shortened(a, clipping * max(np.linalg.norm(b), agc_eps)) for a, b in zip(g, w, strict=True)]
        yield {"update": np.array(rows).reshape(f.update.shape)}


def centralize(flows):
    for f in flows:
        others = tuple(range(1, f.update.ndim))
        yield {"update": f.update - f.update.mean(others, keepdims=True) if others else f.update}


def laplacian_smoothing(flows, sigma):
    """By solving the circulant system itself."""
    for f in flows:
        n = f.update.size
        identity = np.eye(n)
        second_difference = np.roll(identity, 1, 0) + np.roll(identity, -1, 0) - 2 * identity
        yield {"update": np.linalg.solve(identity - sigma * second_difference, f.update.ravel()).reshape(f.update.shape)}


def cautious_decay(flows, weight_decay):
    for f in flows:
        decays = np.sign(f.update) * np.sign(f.param) >= 0
        yield {"update": f.update + weight_decay * np.where(decays, f.param, 0)}
