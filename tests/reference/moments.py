"""First and second moments, each as its paper or torch's documentation writes it, in plain numpy."""

import numpy as np


def adam(flows, betas):
    (b1, b2), m, v = betas, 0.0, 0.0
    for t, f in enumerate(flows, 1):
        m, v = b1 * m + (1 - b1) * f.update, b2 * v + (1 - b2) * f.update**2
        yield {"update": m / (1 - b1**t), "second_moment": v / (1 - b2**t)}


def amsgrad(flows, betas):
    """torch's form: the largest of the uncorrected moments, corrected with the current step."""
    (b1, b2), m, v, largest = betas, 0.0, 0.0, 0.0
    for t, f in enumerate(flows, 1):
        m, v = b1 * m + (1 - b1) * f.update, b2 * v + (1 - b2) * f.update**2
        largest = np.maximum(largest, v)
        yield {"update": m / (1 - b1**t), "second_moment": largest / (1 - b2**t)}


def step_corrected(flows, betas):
    for t, f in enumerate(adam(flows, betas), 1):
        root = np.sqrt(1 - betas[1] ** t)
        yield {"update": f["update"] * root, "second_moment": f["second_moment"] * root**2}


def nadam(flows, betas, momentum_decay):
    (b1, b2), m, v, product = betas, 0.0, 0.0, 1.0

    def mu(t):
        return b1 * (1 - 0.5 * 0.96 ** (t * momentum_decay))

    for t, f in enumerate(flows, 1):
        m, v = b1 * m + (1 - b1) * f.update, b2 * v + (1 - b2) * f.update**2
        product *= mu(t)
        now, ahead = (1 - mu(t)) / (1 - product), mu(t + 1) / (1 - product * mu(t + 1))
        yield {"update": now * f.update + ahead * m, "second_moment": v / (1 - b2**t)}


def first_moment(flows, momentum):
    """The corrected average as a weighted mean of all gradients so far."""
    for t in range(1, len(flows) + 1):
        weights = np.array([momentum ** (t - i) for i in range(1, t + 1)])
        yield {"update": np.tensordot(weights / weights.sum(), np.stack([f.update for f in flows[:t]]), 1)}


def rmsprop(flows, alpha):
    v = 0.0
    for f in flows:
        v = alpha * v + (1 - alpha) * f.update**2
        yield {"second_moment": v}


def centered(flows, alpha):
    """Variance under weights that sum to 1 - alpha^t, the rest of the weight being on 0."""
    for t in range(1, len(flows) + 1):
        weights = (1 - alpha) * np.array([alpha ** (t - i) for i in range(1, t + 1)])
        g = np.stack([f.update for f in flows[:t]])
        mean = np.tensordot(weights, g, 1)
        yield {"second_moment": np.tensordot(weights, (g - mean) ** 2, 1) + (1 - weights.sum()) * mean**2}


def adagrad(flows, initial_accumulator_value):
    for t in range(1, len(flows) + 1):
        yield {"second_moment": initial_accumulator_value + sum(f.update**2 for f in flows[:t])}


def largest(flows):
    for t in range(1, len(flows) + 1):
        yield {"second_moment": np.max([f.second_moment for f in flows[:t]], axis=0)}


def adafactor(flows, beta2_decay, eps1):
    """torch's form: no epsilon on the squares, floors on the mean of the rows and on the estimate."""
    e, r, c, v = np.finfo(float).eps if eps1 is None else eps1, 0.0, 0.0, 0.0
    for t, f in enumerate(flows, 1):
        w, square = t**beta2_decay, f.update**2
        if square.ndim < 2:
            v = v + w * (square - v)
        else:
            r, c = r + w * (square.mean(-1) - r), c + w * (square.mean(-2) - c)
            v = np.einsum("...i,...j->...ij", r, c) / np.maximum(r.mean(-1), e)[..., None, None]
        yield {"second_moment": np.maximum(v, e**2)}


def adopt(flows, betas, adopt_eps):
    """Algorithm 2, calls counted from 0: the first sets v; each later one divides by the v of the call before."""
    (b1, b2), m, v = betas, 0.0, None
    for k, f in enumerate(flows):
        if v is None:
            v = f.update**2
            yield {"update": np.zeros_like(v), "gate": 0.0}
            continue
        n = np.clip(f.update / np.maximum(np.sqrt(v), adopt_eps), -(k**0.25), k**0.25)
        m = b1 * m + (1 - b1) * n
        yield {"update": m, "gate": 1.0}
        v = b2 * v + (1 - b2) * f.update**2
