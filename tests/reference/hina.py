"""The published variants of AdaptiveHinaAdamW and what it means them to be, in plain numpy."""

import numpy as np


def angle(x, y):
    """The cosine, from unit vectors; 0 where there is no direction."""
    length, width = np.linalg.norm(x.ravel()), np.linalg.norm(y.ravel())
    return (x.ravel() / length) @ (y.ravel() / width) if length and width else 0.0


def norm_ceiling(flows, norm_ceiling):
    for f in flows:
        length = np.linalg.norm(f.update.ravel())
        yield {"update": f.update * norm_ceiling / length if length > norm_ceiling else f.update}


def torque_damping(flows, tam_beta):
    average = 0.0
    for f in flows:
        average += (1 - tam_beta) * (angle(f.update, f.grad) - average)
        yield {"update": f.update / 2 + f.update * average / 2}


def alignment_damping(flows, alignment_threshold, alignment_factor):
    for f in flows:
        fires = f.update.any() and f.grad.any() and angle(f.update, f.grad) < alignment_threshold
        yield {"update": f.update * alignment_factor if fires else f.update}


def weighted(history, beta):
    """Bias-corrected average: weights beta^(t - s), over their sum."""
    weights = beta ** np.arange(len(history) - 1, -1, -1)
    return np.tensordot(weights, np.array(history), 1) / weights.sum()


def monotone(flows, betas):
    gradients, before = [], 0.0
    for t, f in enumerate(flows, 1):
        gradients.append(f.update)
        sum_of_weights = (1 - betas[1] ** t) / (1 - betas[1])
        second = weighted(np.square(gradients), betas[1])
        total = second * sum_of_weights
        yield {"update": weighted(gradients, betas[0]), "second_moment": np.maximum(total, before) / sum_of_weights}
        before = total


def lagged(flows, betas):
    gradients, before = [], None
    for t, f in enumerate(flows, 1):
        gradients.append(f.update)
        second = weighted(np.square(gradients), betas[1]) * (1 - betas[1] ** t)
        first = weighted(gradients, betas[0]) * (1 - betas[1] ** t) ** 0.5
        yield {"update": first, "second_moment": second if before is None else before}
        before = second


def pull(flows, spd_lambda):
    start = flows[0].param
    for f in flows:
        arrived = f.param - f.update
        gone = np.linalg.norm((arrived - start).ravel()) / np.linalg.norm(arrived.ravel())
        yield {"update": f.param - (arrived - f.lr * spd_lambda * gone * (arrived - start))}


def fading(t, transition, factor, floor, longest=np.inf):
    return 1.0 if t <= transition else max(floor, factor ** min(t / transition - 1, longest))


def dynamic_decay(flows, weight_decay, wd_transition_steps, wd_decay_factor, wd_min_ratio):
    for t, f in enumerate(flows, 1):
        strength = weight_decay * fading(t, wd_transition_steps, wd_decay_factor, wd_min_ratio)
        yield {"update": f.update + strength * f.param}


def dynamic_decay_after(flows, weight_decay, wd_transition_steps, wd_decay_factor, wd_min_ratio, wd_longest):
    for t, f in enumerate(flows, 1):
        strength = weight_decay * fading(t, wd_transition_steps, wd_decay_factor, wd_min_ratio, wd_longest)
        yield {"update": f.param - (1 - f.lr * strength) * (f.param - f.update)}
