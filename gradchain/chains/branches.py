"""The links that open, separate and close the branches of ``parallel``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from typing_extensions import override

from gradchain.types import UNSET, Carry, Context, Layout, NoState, Transform

How = Literal["sum", "mean", "graft"] | Callable[[Sequence[Tensor]], Tensor]


class Frame(NamedTuple):
    """A parallel on its way."""

    entry: Carry  # what every branch starts from
    updates: tuple[Tensor, ...]  # what the branches have given so far
    gates: tuple[Tensor, ...]


def _closed(frame: Frame, carry: Carry) -> Frame:
    """The frame with what the branch that ends here has given."""
    return frame._replace(updates=(*frame.updates, carry.update), gates=(*frame.gates, carry.gate))


@dataclass(frozen=True, kw_only=True, repr=False)
class Branch(Transform):
    """Starts a branch from what entered the parallel; the first one opens it."""

    removable = False
    settings = (*Transform.settings, "first")

    first: bool = False

    @override
    def update(self, carry: Carry, state: NoState, ctx: Context) -> tuple[Carry, NoState]:
        if self.first:
            return carry._replace(branches=(*carry.branches, Frame(carry._replace(branches=()), (), ()))), state
        *outer, frame = carry.branches
        frame = _closed(frame, carry)
        return frame.entry._replace(branches=(*outer, frame)), state


@dataclass(frozen=True, kw_only=True, repr=False)
class Merge(Transform):
    """Ends a parallel: one update from those of the branches; the other slots are as they entered it.

    A gate that one of the branches closes is closed.
    """

    removable = False
    settings = (*Transform.settings, "merge")

    merge: How = "sum"

    @override
    def update(self, carry: Carry, state: NoState, ctx: Context) -> tuple[Carry, NoState]:
        *outer, frame = carry.branches
        frame = _closed(frame, carry)
        gate = frame.gates[0]
        for other in frame.gates[1:] if gate is not UNSET else ():
            gate = gate * other
        update = merged(frame.updates, self.merge, ctx.layout)
        return frame.entry._replace(update=update, gate=gate, branches=tuple(outer)), state


def merged(updates: Sequence[Tensor], how: How, layout: Layout) -> Tensor:
    """One update from several."""
    if callable(how):
        return how(updates)
    if how == "graft":
        size, direction = layout.norm(updates[0]), updates[1]
        length = layout.norm(direction)
        return direction * torch.where(length > 0, size / torch.where(length > 0, length, 1), 0)
    total = updates[0]
    for update in updates[1:]:
        total = total + update
    return total / len(updates) if how == "mean" else total
