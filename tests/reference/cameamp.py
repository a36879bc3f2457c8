"""CAME, Automagic and CameAMP in plain numpy."""

import numpy as np


def average(history, beta):
    """The exponential average from 0, as a weighted sum."""
    n = len(history)
    return sum((1 - beta) * beta ** (n - 1 - k) * x for k, x in enumerate(history))


def rank_one(history, beta):
    """Averages of the row and the column means, multiplied out."""
    row = average([s.mean(-1, keepdims=True) for s in history], beta)
    column = average([s.mean(-2, keepdims=True) for s in history], beta)
    return row * column / row.mean(-2, keepdims=True)


def mean_square(flows, beta2, eps1):
    seen = []
    for f in flows:
        seen.append(f.update**2 + eps1)
        yield {"second_moment": average(seen, beta2)}


def factored_mean_square(flows, beta2, eps1):
    seen = []
    for f in flows:
        seen.append(f.update**2 + eps1)
        yield {"second_moment": average(seen, beta2) if f.update.ndim < 2 else rank_one(seen, beta2)}


def previous_mean_square(flows, beta2, eps1):
    v = None
    for f in flows:
        square = f.update**2 + eps1
        if v is None:
            yield {"update": 0 * square, "second_moment": np.ones_like(square), "gate": 0}
            v = square
        else:
            yield {"update": f.update, "second_moment": v, "gate": 1}
            v = beta2 * v + (1 - beta2) * square


def residual_momentum(flows, momentum):
    seen = []
    for f in flows:
        seen.append(f.update)
        m = average(seen, momentum)
        yield {"update": m, "residual": f.update - m}


def falling_momentum(flows, momentum, beta1_decay, momentum_floor):
    m = 0.0
    for t, f in enumerate(flows, 1):
        b = max(momentum * beta1_decay**t, momentum_floor)
        m = b * m + (1 - b) * f.update
        yield {"update": m, "residual": f.update - m}


def torque_momentum(flows, momentum, beta1_decay, momentum_floor, torque_steps, torque_beta, torque_emphasis, torque_eps):
    m = s = np.zeros_like(flows[0].update)

    def unit(x):
        length = np.linalg.norm(x, axis=0, keepdims=True)
        return np.divide(x, length, out=np.zeros_like(x), where=length > 0)

    for t, f in enumerate(flows, 1):
        c = f.update
        if t < torque_steps:
            s = 0.9 * s + 0.1 * unit(m) * unit(c)
            stressed = s * (torque_emphasis if c.ndim == 2 else 1)
            m = torque_beta * m + ((1 + stressed) / 2 + torque_eps) * c
        else:
            b = max(momentum * beta1_decay**t, momentum_floor)
            m = b * m + (1 - b) * c
        yield {"update": m, "residual": c - m}


def second_average(flows, second_beta):
    for f in flows:
        yield {"residual": f.residual - (1 - second_beta) * f.residual}


def confidence(flows, beta3, eps2):
    seen = []
    for t, f in enumerate(flows, 1):
        seen.append(f.residual**2 + eps2)
        yield {"update": f.update / np.sqrt(average(seen, beta3) / (1 - beta3**t))}


def factored_confidence(flows, beta3, eps2):
    seen = []
    for f in flows:
        seen.append(f.residual**2 + eps2)
        yield {"update": f.update if f.update.ndim < 2 else f.update / np.sqrt(rank_one(seen, beta3))}


def published_confidence(flows, beta3, early_beta3, early_beta3_steps, eps2, raised=0.0):
    r = 0.0
    for t, f in enumerate(flows, 1):
        b = early_beta3 if t < early_beta3_steps else beta3
        r += (1 - b) * (f.residual**2 + eps2 - r)
        yield {"update": f.update * (r**-0.5 + raised)}


def raised_confidence(flows, eps2, **decays):
    return published_confidence(flows, eps2=eps2, raised=eps2, **decays)


def scaled_clip(flows, d):
    for f in flows:
        yield {"update": f.update * d / max(1, np.sqrt((f.update**2).mean()))}


