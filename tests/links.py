"""One link alone, on a stream of plain numpy arrays: for hand-worked cases and independent references."""

from dataclasses import dataclass

import numpy as np
import torch

from gradchain import transforms
from gradchain.optim_wrapper.drivers.flow import due
from gradchain.optim_wrapper.layouts import WHOLE
from gradchain.types import Carry, Context, ParamInfo, SharedTransform

TECHNIQUES = set(transforms.__all__) - {"Phase"}


@dataclass
class Flow:
    """What a link is given in one step, as float64 arrays."""

    update: np.ndarray
    grad: np.ndarray
    param: np.ndarray
    second_moment: np.ndarray
    lr: float = 0.1
    residual: np.ndarray | float = 0.5


def stream(*shape, steps=25, sparse=False, seed=0):
    """A random flow per step; in a sparse one most of the gradient's elements are 0."""
    random = np.random.default_rng(seed)
    flows = []
    for t in range(1, steps + 1):
        update, grad, param, second, residual = (random.standard_normal(shape) for _ in range(5))
        if sparse:
            kept = random.random(shape) < 0.3
            update, grad, second = update * kept, grad * kept, second * kept
        flows.append(Flow(update, grad, param, second**2, lr=0.1 / t, residual=residual))
    return flows


def f64(value):
    return torch.tensor(value, dtype=torch.float64)


def advance(link, carry, state, ctx):
    """One step of one link; a shared link meets nobody but itself."""
    if isinstance(link, SharedTransform):
        (shared,) = link.share([link.measure(carry, state, ctx)], [ParamInfo("0.0", carry[1], {})])
        ctx = ctx._replace(shared=shared)
    if link.refresh_schedule is not None and due(link.refresh_schedule, ctx.step):
        state = link.refresh(carry, state, ctx)
    return link.update(carry, state, ctx)


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
            processed=f64(flow.grad),
            residual=f64(flow.residual),
            regularized=f64(flow.grad),
            scale=f64(1.0),
            bump_scale=f64(1.0),
            eps_scale=f64(1.0),
        )
        ctx = Context(step=f64(float(t)), lr=f64(flow.lr), shared=None, layout=WHOLE)
        carry, state = advance(link, carry, state, ctx)
        yield {slot: getattr(carry, slot).numpy() for slot in link.writes}


def settings(link):
    """The link's hyperparameters by name."""
    return {field: getattr(link, field) for field in link.hyperparameters()}
