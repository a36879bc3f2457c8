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


LORA_KINDS = {"lora_down": "a", "lora_A": "a", "lora_up": "b", "lora_B": "b", "lokr_w1": "w1", "lokr_w2": "w2"}


def published_factors(params, ratio):
    """By parameter: ALoRA and LoKr factors of HinaAdamWOptimizer, for names of kohya and LyCORIS without decomposition."""
    kinds = {name: next((kind for part, kind in LORA_KINDS.items() if part in name), "") for name in params}
    bases = {}
    for name, kind in kinds.items():
        base = name.replace("lora_down", "*").replace("lora_up", "*").replace("lokr_w1", "*").replace("lokr_w2", "*")
        bases.setdefault(base, {})[kind] = name
    factors = dict.fromkeys(params, 1.0)
    for found in bases.values():
        if "a" in found and "b" in found:
            factors[found["a"]] = alora_factors(params[found["a"]], params[found["b"]], ratio)[0]
        elif "b" in found:
            factors[found["b"]] = ratio
        if "w1" in found and "w2" in found:
            both = 1 / (1 + 0.3 * np.linalg.norm(params[found["w1"]]) * np.linalg.norm(params[found["w2"]]))
            factors[found["w1"]], factors[found["w2"]] = both, both * 0.6 * ratio
    return factors


def cosine(x, y):
    lengths = np.linalg.norm(x.ravel()) * np.linalg.norm(y.ravel())
    return np.vdot(x, y) / lengths if lengths else 0.0


def hina_adamw(params, gradients, **s):
    """HinaAdamWOptimizer as one loop over whole tensors (section by section of its step); the parameters after each step.

    params: name -> array; gradients: a dict per step; s: the program's keywords. Scales before the step.
    """
    params = {name: value.copy() for name, value in params.items()}
    start = {name: value.copy() for name, value in params.items()}
    (b1, b2), moments, align = s["betas"], {name: (0 * p, 0 * p) for name, p in params.items()}, dict.fromkeys(params, 0.0)
    for t, grads in enumerate(gradients, 1):
        factors = published_factors(params, s["alora_ratio"]) if s["use_alora"] else dict.fromkeys(params, 1.0)
        for name, p in params.items():
            g = grads[name]
            if s["use_orthogonal_grad"] and p.ndim >= 2 and np.vdot(p, p) > 0:
                g = g - np.vdot(p, g) / np.vdot(p, p) * p
            if s["use_agr"] and np.linalg.norm(g.ravel()) > 0:
                g = g * (1 + abs(g.sum()) / np.linalg.norm(g.ravel()))
            m, old = moments[name]
            m, v = b1 * m + (1 - b1) * g, b2 * old + (1 - b2) * g * g
            moments[name] = m, v
            u = m / (np.sqrt(old if s["use_adopt_stability"] and t > 1 else v) + s["eps"])
            if s["use_tam"]:
                align[name] = s["tam_beta"] * align[name] + (1 - s["tam_beta"]) * cosine(m, g)
                u = u * (1 + align[name]) / 2
            u = np.abs(u) * np.sign(g) if s["use_grams"] else u
            u = u * (u * g > 0) if s["use_cautious"] else u
            p = p - s["lr"] * np.sqrt(1 - b2**t) / (1 - b1**t) * factors[name] * u
            kind = next((kind for kind in ("lokr", "lora_down", "lora_up") if kind in name), "")[:4]
            if not s["dynamic_weight_decay"]:
                kind = ""
            k = fading(t, s["wd_min_ratio"], s["wd_decay_factor"], s["wd_transition_steps"], kind)
            p = p * (1 - s["lr"] * s["weight_decay"] * k)
            if s["use_spd"]:
                away, size = p - start[name], np.linalg.norm(p.ravel())
                p = p - s["lr"] * s["spd_lambda"] * (np.linalg.norm(away.ravel()) / size if size else 0) * away
            params[name] = p
        yield dict(params)
