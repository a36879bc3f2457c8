"""Edges, spectra, ranks and variances of gradients and parameters, in plain numpy."""

import numpy as np
import torch

from gradchain.transforms._subspace import first_basis


def curvature(x):
    """Second differences along the last two axes, inside each axis alone, added."""
    total = np.zeros_like(x)
    for axis in (-1, -2):
        if x.shape[axis] > 2:
            inner = np.moveaxis(total, axis, 0)[1:-1]  # a view
            inner += np.diff(np.moveaxis(x, axis, 0), 2, axis=0)
    return np.abs(total)


def over(x, threshold):
    return np.where(x > threshold, x, 0)


def published_edges(x, threshold, matrices_only):
    rank = x.ndim
    if rank < 2 or min(x.shape[-2:]) < 3 or (matrices_only and rank > 2):
        return np.zeros_like(x)
    return over(curvature(x), threshold)


def group_agr(flows, agr_eps):
    for f in flows:
        yield {"update": f.update * (1 - np.abs(f.update) / (np.abs(f.update).sum() + agr_eps))}


def edge_group_agr(flows, agr_eps, edge_penalty, edge_threshold, edge_matrices_only):
    for f in flows:
        share = np.abs(f.update) / (np.abs(f.update).sum() + agr_eps)
        share = share * (1 + edge_penalty * published_edges(f.update, edge_threshold, edge_matrices_only))
        yield {"update": f.update * (1 - share)}


def published_edge_history(flows, edge_history_penalty, edge_history_threshold, edge_history_decay, edge_history_matrices_only):
    h = np.zeros_like(flows[0].update)
    for f in flows:
        e = published_edges(f.update, edge_history_threshold, edge_history_matrices_only)
        h = edge_history_decay * h + (1 - edge_history_decay) * e
        yield {"update": f.update * np.clip(1 - edge_history_penalty * h, 0.1, 1)}


