"""Sharded parameters in a plan: where the chain asks nothing of other ranks, a rank's piece runs as any tensor does."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from gradchain.optim_wrapper.drivers.graphs import TRACING
from gradchain.optim_wrapper.drivers.program import Program, split
from gradchain.optim_wrapper.layouts import WHOLE, Pieces
from gradchain.optim_wrapper.numbers import counts
from gradchain.optim_wrapper.rows import Row
from gradchain.optim_wrapper.shards import elements, layout_of, local
from gradchain.types import Layout, SharedTransform


def layout_in_plan(param: Tensor) -> Layout:
    """Where the elements are of which a plan runs those on this rank."""
    layout = layout_of(param, elements(local(param.detach())))
    return WHOLE if layout is None else Pieces(layout.whole_shape, layout.local_shape, layout.cuts)


def cut(param: Tensor) -> Hashable:
    """How a parameter is sharded; None where it is not."""
    layout = layout_in_plan(param)
    if not isinstance(layout, Pieces):
        return None
    return (tuple(layout.whole_shape), tuple(layout.local_shape), tuple((d, *dims) for d, dims in layout.cuts.items()))


def near(grad: Tensor | None) -> Tensor | None:
    """This rank's piece of a gradient."""
    piece: Any = None if grad is None else local(grad)
    return piece.wait() if hasattr(piece, "wait") else piece  # on its way from other ranks


def cut_alike(grad: Tensor | None, param: Tensor) -> bool:
    """Whether a gradient is cut as the parameter is. Otherwise ranks have to exchange it, which jobs do in one order on all."""
    return grad is None or getattr(grad, "placements", None) == getattr(param, "placements", None)


def asks_nothing(row: Row, known: dict[Hashable, bool]) -> bool:
    """Whether the chain never asks other ranks on its way to this parameter's step; found on fake tensors, once for a kind."""
    param, keys = row.info.param, [key for key in row.state if not counts(key)]
    fixed, _ = split(row.links)
    forms = tuple((local(row.state[key]).shape, row.state[key].dtype) for key in keys)
    key = (fixed, cut(param), param.dtype, row.used, forms)
    if key not in known:
        known[key] = _asks_nothing(row, keys)
    return known[key]


def _asks_nothing(row: Row, keys: Sequence[str]) -> bool:
    param = row.info.param
    if any(isinstance(link.transform, SharedTransform) for link in row.links):
        return False
    since = tuple(key for key in row.state if key.endswith("/since"))
    plan = {link.label: (True, True) for link in row.links}  # in some step
    layout = layout_in_plan(param)
    program = Program(row.links, row.used, tuple(keys), since, param.dtype, plan, False, {}, None, layout)
    piece = elements(local(param.detach()))
    numbers = [row.state["step"].to(torch.float64), row.lr, *(row.state[key] for key in since), *split(row.links)[1]]
    try:
        with TRACING, FakeTensorMode() as mode:
            program(*map(mode.from_tensor, [piece, piece, *(local(row.state[key]) for key in keys), *numbers]))
    except Exception:  # a question; or what fails is told of by the loop
        return False
    return True
