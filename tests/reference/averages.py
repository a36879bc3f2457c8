"""Other averages, divisions and writes, in plain numpy."""

import numpy as np


def ademamix(flows, betas, alpha, alpha_warmup, beta3_warmup):
    """As the authors' code has it: half-lives of the slow decay are interpolated by a function and its inverse."""
    (b1, b2, b3), m, s, v = betas, 0.0, 0.0, 0.0

    def half_life(b):
        return np.log(0.5) / np.log(b + 1e-8) - 1

    for t, f in enumerate(flows, 1):
        decay, weight = b3, alpha
        if beta3_warmup and t < beta3_warmup:
            x = t / beta3_warmup
            decay = 0.5 ** (1 / ((1 - x) * half_life(b1) + x * half_life(b3) + 1))
        if alpha_warmup and t < alpha_warmup:
            weight = alpha * t / alpha_warmup
        m, s = b1 * m + (1 - b1) * f.update, decay * s + (1 - decay) * f.update
        v = b2 * v + (1 - b2) * f.update**2
        yield {"update": m / (1 - b1**t) + weight * s, "second_moment": v / (1 - b2**t)}


def mars(flows, gamma, mars_beta, mars_clip):
    before = 0.0
    for f in flows:
        c = f.update + gamma * mars_beta / (1 - mars_beta) * (f.update - before)
        before, length = f.update, np.linalg.norm(c)
        yield {"update": c * mars_clip / length if length > mars_clip else c}


def rate_weighted(flows, momentum):
    """The mean of all updates so far, weighted by rate and age."""
    for t in range(1, len(flows) + 1):
        weights = np.array([momentum ** (t - i) * f.lr for i, f in enumerate(flows[:t], 1)])
        yield {"update": np.tensordot(weights / weights.sum(), np.stack([f.update for f in flows[:t]]), 1)}


def atan2(flows, a, b):
    for f in flows:
        yield {"update": a * np.angle(b * np.sqrt(f.second_moment) + 1j * f.update)}


def radam(flows, betas, radam_eps):
    (b1, b2), m, v = betas, 0.0, 0.0
    most = 2 / (1 - b2) - 1
    for t, f in enumerate(flows, 1):
        m, v = b1 * m + (1 - b1) * f.update, b2 * v + (1 - b2) * f.update**2
        length, out = most - 2 * t * b2**t / (1 - b2**t), m / (1 - b1**t)
        if length > 5:
            r = np.sqrt((length - 4) * (length - 2) * most / ((most - 4) * (most - 2) * length))
            out = r * out * np.sqrt(1 - b2**t) / (np.sqrt(v) + radam_eps)
        yield {"update": out}


def adan(flows, betas):
    (b1, b2, b3), m, e, v = betas, 0.0, 0.0, 0.0
    for t, f in enumerate(flows, 1):
        d = f.update - flows[max(0, t - 2)].update
        m, e, v = b1 * m + (1 - b1) * f.update, b2 * e + (1 - b2) * d, b3 * v + (1 - b3) * (f.update + b2 * d) ** 2
        yield {"update": m / (1 - b1**t) + b2 * e / (1 - b2**t), "second_moment": v / (1 - b3**t)}


def proximal(flows, weight_decay):
    for f in flows:
        yield {"update": f.param - (f.param - f.update) / (1 + f.lr * weight_decay)}


def kahan(flows):
    """The parameter is stored in float32."""
    c = 0.0
    for f in flows:
        step = f.update - c
        c = (f.param - np.float32(f.param - step).astype(float)) - step
        yield {"update": step}


def uncorrected(flows, betas):
    (b1, b2), m, v = betas, 0.0, 0.0
    for f in flows:
        m, v = b1 * m + (1 - b1) * f.update, b2 * v + (1 - b2) * f.update**2
        yield {"update": m, "second_moment": v}


def scaled_normalize(flows, eps):
    for f in flows:
        yield {"update": f.update / (np.sqrt(f.second_moment) + eps)}


def prodigy(flows, d0, d_coef, growth_rate, beta3, safeguard_warmup, correction):
    """Algorithm 4 with the names and the order of the authors' program."""
    d, d_max, r, s, (b1, b2) = d0, d0, 0.0, 0.0, correction
    for t, f in enumerate(flows, 1):
        bias = np.sqrt(1 - b2**t) / (1 - b1**t)
        dlr = d * f.lr * bias
        r = beta3 * r + d / d0 * dlr * (f.update * (flows[0].param - f.param)).sum()
        s = beta3 * s + d / d0 * (d if safeguard_warmup else dlr) * f.update
        out = {"update": d * f.update, "scale": d * bias}
        if (size := np.abs(s).sum()) > 0:
            d_hat = d_coef * r / size
            d = max(d, d_hat) if d == d0 else d
            d_max = max(d_max, d_hat)
            d = min(d_max, d * (growth_rate or np.inf))
        yield out | {"eps_scale": d}
