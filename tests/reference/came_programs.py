"""CAME, Automagic and CameAMP's first twin in 8 bits as whole programs, in plain numpy; called as those in cameamp_programs."""

import numpy as np
from reference.cameamp import nearest_of_256
from reference.cameamp_programs import clip_rms, origin, projected, tick


def scaled(s, key, x, square, beta):
    """x over the root of the averages of the rows' and the columns' mean squares; of a vector, of the whole average."""
    if x.ndim < 2:
        s[key] = beta * s.get(key, 0) + (1 - beta) * square
        return x / np.sqrt(s[key])
    row, column = s.get(key, (0, 0))
    row, column = (beta * old + (1 - beta) * square.mean(i, keepdims=True) for old, i in ((row, -1), (column, -2)))
    s[key] = row, column
    return x / np.sqrt(row / row.mean(-2, keepdims=True)) / np.sqrt(column)


def confident(c, s, u, beta):
    """Momentum over the root of what it misses; of a vector, momentum."""
    m = s["m"]
    return scaled(s, "missed", m, (u - m) ** 2 + c["eps"][1], beta) if m.ndim > 1 else m


def came(c, s, w, g, lr, all):
    b1, b2, b3 = c["betas"]
    u = clip_rms(scaled(s, "v", g, g**2 + c["eps"][0], b2), c["clip_threshold"])
    s["m"] = b1 * s.get("m", 0) + (1 - b1) * u
    return w * (1 - lr * c["weight_decay"]) - lr * confident(c, s, u, b3)


def automagic(c, s, w, g, lr, all):
    """The mask is applied as it is and kept in 8 bits; no schedule reaches it."""
    u = clip_rms(scaled(s, "v", g, g**2 + c["eps"], c["beta2"]), c["clip_threshold"])
    start = 1e-6 if c["lr"] > 1e-3 else c["lr"]
    k, was = s.get("mask", np.full_like(g, start)), s.get("positive", np.zeros(g.shape, bool))
    k = np.clip(k + np.where((u > 0) == was, c["lr_bump"], -c["lr_bump"]), c["min_lr"], c["max_lr"])
    quantum = k.max() / 127
    s["mask"], s["positive"] = quantum * np.clip(np.round(k / quantum), -127, 127), u > 0
    return w - c["weight_decay"] * k * w - k * u


def original_8bit(c, s, w, g, lr, all):
    """Momentum and mask are applied as they are and kept in 8 bits; the mask is rounded in every step, learning or not.

    Without the 1e-12 that the program adds to the mean of the rows.
    """
    (t, s), (b1, b2, b3), anchor = tick(s), c["betas"], origin(c, s, w)
    u = clip_rms(scaled(s, "v", g, g**2 + c["eps"][0], b2), c["clip_threshold"])
    s["m"] = b1 * s.get("kept", 0) + (1 - b1) * u
    s["kept"] = nearest_of_256(s["m"])
    k, learning = s.get("mask", np.full_like(g, c["lr"])), t <= c["warmup_steps"]
    if learning:
        same = (g > 0) == s.get("positive", np.zeros(g.shape, bool))
        k, s["positive"] = np.clip(k + np.where(same, c["lr_bump"], -c["lr_bump"]), c["min_lr"], c["max_lr"]), g > 0
    s["mask"] = nearest_of_256(k)
    step = k * confident(c, s, u, b3)
    return projected(c, w, step, anchor, (g * (w - anchor)).sum())[0] if learning else w - step
