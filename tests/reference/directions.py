"""Momentum, alignment with the gradient, regularized and damped gradients, in plain numpy."""

import numpy as np


def heavy_ball(flows, momentum, dampening):
    b = None
    for f in flows:
        b = f.update if b is None else momentum * b + (1 - dampening) * f.update
        yield {"update": b}


def nesterov(flows, momentum):
    b = 0.0
    for f in flows:
        b = momentum * b + f.update
        yield {"update": f.update + momentum * b}


def lion(flows, betas):
    (b1, b2), m = betas, 0.0
    for f in flows:
        yield {"update": np.sign(b1 * m + (1 - b1) * f.update)}
        m = b2 * m + (1 - b2) * f.update


def cautious(flows, floor):
    for f in flows:
        agrees = f.update * f.grad > 0
        yield {"update": np.where(agrees, f.update, 0) / max(agrees.mean(), floor)}


def grams(flows):
    for f in flows:
        yield {"update": np.sign(f.grad) * np.abs(f.update)}


def agr(flows):
    for f in flows:
        total = np.abs(f.update).sum()
        yield {"update": f.update - (np.abs(f.update) / total * f.update if total else 0)}


def orthogonal(flows, tolerance):
    """The part of g beside w by Pythagoras' construction on unit vectors, at the length of g."""
    for f in flows:
        g, w = f.update.ravel(), f.param.ravel()
        unit = w / np.linalg.norm(w)
        o = g - (g @ unit) * unit
        beside = np.linalg.norm(o) > tolerance * np.linalg.norm(g)
        yield {"update": (o * np.linalg.norm(g) / np.linalg.norm(o) if beside else g).reshape(f.update.shape)}


def tam(flows, tam_beta, tam_decay, tam_eps):
    m, similarity = np.zeros_like(flows[0].update), 0.0
    for f in flows:
        lengths = np.linalg.norm(m) * np.linalg.norm(f.update)
        cosine = (m * f.update).sum() / lengths if lengths else 0.0
        similarity = tam_decay * similarity + (1 - tam_decay) * cosine
        damped = (tam_eps + (1 + similarity) / 2) * f.update
        m = tam_beta * m + damped
        yield {"update": damped}
