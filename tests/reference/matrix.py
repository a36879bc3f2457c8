"""Orthogonalization, trust ratios and clipping by the second moment, in plain numpy."""

import numpy as np

CURVES = {"jordan": (3.4445, -4.7750, 2.0315), "convergent": (1.875, -1.25, 0.375)}


def average(flows, momentum):
    b = 0.0
    for f in flows:
        b = momentum * b + (1 - momentum) * f.update
        yield {"update": b}


def nesterov_average(flows, momentum):
    b = 0.0
    for f in flows:
        b = momentum * b + (1 - momentum) * f.update
        yield {"update": momentum * b + (1 - momentum) * f.update}


def orthogonalized(update, ns_steps, ns_coefficients, ns_eps, adjust_lr_fn, ns_precision="full"):
    """By the singular values: each goes through the polynomial by itself."""
    if update.ndim < 2:
        return update
    matrix = update.reshape(update.shape[0], -1)
    u, s, v = np.linalg.svd(matrix, full_matrices=False)
    s = s / max(np.sqrt((s**2).sum()), ns_eps)
    a, b, c = CURVES[ns_coefficients]
    for _ in range(ns_steps):
        s = a * s + b * s**3 + c * s**5
    m, n = matrix.shape
    factor = {
        "original": np.sqrt(max(1, m / n)),
        "match_rms_adamw": 0.2 * np.sqrt(max(m, n)),
        "rms_to_rms": np.sqrt(m / n),
        "none": 1,
    }[adjust_lr_fn]
    return (factor * (u * s) @ v).reshape(update.shape)


def orthogonalize(flows, **settings):
    for f in flows:
        yield {"update": orthogonalized(f.update, **settings)}


def trust_ratio(flows, weight_norm_range, trust_limit):
    for f in flows:
        w, u = np.sqrt((f.param**2).sum()), np.sqrt((f.update**2).sum())
        w = min(max(w, weight_norm_range[0]), weight_norm_range[1])
        yield {"update": f.update * min(w / u if w > 0 and u > 0 else 1, trust_limit)}


def lars(flows, trust_coefficient, weight_decay):
    for f in flows:
        w, g = np.sqrt((f.param**2).sum()), np.sqrt((f.update**2).sum())
        rate = trust_coefficient * w / (g + weight_decay * w) if w > 0 and g > 0 else 1
        yield {"update": rate * (f.update + weight_decay * f.param)}


def clip_normalized(flows, rms_eps):
    for f in flows:
        rms = np.sqrt(np.mean(f.grad**2 / np.maximum(f.second_moment, rms_eps**2)))
        yield {"update": f.update / max(1, rms)}
