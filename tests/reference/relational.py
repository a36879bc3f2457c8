"""Relational guides by their definition, all pairs at once, in plain numpy."""

import math

import numpy as np


def ranges(x):
    """Distances over the largest of them."""
    distances = np.abs(x[:, None] - x[None, :])
    return distances / (distances.max(initial=0) or 1.0), distances


def by_rank(x, k):
    """multiplicity[i, j]: 1 for the k nearest of i; ties go to the nearer in sorted order, then to the left."""
    n, place = len(x), np.argsort(np.argsort(x, kind="stable"), kind="stable")
    chosen = np.zeros((n, n))
    for i in range(n):
        keys = (place > place[i], np.abs(place - place[i]), np.abs(x - x[i]))
        chosen[i, [j for j in np.lexsort(keys)[: k + 1] if j != i][:k]] = 1
    return chosen


def by_sharing(x, k):
    """multiplicity[i, j]: 1 below the k-th smallest distance; those at it share the places left."""
    n, k = len(x), min(k, len(x) - 1)
    chosen = np.zeros((n, n))
    for i in range(n if k > 0 else 0):
        distance = np.abs(x - x[i])
        distance[i] = np.inf
        far = np.sort(distance)[k - 1]
        chosen[i] = (distance < far) + (distance == far) * (k - (distance < far).sum()) / (distance == far).sum()
    return chosen


def everybody(x):
    return 1.0 - np.eye(len(x))


def sums(x, g, chosen, delta, distance="range", fading=1.0):
    """(sum_j w (g_i - g_j), sum_j w) over those chosen."""
    relative, distances = ranges(x)
    if distance == "local":
        far = np.where(chosen > 0, distances, 0).max(1, initial=0, keepdims=True)
        relative = distances / np.where(far == 0, 1, far)
    w = chosen / (fading * relative + delta)
    return (w * (g[:, None] - g[None, :])).sum(1), w.sum(1)


def row(x, g, chosen, delta=0.1, distance="range"):
    differences, weights = sums(x, g, chosen, delta, distance)
    return differences / np.where(weights == 0, 1, weights)


def guide(x, g, k=5, delta=0.1, distance="range", ties="rank"):
    return row(x, g, (by_rank if ties == "rank" else by_sharing)(x, k), delta, distance)


def divided(x, g, k, clip):
    """Version 0.6: over the nominal k, clipped."""
    return np.clip(sums(x, g, by_rank(x, k), 0.1)[0] / k, -clip, clip)


def _guided(flows, interval, guide, strength):
    """Relations from every interval-th parameter, gradients as they come."""
    x = None
    for t, f in enumerate(flows):
        if t % interval == 0:
            x = f.param.ravel()
        g = f.update.ravel()
        yield {"update": f.update + strength(g, t) * guide(x, g, t).reshape(f.update.shape)}


def relational(flows, beta, update_interval, k_neighbors, delta, distance, ties):
    def one(x, g, t):
        return guide(x, g, k_neighbors, delta, distance, ties)

    return _guided(flows, update_interval, one, lambda g, t: beta)


def all_pairs(flows, beta, update_interval):
    return _guided(flows, update_interval, lambda x, g, t: row(x, g, everybody(x)), lambda g, t: beta)


def published_relational(flows, beta_0, update_interval, k_neighbors, guide_clip):
    def one(x, g, t):
        return divided(x, g, k_neighbors, guide_clip)

    return _guided(flows, update_interval, one, lambda g, t: beta_0 / (1 + np.linalg.norm(g)))


def published_all_pairs(flows, beta_0, lambda_reg, guide_clip):
    def one(x, g, t):
        differences, _ = sums(x, g, everybody(x), 0.1, fading=(1 - lambda_reg) ** t)
        return np.clip(differences / len(x), -guide_clip, guide_clip)

    return _guided(flows, math.inf, one, lambda g, t: beta_0 / (1 + np.linalg.norm(g)) / (1 + 0.001 * t))


def clip_value(flows, clip_value):
    for f in flows:
        yield {"update": np.clip(f.update, -clip_value, clip_value)}
