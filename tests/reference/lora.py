"""Adapters: pairs by name and what they make of a step, and HinaAdamWOptimizer's variants, in plain numpy."""

import numpy as np


def passed_on(flows, **_):
    """What a link for pairs does to a parameter without a name."""
    for f in flows:
        yield {"update": f.update}


def decay_after(flows, weight_decay, wd_transition_steps, wd_decay_factor, wd_min_ratio):
    """No adapter: constant decay."""
    for f in flows:
        yield {"update": f.param - (1 - f.lr * weight_decay) * (f.param - f.update)}


def allora(flows, eta):
    for f in flows:
        rows = np.sqrt((f.param.reshape(len(f.param), -1) ** 2).sum(1))
        factor = (1 / np.sqrt(rows + 1 / eta**2)).reshape(-1, *[1] * (f.param.ndim - 1))
        yield {"update": f.update * factor if f.param.ndim > 1 else f.update}


def orthogonal_component(flows):
    for f in flows:
        unit = f.param / np.linalg.norm(f.param.ravel())
        along = np.vdot(unit, f.update) * unit
        yield {"update": f.update - along if f.param.ndim > 1 else f.update}


def sum_amplification(flows):
    for f in flows:
        length = np.linalg.norm(f.update.ravel())
        yield {"update": f.update * (1 + abs(f.update.sum()) / length) if length else f.update}


def agreement_mask(flows):
    for f in flows:
        yield {"update": np.where(np.sign(f.update) * np.sign(f.grad) == 1, f.update, 0)}


def flat(w):
    return w.reshape(len(w), -1)


def row_length(x):
    return np.linalg.norm(x, axis=1).mean()


def alora_factors(a, b, ratio):
    """Of A and of B, by the whole product."""
    return 1 / (1 + row_length(flat(b) @ flat(a))), ratio


def lokr_norm(w1, w2):
    """Norm of the Kronecker product of two matrices or of lists of factors, all of it written out."""
    return np.linalg.norm(np.kron(built(w1), built(w2)).ravel())


def built(w):
    if not isinstance(w, list):
        return flat(w)
    if len(w) == 2:
        return flat(w[0]) @ flat(w[1])
    t, a, b = w
    return flat(np.einsum("ij...,ip,jr->pr...", t, a, b))


def fading(t, floor, factor, transition, kind):
    """Weight of the decay at step t, by the kind of parameter."""
    exponent, longest, multiple = {"lora": (1, 2, 1), "lokr": (0.7, 1.5, 1.5)}.get(kind, (0, 0, 0))
    if t <= transition or not multiple:
        return 1.0
    return max(multiple * floor, (factor**exponent) ** min((t - transition) / transition, longest))
