"""Edges, spectra, ranks and variances of gradients and parameters, in plain numpy."""

import numpy as np


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
