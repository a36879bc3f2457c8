"""Averages of weights, second moments, distances of steps, in plain numpy."""

import numpy as np


def corrected_second_moment(flows, beta2):
    v = 0.0
    for t, f in enumerate(flows, 1):
        v = v + (1 - beta2) * (f.update**2 - v)
        yield {"second_moment": v / (1 - beta2**t)}


def schedule_free(flows, momentum, r, weight_lr_power, warmup_steps):
    """By the three sequences of the paper, from a parameter that is taken for y at every step."""
    z, total, largest = flows[0].param, 0.0, 0.0
    for t, f in enumerate(flows, 1):
        warm = min(1.0, t / warmup_steps) if warmup_steps else 1.0
        largest = max(largest, f.lr * warm)
        weight = t**r * largest**weight_lr_power
        total += weight
        c = weight / total
        x = (f.param - (1 - momentum) * z) / momentum
        z = z - warm * f.update
        x = (1 - c) * x + c * z
        yield {"update": f.param - ((1 - momentum) * z + momentum * x)}


def nothing(flows, **_):
    for _ in flows:
        yield {}


def ema(steps, start, ema_decay):
    """The average of the weights after each step."""
    average, weights, found = start, start, []
    for step in steps:
        weights = weights - step
        average = ema_decay * average + (1 - ema_decay) * weights
        found.append(np.array(average))
    return found