def published_frequency(flows, frequency_penalty):
    """The whole spectrum, the mask as the original builds it."""
    for f in flows:
        g = f.update
        if g.ndim == 2:
            h, w = g.shape
            k, l = np.ogrid[:h, :w]  # noqa: E741
            mask = np.sqrt((k - h // 2) ** 2 + (l - w // 2) ** 2) > 0.3 * min(h, w)
            g = g - np.fft.ifft2(frequency_penalty * np.abs(np.fft.fft2(g)) * mask).real
        yield {"update": g}


def difference(flows, frequency_penalty):
    for f in flows:
        g = f.update.copy()
        if g.ndim == 2 and min(g.shape) > 1:
            g[:, 1:] -= frequency_penalty * np.abs(np.diff(f.update, axis=1))
            g[1:] -= frequency_penalty * np.abs(np.diff(f.update, axis=0))
        yield {"update": g}


def matrix_l2(flows, rank_penalty_strength, rank_penalty_min_extent):
    """By the singular value decomposition, as the original has it."""
    for f in flows:
        g = f.update
        if g.ndim == 2 and min(g.shape) >= rank_penalty_min_extent:
            u, s, v = np.linalg.svd(f.param, full_matrices=False)
            g = g + u @ np.diag(rank_penalty_strength * s) @ v
        yield {"update": g}


def published_spatial(flows, detail_preservation, variance_decay):
    q = np.ones_like(flows[0].update)
    for f in flows:
        yield {"bump_scale": np.clip(detail_preservation * q, 0.5, 1.5)}
        if q.ndim > 1:
            variance = np.var(f.grad, axis=-1, ddof=1, keepdims=True) if q.shape[-1] > 1 else 1.0
            q = variance_decay * q + (1 - variance_decay) * variance


def published_background(flows, background_threshold):
    for f in flows:
        flat = f.grad.size < 2 or np.var(f.grad, ddof=1) < background_threshold
        yield {"update": f.update / 2 if flat else f.update}


def edge_suppression(flows, edge_penalty, edge_threshold, edge_decay):
    h = np.zeros_like(flows[0].update)
    for f in flows:
        u = f.update
        rms = np.sqrt((u**2).mean())
        if u.ndim > 1 and rms > 0:
            h = edge_decay * h + (1 - edge_decay) * over(curvature(u / rms), edge_threshold)
        yield {"update": u * np.clip(1 - edge_penalty * h, 0.1, 1)}


def frequency(flows, frequency_penalty, frequency_cutoff):
    """The whole spectrum, shifted so that the mean stands in the middle."""
    for f in flows:
        g = f.update
        if g.ndim == 2:
            h, w = g.shape
            spectrum = np.fft.fftshift(np.fft.fft2(g))
            k, l = np.ogrid[:h, :w]  # noqa: E741
            fast = np.hypot(k - h // 2, l - w // 2) > frequency_cutoff * min(h, w)
            g = g - frequency_penalty * np.fft.ifft2(np.fft.ifftshift(spectrum * fast)).real
        yield {"update": g}


def starting_basis(columns, rank):
    """The links start from a fixed random basis, which is theirs to choose."""
    return first_basis(torch.empty((0, columns), dtype=torch.float64), rank).numpy()


def parts(matrices, rank, interval):
    """For each matrix in turn the part within the followed subspace and the rest, or None where there is no rest."""
    if matrices[0].ndim != 2 or min(matrices[0].shape) <= rank:
        yield from [None] * len(matrices)
        return
    q = starting_basis(matrices[0].shape[1], rank)
    for t, w in enumerate(matrices):
        if t % interval == 0:
            q, _ = np.linalg.qr(w.T @ w @ q) if w.any() else (np.eye(len(q), rank), None)
        projector = q @ q.T
        yield w @ projector, w @ (np.eye(len(q)) - projector)


def rank_penalty(flows, rank_penalty_strength, rank_penalty_rank, rank_penalty_interval):
    for f, split in zip(flows, parts([f.param for f in flows], rank_penalty_rank, rank_penalty_interval), strict=True):
        yield {"update": f.update + (rank_penalty_strength * split[1] if split else 0)}


def low_rank_emphasis(flows, low_rank_emphasis, low_rank_emphasis_rank, low_rank_emphasis_interval):
    found = parts([f.update for f in flows], low_rank_emphasis_rank, low_rank_emphasis_interval)
    for f, split in zip(flows, found, strict=True):
        yield {"update": low_rank_emphasis * split[0] + split[1] if split else f.update}


def rank_aware_decay(flows, weight_decay, rank_decay_excess, rank_decay_rank, rank_decay_interval):
    for f, split in zip(flows, parts([f.param for f in flows], rank_decay_rank, rank_decay_interval), strict=True):
        if split and rank_decay_excess is None:
            rank_decay_excess = np.exp(-0.1 * np.arange(min(f.param.shape))).mean()
        extra = rank_decay_excess * split[1] if split else 0
        yield {"update": f.update + weight_decay * (f.param + extra)}


def spatial(flows, detail_preservation, detail_decay):
    q = np.ones_like(flows[0].update)
    for f in flows:
        if q.ndim < 2:
            yield {"bump_scale": 1.0}
            continue
        yield {"bump_scale": np.clip(np.maximum(q, 1e-300) ** -detail_preservation, 0.5, 1.5)}
        rows = f.grad.reshape(-1, f.grad.shape[-1])
        spread = rows.var(axis=1)
        detail = spread / spread.mean() if spread.any() else np.ones_like(spread)
        q = detail_decay * q + (1 - detail_decay) * detail.reshape(*q.shape[:-1], 1)


def background(flows, background_threshold, background_factor, background_decay):
    scale = 0.0
    for t, f in enumerate(flows, 1):
        scale = background_decay * scale + (1 - background_decay) * (f.grad**2).mean()
        even = np.var(f.grad, ddof=1) < background_threshold * scale / (1 - background_decay**t)
        yield {"update": f.update * (background_factor if even else 1)}


def lookahead(flows, la_steps, la_alpha):
    slow = flows[0].param
    for t, f in enumerate(flows, 1):
        fast = f.param - f.update
        if t % la_steps == 0:
            slow = slow + la_alpha * (fast - slow)
            fast = slow
        yield {"update": f.param - fast}


def multilayer_lookahead(flows, la_layers, la_alphas, la_ks):
    """With a counter a layer, as the original has it."""
    slow, met = [flows[0].param] * la_layers, [0] * la_layers
    for t, f in enumerate(flows, 1):
        fast = f.param - f.update
        if t % la_ks[0] == 0:
            slow[0] = slow[0] + la_alphas[0] * (fast - slow[0])
            fast = slow[0]
            for l in range(1, la_layers):  # noqa: E741
                met[l] += 1
                if met[l] % la_ks[l]:
                    break
                slow[l] = slow[l] + la_alphas[l] * (slow[l - 1] - slow[l])
                slow[l - 1] = slow[l]
        yield {"update": f.param - fast}


def edge_damping(flows, edge_penalty, edge_threshold):
    for f in flows:
        yield {"update": f.update / (1 + edge_penalty * published_edges(f.update, edge_threshold, True))}


def top_eigenvalue_l2(flows, rank_penalty_strength):
    for f in flows:
        strength = rank_penalty_strength if f.param.ndim == 2 else 0
        squares = np.sort(np.linalg.svd(f.param, compute_uv=False) ** 2)[::-1][:10].sum() if strength else 0
        yield {"update": f.update + strength * squares * f.param}
