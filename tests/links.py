"""One link alone, on a stream of plain numpy arrays: for hand-worked cases and independent references."""

from dataclasses import dataclass, fields

import numpy as np
import torch

from gradchain.optim_wrapper.layouts import WHOLE
from gradchain.types import Carry, Context, SharedTransform


@dataclass
class Flow:
    """What a link is given in one step, as float64 arrays."""

    update: np.ndarray
    grad: np.ndarray
    param: np.ndarray
    second_moment: np.ndarray
    lr: float = 0.1


def stream(*shape, steps=25, sparse=False, seed=0):
    """A random flow per step; in a sparse one most of the gradient's elements are 0."""
    random = np.random.default_rng(seed)
    flows = []
    for t in range(1, steps + 1):
        update, grad, param, second = (random.standard_normal(shape) for _ in range(4))
        if sparse:
            kept = random.random(shape) < 0.3
            update, grad, second = update * kept, grad * kept, second * kept
        flows.append(Flow(update, grad, param, second**2, lr=0.1 / t))
    return flows


def f64(value):
    return torch.tensor(value, dtype=torch.float64)


def run(link, flows):
    """The slots that the link writes, after each step; its state starts from the first parameter."""
    state = link.init(f64(flows[0].param))
    for t, flow in enumerate(flows, 1):
        carry = Carry(
            grad=f64(flow.grad),
            param=f64(flow.param),
            update=f64(flow.update),
            second_moment=f64(flow.second_moment),
            gate=f64(1.0),
        )
        ctx = Context(step=f64(float(t)), lr=f64(flow.lr), shared=None, layout=WHOLE)
        if isinstance(link, SharedTransform):
            (shared,) = link.share([link.measure(carry, state, ctx)], [])
            ctx = ctx._replace(shared=shared)
        carry, state = link.update(carry, state, ctx)
        yield {slot: getattr(carry, slot).numpy() for slot in link.writes}


def settings(link):
    """The link's hyperparameters by name."""
    return {f.name: getattr(link, f.name) for f in fields(link) if f.name != "name"}