def published_lr_mask(
    flows, mask_start, min_lr, max_lr, lr_bump, lr_max_start, mask_steps, mask_floor, d_coef=1.0, directed_steps=0
):
    k, was, top = np.full_like(flows[0].grad, mask_start), np.zeros(flows[0].grad.shape, bool), lr_max_start
    for t, f in enumerate(flows, 1):
        ratio = 1.0
        if t < mask_steps:
            now = f.grad > 0
            slope = (f.grad * f.param).sum() if t < directed_steps else 0
            rise, fall = (lr_bump * (d_coef if side else 1) for side in (slope < 0, slope > 0))
            k = k + np.where(now == was, rise, -fall)
            if f.lr > top:
                k = k + f.lr - top
            k, was = np.clip(k, min_lr, max_lr), now
            top = max(top, f.lr)
        else:
            top = max(top, f.lr)
            ratio = max(f.lr / top, mask_floor)
        yield {"update": f.update * k * ratio / f.lr}


def int8_lr_mask(flows, mask_start, min_lr, max_lr, lr_bump):
    code, scale, was = np.full_like(flows[0].grad, 127), mask_start / 127, np.zeros(flows[0].grad.shape, bool)
    for f in flows:
        now = f.grad > 0
        k = np.clip(code * scale + np.where(now == was, lr_bump, -lr_bump), min_lr, max_lr)
        scale = k.max() / 127
        code, was = np.clip(np.round(k / scale), -127, 127), now
        yield {"update": f.update * k / f.lr}


def rank_factor(shape, rate):
    if len(shape) != 2 or rate == 0:
        return 1.0
    return 1 + np.exp(-rate * np.arange(min(shape))).mean()


def _lagging(flows, spd_lambda, rank_rate, away, gate):
    for i, f in enumerate(flows):
        n, fires = away - f.update, gate(f, away) > 0
        if fires:
            far, near = np.linalg.norm(n), np.linalg.norm(away)
            n = n - spd_lambda * rank_factor(n.shape, rank_rate) * min(max((far - near) / (far + 1e-8), 0), 1) * n
        yield {"update": away - n}
        if i + 1 < len(flows):
            away = 0 * n if fires else flows[i + 1].param - f.param


def lagged_spd(flows, spd_lambda, rank_rate):
    return _lagging(flows, spd_lambda, rank_rate, flows[0].param, lambda f, away: (f.grad * away).sum())


def uphill_spd(flows, spd_lambda, rank_rate):
    return _lagging(flows, spd_lambda, rank_rate, 0 * flows[0].param, lambda f, away: (f.grad * f.param).sum())


def published_spd(flows, spd_lambda, rank_rate, start=None):
    a = flows[0].param if start is None else start
    for f in flows:
        n, w = f.param - f.update - a, f.param - a
        far = np.linalg.norm(n)
        r = min(max((far - np.linalg.norm(w)) / (far + 1e-8), 0), 1) if (f.grad * w).sum() > 0 else 0
        yield {"update": f.param - a - n + spd_lambda * rank_factor(n.shape, rank_rate) * r * n}


def published_origin_spd(flows, **fields):
    return published_spd(flows, start=0 * flows[0].param, **fields)


def origin_spd(flows, spd_lambda, rank_rate):
    for f in flows:
        n, w = f.param - f.update, f.param
        if (f.grad * w).sum() > 0:
            ratio = max(1 - np.linalg.norm(w) / np.linalg.norm(n), 0)
            n = n * (1 - spd_lambda * rank_factor(n.shape, rank_rate) * ratio)
        yield {"update": w - n}


def growing_clamp(flows):
    for t, f in enumerate(flows, 1):
        yield {"update": np.sign(f.update) * np.minimum(np.abs(f.update), t**0.25)}


def blended_grams(flows, grams_decay):
    for t, f in enumerate(flows, 1):
        a = grams_decay**t
        yield {"update": np.abs(f.update) * (a * np.sign(f.grad) + (1 - a) * np.sign(f.update))}


def ada_decay(flows, weight_decay, decay_slope):
    for f in flows:
        g = np.abs(f.grad)
        z = (g - g.mean()) / (g.std() or 1)
        yield {"update": f.update + 2 * weight_decay / (1 + np.exp(-decay_slope * z)) * f.param}


