"""Scales, decays and limits of the step, in plain numpy."""

import numpy as np


def rms(x):
    return np.sqrt((x**2).mean()) if x.size else 0.0


def normalize(flows, eps):
    for f in flows:
        yield {"update": f.update / (np.sqrt(f.second_moment) + eps)}


def variance_floor(flows, floor, floor_min_size):
    for f in flows:
        v = f.second_moment
        yield {"second_moment": np.maximum(v, floor) if v.size >= floor_min_size else v}


def clip_rms(flows, d):
    for f in flows:
        yield {"update": f.update / max(1, rms(f.update) / d)}


def parameter_scale(flows, eps2):
    for f in flows:
        yield {"update": f.update * max(eps2, rms(f.param))}


def learning_rate(flows, lr):
    for f in flows:
        yield {"update": lr * f.update}


def relative_step(flows, lr):
    for t, f in enumerate(flows, 1):
        yield {"update": min(lr, 1 / np.sqrt(t)) * f.update}


def inverse_time(flows, lr_decay):
    for t, f in enumerate(flows, 1):
        yield {"update": f.update / (1 + (t - 1) * lr_decay)}


def decay(flows, weight_decay):
    for f in flows:
        yield {"update": f.update + weight_decay * f.param}


def scaled_decay(flows, weight_decay):
    """w - update must be (1 - lr wd) w less the step."""
    for f in flows:
        yield {"update": f.param - ((1 - f.lr * weight_decay) * f.param - f.update)}


def decay_after(flows, weight_decay):
    """w - update must be (1 - lr wd) (w less the step)."""
    for f in flows:
        yield {"update": f.param - (1 - f.lr * weight_decay) * (f.param - f.update)}


def spd(flows, spd_lambda):
    """Algorithm 1: condition on the gradient, ratio of the distances from the anchor, projection."""
    anchor = flows[0].param
    for f in flows:
        new = f.param - f.update
        if -(f.grad * (f.param - anchor)).sum() < 0:
            far, near = np.linalg.norm(new - anchor), np.linalg.norm(f.param - anchor)
            new = new - spd_lambda * np.clip((far - near) / far, 0, 1) * (new - anchor)
        yield {"update": f.param - new}


PROFILES = {
    "lorentz": lambda r: r / np.sqrt(1 + r**2),
    "tanh": np.tanh,
    "hard": lambda r: np.minimum(r, 1),
    "published": lambda r: np.where(r < 1, r * np.sqrt(np.maximum(1 - r**2, 0)), np.tanh(r)),
}


def speed_limit(flows, speed_limit, speed_profile, speed_warmup_steps, by_element=False):
    """Length c s(|u| / c) in the direction of u."""
    for t, f in enumerate(flows, 1):
        c = speed_limit * min(1, t / speed_warmup_steps) if speed_warmup_steps else speed_limit
        length = np.abs(f.update) if by_element else np.linalg.norm(f.update)
        direction = np.divide(f.update, length, out=np.zeros_like(f.update), where=length > 0)
        yield {"update": c * PROFILES[speed_profile](length / c) * direction}


def component_speed_limit(flows, **settings):
    return speed_limit(flows, **settings, by_element=True)


def apply_scale(flows):
    for flow in flows:
        yield {"update": flow.update}


def clip_scale(flows, scale_range):
    low, high = scale_range
    for _ in flows:
        yield {"scale": np.array(min(max(1.0, low), high))}


def signal(flows):
    for flow in flows:
        yield {"processed": flow.update}
