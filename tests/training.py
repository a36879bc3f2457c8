"""What tests of optimizers share: parameters, steps on a fixed loss, snapshots of everything a step may change."""

import copy

import torch
from torch import nn


def param(*shape, seed=0, dtype=torch.float32):
    return nn.Parameter(torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype))


def steps(optimizer, count=1, start=0):
    """Steps number start, start + 1, ...; frozen parameters get no gradient."""
    for i in range(start, start + count):
        for group in optimizer.param_groups:
            for p in group["params"]:
                p.grad = torch.sin(p.detach() + i) if p.requires_grad else None
        optimizer.step()


def snapshot(optimizer):
    return copy.deepcopy((optimizer.state_dict(), [p.detach() for g in optimizer.param_groups for p in g["params"]]))


def identical(a, b):
    """Same structure, same types, same bits."""
    if type(a) is not type(b):
        return False
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(identical(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(identical, a, b))
    return a == b


class Everything:
    """Which objects an optimizer has, and what they hold, to the bit."""

    def __init__(self, optimizer):
        self.optimizer, self.seen = optimizer, self.look(optimizer)
        self.content = copy.deepcopy(self.seen)

    @staticmethod
    def look(optimizer):
        groups = list(optimizer.param_groups)
        params = [p for group in groups for p in group["params"]]
        states = [dict(optimizer.state[p]) if p in optimizer.state else None for p in params]
        return [dict(group) for group in groups], params, states, dict(optimizer.defaults), len(optimizer.state)

    def unchanged(self):
        now, (groups, params, states, *_) = self.look(self.optimizer), self.seen
        same = all(a is b for a, b in zip(now[1], params, strict=True))
        same &= all(a.get(k) is b[k] for a, b in zip(now[0], groups, strict=True) for k in b)
        same &= all(a is b is None or all(a[k] is b[k] for k in b) for a, b in zip(now[2], states, strict=True))
        return same and identical(now, self.content)