def group_ada_decay(flows, weight_decay, decay_slope, ada_decay_steps):
    """Alone in its group, a parameter is average."""
    for t, f in enumerate(flows, 1):
        decays = ada_decay_steps is None or t < ada_decay_steps
        yield {"update": f.update + decays * weight_decay * f.param}


def initial_row_scale(flows, eta):
    w = flows[0].param
    factor = (np.linalg.norm(w, axis=1, keepdims=True) + 1 / eta**2) ** -0.5 if w.ndim == 2 else 1
    for f in flows:
        yield {"update": f.update * factor}


def row_tam(flows, tam_beta, tam_decay, tam_eps):
    m = np.zeros_like(flows[0].update).reshape(-1, flows[0].update.shape[-1])
    similarity = [0.0] * len(m)
    for f in flows:
        rows = f.update.reshape(m.shape).copy()
        for i, (old, g) in enumerate(zip(m, rows, strict=True)):
            lengths = np.linalg.norm(old) * np.linalg.norm(g)
            similarity[i] = tam_decay * similarity[i] + (1 - tam_decay) * (old @ g / lengths if lengths else 0)
            rows[i] = (tam_eps + (1 + similarity[i]) / 2) * g
        m = tam_beta * m + rows
        yield {"update": rows.reshape(f.update.shape)}


def nearest_of_256(x):
    """bitsandbytes' dynamic map by exhaustive search; one block, as all the streams here are short."""
    table = [0.0, 1.0]
    for e in range(7):
        edges = np.linspace(0.1, 1, 2**e + 1)
        table += [sign * 10 ** (e - 6) * middle for middle in (edges[1:] + edges[:-1]) / 2 for sign in (-1, 1)]
    table, scale = np.sort(table), np.abs(x).max()
    if scale == 0:
        return x
    return scale * table[np.abs(x[..., None] / scale - table).argmin(-1)]


def eight_bit_momentum(flows, momentum):
    kept = 0.0
    for f in flows:
        m = momentum * kept + (1 - momentum) * f.update
        yield {"update": m, "residual": f.update - m}
        kept = nearest_of_256(m)


def eight_bit_lr_mask(flows, mask_start, min_lr, max_lr, lr_bump, mask_steps):
    k, was = np.full_like(flows[0].grad, mask_start), np.zeros(flows[0].grad.shape, bool)
    for t, f in enumerate(flows, 1):
        if t < mask_steps:
            now = f.grad > 0
            k, was = np.clip(k + np.where(now == was, lr_bump, -lr_bump), min_lr, max_lr), now
        yield {"update": f.update * k / f.lr}
        k = nearest_of_256(k)


def dual_momentum(
    flows, momentum, beta1_decay, dual_beta, long_term_beta, alpha_mix_ratio, torque_steps, torque_beta, torque_eps
):
    a = (1 - momentum) / (1 - long_term_beta) if alpha_mix_ratio is None else alpha_mix_ratio
    s, seen, squares = 0.0, [], []
    for t, f in enumerate(flows, 1):
        seen.append(f.update)
        long = sum(long_term_beta**k * u for k, u in enumerate(reversed(seen)))
        mixed = momentum * long + a * f.update
        squares.append(mixed**2 + (a * f.update) ** 2)
        square = average(squares, dual_beta)
        z = np.divide(mixed, np.sqrt(square) + torque_eps, out=np.zeros_like(mixed), where=square > 0)
        if t < torque_steps:
            lengths = np.linalg.norm(mixed, axis=0) * np.linalg.norm(z, axis=0)
            cosine = np.divide((mixed * z).sum(0), lengths, out=np.zeros_like(lengths), where=lengths > 0)
            s = beta1_decay * s + (1 - beta1_decay) * cosine
            m = torque_beta * mixed + ((1 + s) / 2 + torque_eps) * z
        else:
            b = max(momentum * beta1_decay**t, 0.4)
            m = b * mixed + (1 - b) * z
        yield {"update": m, "residual": z - m, "processed": z, "regularized": f.grad}
