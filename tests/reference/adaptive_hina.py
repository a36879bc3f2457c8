"""AdaptiveHinaAdamW as one program over several tensors, with its discovery of relations repaired where wanted, in numpy."""

import numpy as np
from reference.hina import angle, fading
from reference.hina_scales import fit, parts, worth

PUBLISHED = {
    "lr": 1e-3,
    "betas": (0.9, 0.999),
    "eps": 1e-8,
    "weight_decay": 1e-2,
    "use_spd": True,
    "spd_lambda": 0.06,
    "use_cautious": True,
    "use_orthogonal_grad": False,
    "use_adopt_stability": True,
    "use_agr": True,
    "use_tam": True,
    "tam_beta": 0.999,
    "use_dynamic_adaptation": True,
    "adaptation_strength": 1.0,
    "relationship_discovery_interval": 100,
    "importance_decay": 0.95,
    "compatibility_threshold": 0.3,
    "use_lr_mask": True,
    "lr_bump": 3e-6,
    "min_lr": 1e-7,
    "max_lr": 1e-3,
    "warmup_steps": 500,
    "dynamic_weight_decay": True,
    "wd_transition_steps": 1000,
    "wd_decay_factor": 0.7,
    "wd_min_ratio": 0.1,
}


class Program:
    """Takes one list of gradients a step; what it has made of the parameters stands in ``params``."""

    def __init__(self, params, relations=False, **settings):
        self.settings = PUBLISHED | settings
        self.relations, self.related = relations, {}
        self.params, self.start = [p.copy() for p in params], [p.copy() for p in params]
        self.first, self.second = ([np.zeros_like(p) for p in params] for _ in range(2))
        self.aligned, self.scores, self.sizes = [0.0] * len(params), [1.0] * len(params), [0.0] * len(params)
        self.norms = [[] for _ in params]
        self.rates = [np.full_like(p, self.settings["lr"]) for p in params]
        self.signs = [np.zeros(p.shape, dtype=bool) for p in params]
        self.total, self.own = 0, [0] * len(params)  # steps of the optimizer, and of each tensor

    def step(self, grads, lr=None):
        """A gradient may be None; lr is what a scheduler has made of the learning rate."""
        self.total += 1
        self.lr = self.settings["lr"] if lr is None else lr
        if self.total % self.settings["relationship_discovery_interval"] == 0 and self.settings["use_dynamic_adaptation"]:
            self.refresh([np.zeros_like(p) if g is None else g for g, p in zip(grads, self.params, strict=True)])
        before = [p.copy() for p in self.params]
        for i, grad in enumerate(grads):
            if grad is None:
                continue
            self.own[i] += 1
            u, g = self.direction(i, grad, before[i])
            moved = before[i] - self.lr * self.scale(i, g, before) * u
            self.params[i] = self.settled(i, moved)

    def refresh(self, grads):
        s = self.settings
        for i, (grad, param) in enumerate(zip(grads, self.params, strict=True)):
            steady, change, variance = parts(grad, param, self.norms[i], self.sizes[i])
            norm = np.linalg.norm(grad.ravel())
            value = 0.01 if param.size == 1 else max(0.01, 0.4 * steady * norm + 0.3 * change + 0.3 * variance)
            self.scores[i] += (1 - s["importance_decay"]) * (value - self.scores[i])
            self.norms[i].append(norm)
            self.sizes[i] = self.sizes[i] or np.linalg.norm(param.ravel())
        matrices = [i for i, p in enumerate(self.params) if p.ndim == 2] if self.relations else []
        for i in matrices:
            for j in matrices:
                if j > i and (c := fit(self.params[i], self.params[j])) > s["compatibility_threshold"]:
                    self.related[i] = (j, c)

    def direction(self, i, g, param):
        s, (b1, b2) = self.settings, self.settings["betas"]
        if s["use_agr"]:
            g = g / max(1.0, np.linalg.norm(g.ravel()))
        if s["use_orthogonal_grad"] and g.size > 1:  # what is orthogonal to one element is rounding noise
            beside = g - (param * g).sum() / (param * param).sum() * param
            left = np.linalg.norm(beside.ravel())
            g = beside * np.linalg.norm(g.ravel()) / left if left else g
        self.first[i] = b1 * self.first[i] + (1 - b1) * g
        old, self.second[i] = self.second[i], b2 * self.second[i] + (1 - b2) * g**2
        second = np.maximum(old, self.second[i]) if s["use_adopt_stability"] else self.second[i]
        u = self.first[i] / (1 - b1 ** self.own[i]) / (np.sqrt(second / (1 - b2 ** self.own[i])) + s["eps"])
        if s["use_tam"]:
            self.aligned[i] = s["tam_beta"] * self.aligned[i] + (1 - s["tam_beta"]) * angle(self.first[i], g)
            u = u * (1 + self.aligned[i]) / 2
        if s["use_cautious"] and u.any() and g.any() and angle(u, g) < 0.1:
            u = u / 2
        return u, g

    def scale(self, i, g, params):
        s, factor = self.settings, 1.0
        if s["use_dynamic_adaptation"]:
            factor = np.clip(s["adaptation_strength"] * self.scores[i], 0.1, 3)
            if i in self.related:
                j, c = self.related[i]
                factor = factor * worth(params[i], params[j], c)
            factor = np.clip(factor, 0.01, 5)
        if s["use_lr_mask"]:
            if self.total < s["warmup_steps"]:
                bumped = self.rates[i] + np.where((g > 0) == self.signs[i], s["lr_bump"], -s["lr_bump"])
                self.rates[i], self.signs[i] = np.clip(bumped, s["min_lr"], s["max_lr"]), g > 0
            factor = factor * (self.rates[i] / s["lr"]).mean()
        return np.clip(factor, 0.001, 10) if s["use_lr_mask"] or s["use_dynamic_adaptation"] else 1.0

    def settled(self, i, moved):
        s = self.settings
        shape = (s["wd_transition_steps"], s["wd_decay_factor"], s["wd_min_ratio"], 2)
        fade = fading(self.own[i], *shape) if s["dynamic_weight_decay"] else 1.0
        moved = moved * (1 - self.lr * s["weight_decay"] * fade)
        size = np.linalg.norm(moved.ravel())
        if s["use_spd"] and size:
            gone = moved - self.start[i]
            moved = moved - self.lr * s["spd_lambda"] * np.linalg.norm(gone.ravel()) / size * gone
        return moved
