"""Factors on the step, as AdaptiveHinaAdamW has them and as it means them, in plain numpy."""

import numpy as np


def lr_mask(flows, **settings):
    """Rates relative to the largest learning rate; a sign is compared with the last one that was not 0."""
    factor, last = np.ones_like(flows[0].param), np.zeros_like(flows[0].param)
    peak = 0.0
    for t, f in enumerate(flows, 1):
        peak = max(peak, f.lr)
        for i in np.ndindex(factor.shape):
            sign = np.sign(f.grad[i])
            if t < settings["warmup_steps"]:
                rate = factor[i] * peak + (settings["lr_bump"] if sign * last[i] > 0 else 0)
                rate -= settings["lr_bump"] if sign * last[i] < 0 else 0
                factor[i] = min(max(rate, settings["min_lr"]), settings["max_lr"]) / peak
            last[i] = sign or last[i]
        yield {"scale": factor.copy()}


def element_mask(flows, **settings):
    """Rates as such, beside the largest learning rate of the warm-up; a sign is positive or not."""
    rate, last = np.zeros_like(flows[0].param), np.zeros(flows[0].param.shape, dtype=bool)
    peak = 0.0
    for t, f in enumerate(flows, 1):
        warm = t < settings["warmup_steps"]
        grown = max(f.lr - peak, 0) if warm or t == 1 else 0
        peak += grown
        for i in np.ndindex(rate.shape):
            positive = bool(f.grad[i] > 0)
            rate[i] += grown
            if warm:
                rate[i] += settings["lr_bump"] if positive == last[i] else -settings["lr_bump"]
                rate[i] = min(max(rate[i], settings["min_lr"]), settings["max_lr"])
            last[i] = positive
        yield {"scale": rate / peak}


def tensor_mask(flows, **settings):
    for step in element_mask(flows, **settings):
        yield {"scale": step["scale"].mean()}


def parts(gradient, param, norms, start):
    """Steadiness of the gradient's norm, change of the parameter's, variance of what is not nearly 0."""
    last = norms[-5:]
    steady = max(0.1, 1 - np.std(last, ddof=1) / (np.mean(last) + 1e-8)) if len(last) > 1 else 1.0
    change = abs(np.linalg.norm(param.ravel()) - start) / start if start else 0.0
    return steady, change, np.var(param, ddof=1) * np.mean(np.abs(param) >= 1e-6) if param.size > 1 else 0.0


def importance(flows, adaptation_strength, importance_decay, importance_interval, importance_range):
    """Alone among its kind, a parameter has every part at its mean: the score stays 1."""
    for _ in flows:
        yield {"scale": 1.0}


def absolute_importance(flows, adaptation_strength, importance_decay, importance_interval, importance_range):
    score, norms, start = 1.0, [], 0.0
    for t, f in enumerate(flows, 1):
        if t % importance_interval == 0:
            norm = np.linalg.norm(f.grad.ravel())
            steady, change, variance = parts(f.grad, f.param, norms, start)
            worth = max(0.01, 0.4 * steady * norm + 0.3 * change + 0.3 * variance)
            score = importance_decay * score + (1 - importance_decay) * worth
            norms.append(norm)
            start = start or np.linalg.norm(f.param.ravel())
        yield {"scale": np.clip(adaptation_strength * score, *importance_range)}


def relations(flows, **settings):
    """Nobody is related to itself."""
    for _ in flows:
        yield {"scale": 1.0}


def fit(a, b):
    """How well two matrices fit each other."""
    sides = [a.shape[1] == b.shape[0], a.shape[0] == b.shape[1], a.shape[1] == b.shape[1], a.shape[0] == b.shape[0]]
    length = min(a.size, b.size)
    x, y = a.ravel()[:length], b.ravel()[:length]
    rho = 0.0 if np.ptp(x) == 0 or np.ptp(y) == 0 else np.corrcoef(x, y)[0, 1]
    return 0.7 * sum(sides) / 4 + 0.3 * abs(rho) if any(sides) else 0.0


def product(a, b):
    if a.shape[1] == b.shape[0]:
        return a @ b
    if a.shape[0] == b.shape[1]:
        return b @ a
    return a @ b.T if a.shape[1] == b.shape[1] else a.T @ b


def worth(a, b, c):
    return (1 + 0.2 * c) / (1 + 0.1 * np.linalg.norm(product(a, b)))


def scores(grads, params, decay):
    """Importance of several parameters together, after each refresh: relative parts, averaged over time."""
    score, norms, starts = np.ones(len(params[0])), [[] for _ in params[0]], [0.0] * len(params[0])
    for g, p in zip(grads, params, strict=True):
        found = []
        for i, (gradient, param) in enumerate(zip(g, p, strict=True)):
            norm, size = np.linalg.norm(gradient.ravel()), np.linalg.norm(param.ravel())
            steady, change, variance = parts(gradient, param, norms[i], starts[i])
            found.append([steady * norm / param.size**0.5, change, variance])
            norms[i].append(norm)
            starts[i] = starts[i] or size
        means = np.mean(found, 0)
        relative = np.where(means > 0, np.array(found) / np.where(means > 0, means, 1), 1)
        score = decay * score + (1 - decay) * relative @ [0.4, 0.3, 0.3]
        yield score
