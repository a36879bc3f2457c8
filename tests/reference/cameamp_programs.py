"""The published CameAMP programs as a whole, in plain numpy: one step of one tensor, by the equations of each version.

Each takes the keywords (c), the tensor's memory (s, a dict that is empty at first), the parameter (w), its gradient (g), the
group's learning rate, and what the group's gradients have in common (all): their elements in one vector. It gives the new w.
"""

import numpy as np
from numpy.linalg import norm


def clip_rms(x, limit):
    return x / max(1, norm(x) / np.sqrt(x.size) / limit)


def laplacian(x, ranks):
    """|second differences| in the last two dimensions, where both have an inside."""
    out = np.zeros_like(x)
    if x.ndim in ranks and min(x.shape[-2:]) > 2:
        out[..., 1:-1, :] += x[..., 2:, :] - 2 * x[..., 1:-1, :] + x[..., :-2, :]
        out[..., :, 1:-1] += x[..., :, 2:] - 2 * x[..., :, 1:-1] + x[..., :, :-2]
    return abs(out)


def edges(x, threshold, ranks):
    found = laplacian(x, ranks)
    return found * (found > threshold)


def spectrum_without_phase(x):
    h, w = x.shape
    y, z = np.mgrid[:h, :w]
    far = np.hypot(y - h // 2, z - w // 2) > 0.3 * min(h, w)
    return np.fft.ifft2(abs(np.fft.fft2(x)) * far).real


def steps_before(x):
    out = np.zeros_like(x)
    if min(x.shape) > 1:
        out[:, 1:] += abs(x[:, 1:] - x[:, :-1])
        out[1:, :] += abs(x[1:, :] - x[:-1, :])
    return out


def columns(x):
    return x / np.maximum(norm(x, axis=0), 1e-12)


def orthogonal(u, w):
    o = u - (w * u).sum() / (w * w).sum() * w
    return o * (norm(u) / norm(o))


def cautious(u, g):
    kept = (u * g > 0) * 1.0
    return u * kept / max(kept.mean(), 1e-3)


def mask(c, s, g, lr, t, rise=1.0, fall=1.0, floor=0.0, start=1e-6):
    """The learning rates of the elements at this step."""
    k, top = s.get("mask", np.full_like(g, c["lr"])), s.get("top", start)
    if t < c["warmup_steps"]:
        was, now = s.get("positive", np.zeros(g.shape, bool)), g > 0
        k = np.where(was == now, k + c["lr_bump"] * rise, k - c["lr_bump"] * fall) + max(0, lr - top)
        s["mask"], s["positive"], s["top"] = np.clip(k, c["min_lr"], c["max_lr"]), now, max(top, lr)
        return s["mask"]
    s["top"] = max(top, lr)
    return k * max(min(1, lr / s["top"]), floor)


def torque(s, u, emphasis=1.0, decay=0.9, eps=1e-30):
    """The early sum of updates, after s["torque"] has taken in how momentum and update agree."""
    m = s.get("m", 0 * u)
    s["torque"] = 0.9 * s.get("torque", 0) + 0.1 * columns(m) * columns(u)
    return decay * m + ((1 + emphasis * s["torque"]) / 2 + eps) * u


def confidence(s, missed, beta, eps):
    s["missed"] = beta * s.get("missed", 0) + (1 - beta) * (missed**2 + eps)
    return s["missed"] ** -0.5


def projected(c, w, u, anchor, uphill, factor=1.0):
    """(the new parameter, whether it was drawn to the anchor)"""
    n = w - u
    if uphill <= 0:
        return n, False
    far = norm(n - anchor)
    r = np.clip((far - norm(w - anchor)) / (far + 1e-8), 0, 1)
    return n - c["weight_decay"] * factor * r * (n - anchor), True


def lagging(s, w, new, fired):
    s["anchor"] = new if fired else w
    return new


def tick(s):
    s["t"] = s.get("t", 0) + 1
    return s["t"], s


def regularized(c, w, g, all, ranks, penalty):
    share = abs(g) / (abs(all).sum() + 1e-10)
    if c["edge_suppression"]:
        share = share * (1 + c["edge_penalty"] * edges(g, c["edge_threshold"], ranks))
    a = g * (1 - share)
    return a - c["frequency_penalty"] * penalty(a) if c["spatial_awareness"] and g.ndim == 2 else a


def second_moment(s, a, eps):
    s["v"] = 0.999 * s.get("v", 0) + 0.001 * (a**2 + eps)
    return a / np.sqrt(s["v"])


def suppressed(c, s, u, ranks):
    s["edges"] = 0.9 * s.get("edges", 0) + 0.1 * edges(u, 0.6, ranks)
    return u * np.clip(1 - c["edge_penalty"] * s["edges"], 0.1, 1)


def directed(c, s, u, signal, early, ranks):
    """Grams and edge suppression, later Cautious and background regularization."""
    if early:
        u = abs(u) * np.sign(signal)
        return suppressed(c, s, u, ranks) if c["edge_suppression"] else u
    still = c["background_regularization"] and (signal.size == 1 or signal.var(ddof=1) < 1e-6)
    return cautious(u, signal) * (0.5 if still else 1)


def spatial(c, s, signal):
    """The factor on the bumps, from the variances of the steps before."""
    if not c["spatial_awareness"]:
        return 1.0
    q = s.get("variance", np.ones(signal.shape))
    s["variance"] = q
    if signal.ndim >= 2:
        along = signal.var(-1, ddof=1, keepdims=True) if signal.shape[-1] > 1 else 1.0
        s["variance"] = 0.9 * q + 0.1 * along
    return np.clip(c["detail_preservation"] * q, 0.5, 1.5)


def improved(c, s, w, g, lr, all):
    (t, s), matrix, ranks = tick(s), c["lora_rank_penalty"] and w.ndim == 2, (2, 3, 4)
    early, half = t < c["warmup_steps"] / 2, c["betas"]
    a = regularized(c, w, g, all, ranks, spectrum_without_phase) + c["rank_penalty_strength"] * w * bool(matrix)
    u = clip_rms(second_moment(s, a, c["eps"][0]), c["clip_threshold"]) if c["came"] else a
    if early:
        s["m"] = torque(s, u, c["low_rank_emphasis"] if matrix else 1.0, eps=c["eps"][0])
    else:
        b = max(half[0] * c["beta1_decay"] ** t, 0.4)
        s["m"] = b * s.get("m", 0) + (1 - b) * u
    step = s["m"] * confidence(s, u - s["m"], 0.9999 if early else half[2], c["eps"][1])
    bumps = spatial(c, s, a)
    if c["orthogonal"] and early:
        step = orthogonal(step, w)
    step = directed(c, s, step, a, early, ranks) * mask(c, s, a, lr, t, bumps, bumps)
    if t >= c["warmup_steps"]:
        return w - step
    factor = 1 + np.exp(-0.1 * np.arange(min(w.shape))).mean() if matrix else 1.0
    anchor = s.get("anchor", 0 * w)
    return lagging(s, w, *projected(c, w, step, anchor, (a * (w - anchor)).sum(), factor))


def dual(c, s, w, g, lr, all):
    (t, s), ranks, (b1, b2, b3) = tick(s), (2,), c["betas"]
    early, y = t < c["warmup_steps"] // 2, c["beta1_decay"]
    a = regularized(c, w, g, all, ranks, steps_before)
    u = clip_rms(second_moment(s, a, c["eps"][0]), 1.0) * c["clip_threshold"] if c["came"] else a
    mix = c["alpha_mix_ratio"] if c["alpha_mix_ratio"] is not None else (1 - b1) / (1 - c["long_term_beta"])
    s["long"] = c["long_term_beta"] * s.get("long", 0) + u
    both = b1 * s["long"] + mix * u
    s["square"] = b2 * s.get("square", 0) + (1 - b2) * (both**2 + (mix * u) ** 2)
    z = both / (np.sqrt(s["square"]) + c["eps"][0])
    if early:
        cosine = (both * z).sum(0) / np.maximum(norm(both, axis=0) * norm(z, axis=0), 1e-12)
        s["torque"] = y * s.get("torque", 0) + (1 - y) * cosine
        m = 0.9 * both + ((1 + s["torque"]) / 2 + c["eps"][0]) * z
    else:
        b = max(b1 * y**t, 0.4)
        m = b * both + (1 - b) * z
    step = m * confidence(s, z - m, 0.9999 if early else b3, c["eps"][1])
    slope, bumps = (a * w).sum(), spatial(c, s, z)
    first = t < c["warmup_steps"] / 2
    rise, fall = (bumps * (c["d_coef"] if first and side else 1) for side in (slope < 0, slope > 0))
    step = directed(c, s, orthogonal(step, w) if early else step, z, early, ranks) * mask(c, s, z, lr, t, rise, fall)
    if t >= c["warmup_steps"]:
        return w - step
    return lagging(s, w, *projected(c, w, step, s.get("anchor", w), slope))


def origin(c, s, w):
    if "start" not in s:
        s["start"] = w if c["full_finetune"] else 0 * w
    return s["start"]


def original(c, s, w, g, lr, all):
    (t, s), (b1, b2, b3), W = tick(s), c["betas"], c["warmup_steps"]
    s["v"] = b2 * s.get("v", 0) + (1 - b2) * (g**2 + c["eps"][0])
    u, early, anchor = clip_rms(g / np.sqrt(s["v"]), c["clip_threshold"]), t < W / 2, origin(c, s, w)
    s["m"] = torque(s, u, decay=b1, eps=c["eps"][0]) if early else b1 * s.get("m", 0) + (1 - b1) * u
    step = s["m"] * confidence(s, u - s["m"], b3, c["eps"][1])
    step = (abs(step) * np.sign(g) if early else cautious(step, g)) * mask(c, s, g, lr, t, start=c["lr"])
    if t < W:
        return projected(c, w, step, anchor, (g * (w - anchor)).sum())[0]
    return synchronized(c, s, w - step, w, t)


def synchronized(c, s, n, w, t):
    """Multilayer lookahead from W to 2 W."""
    if t == c["warmup_steps"]:
        s["slow"], s["meetings"] = [w] * c["la_layers"], [0] * c["la_layers"]
    if t >= 2 * c["warmup_steps"] or t % c["ks"][0] or not c["la_layers"]:
        return n
    layers = [n, *s["slow"]]
    for k in range(1, len(layers)):
        if k > 1:
            s["meetings"][k - 1] += 1
            if s["meetings"][k - 1] % c["ks"][k - 1]:
                break
        layers[k] = layers[k] + c["alphas"][k - 1] * (layers[k - 1] - layers[k])
        layers[k - 1] = layers[k]
    s["slow"] = layers[1:]
    return layers[0]


def rows(c, s, w):
    if "rows" not in s:
        small = (norm(w, axis=1, keepdims=True) + c["eta"] ** -2) ** -0.5 if w.ndim == 2 else 1.0
        s["rows"] = 1.0 if c["full_finetune"] else small
    return s["rows"]


def adopt(c, s, w, g, lr, all):
    (t, s), (b1, b2, b3), scale, anchor = tick(s), c["betas"], rows(c, s, w), origin(c, s, w)
    a, early = g * (1 - abs(g) / abs(all).sum()), t < c["warmup_steps"] / 2
    if t == 1:
        s["v"] = a**2
        return w
    u = np.clip(a / np.maximum(np.sqrt(s["v"]), 1e-6), -(t**0.25), t**0.25)
    s["v"] = b2 * s["v"] + (1 - b2) * a**2
    b = max(b1 * c["beta1_decay"] ** t, 0.4)
    s["m"] = torque(s, u, eps=c["eps"][0]) if early else b * s.get("m", 0) + (1 - b) * u
    step = s["m"] * confidence(s, u - s["m"], 0.9999 if early else b3, c["eps"][1])
    step = orthogonal(abs(step) * np.sign(a), w) if early else cautious(step, a)
    step = step * scale * mask(c, s, a, lr, t, floor=0.1)
    return projected(c, w, step, anchor, (a * (w - anchor)).sum())[0] if t < c["warmup_steps"] else w - step


def fading(c, s, w, g, a, u, lr, all, beta3, raised):
    """What the last version and the copy without a second moment have in common."""
    t, early, (b1, _, _) = s["t"], s["t"] < c["warmup_steps"] / 2, c["betas"]
    b = max(b1 * c["beta1_decay"] ** t, 0.4)
    s["m"] = torque(s, u, eps=c["eps"][0]) if early else b * s.get("m", 0) + (1 - b) * u
    mean = s["m"] if early else b1 * s["m"] + (1 - b1) * u
    step = s["m"] * (confidence(s, u - mean, beta3, c["eps"][1]) + raised)
    blend = c["beta1_decay"] ** t
    step = blend * abs(step) * np.sign(a) + (1 - blend) * step
    k = s["rows"] * mask(c, s, a, lr, t, floor=0.1)
    if not early:
        return w - k * step
    z = (abs(g).mean() - abs(all).mean()) / abs(all).std()
    return w * (1 - k * c["weight_decay"] * 2 / (1 + np.exp(-4 * z))) - k * orthogonal(step, w)


def last(c, s, w, g, lr, all):
    (t, s), _ = tick(s), rows(c, s, w)
    a = g * (1 - abs(g) / abs(all).sum())
    if c["came"]:
        old = s.get("v", 0)
        s["v"] = a**2 + c["eps"][0] if t == 1 else c["betas"][1] * old + (1 - c["betas"][1]) * (a**2 + c["eps"][0])
        if t == 1:
            return w
        u = clip_rms(a / np.sqrt(old), c["clip_threshold"])
    else:
        u = np.clip(a, -(t**0.25), t**0.25)
    return fading(c, s, w, g, a, u, lr, all, c["betas"][2], c["eps"][1])


def ges(c, s, w, g, lr, all):
    (t, s), _ = tick(s), rows(c, s, w)
    a = np.clip(g * (1 - abs(g) / abs(all).sum()), -(t**0.25), t**0.25)
    return fading(c, s, w, g, a, a, lr, all, 0.9999 if t < c["warmup_steps"] / 2 else c["betas"][2], 0.0)
