"""What links ask of other ranks where parameters are cut over them, found by watching the links at work."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from gradchain.optim_wrapper.layouts import Whole
from gradchain.types import Carry, ChainError, Context, ParamInfo, SharedTransform, Transform

SIDE = 24  # of the matrix they are watched on: large enough for every link to do its work


class Watched(Whole):
    """Answers on one device and keeps what was asked."""

    def __init__(self) -> None:
        self.asked: dict[str, int] = {}
        self.shaped = False  # the shape was asked for, which needs no other rank

    def _note(self, kind: str) -> None:
        self.asked[kind] = self.asked.get(kind, 0) + 1

    @override
    def shape(self, x: Tensor) -> torch.Size:
        self.shaped = True
        return super().shape(x)

    @override
    def sum(self, x: Tensor, dim: int | None = None) -> Tensor:
        self._note("sums")
        return super().sum(x, dim)

    @override
    def dot(self, x: Tensor, y: Tensor) -> Tensor:
        self._note("sums")
        return super().dot(x, y)

    @override
    def norm(self, x: Tensor) -> Tensor:
        self._note("sums")
        return super().norm(x)

    @override
    def pad(self, x: Tensor, dim: int) -> Tensor:
        if dim % x.dim() == 0:  # the shards that fully_shard makes are rows
            self._note("rows")
        return super().pad(x, dim)

    @override
    def on_whole(self, work: Callable[..., Any], *xs: Tensor, like: int = 1) -> Any:
        self._note("whole")
        return super().on_whole(work, *xs, like=like)


def watched(link: Transform[Any]) -> tuple[Watched, Watched]:
    """What a link asks for one matrix: in every step, and in addition at a refresh."""
    random = torch.Generator().manual_seed(0)
    p, one = torch.randn(SIDE, SIDE, dtype=torch.float64, generator=random), torch.ones((), dtype=torch.float64)
    slots: dict[str, Any] = {
        slot: torch.rand(p.shape, dtype=p.dtype, generator=random) for slot in Carry._fields if slot != "branches"
    }
    carry = Carry(**slots)._replace(param=p, gate=one, scale=one, bump_scale=one, eps_scale=one)
    layout, at_refresh = Watched(), Watched()
    state, ctx = link.init(p), Context(step=one, lr=one, shared=None, layout=layout)
    if isinstance(link, SharedTransform):
        always = link.every_step or link.refresh_schedule is None or "perturbs" in link.traits
        measuring = ctx._replace(layout=layout if always else at_refresh)
        (shared,) = link.share([link.measure(carry, state, measuring)], [ParamInfo("weight", p, {})])
        ctx = ctx._replace(shared=shared)
    if link.refresh_schedule is not None:
        state = link.refresh(carry, state, ctx._replace(layout=at_refresh))
    link.update(carry, state, ctx)
    return layout, at_refresh


def traffic(link: Transform[Any]) -> tuple[dict[str, int], dict[str, int]]:
    """What a link asks in every step, and what it asks more at a refresh: how often by kind, for one matrix.

    sums: numbers, or a row or column, added up over ranks.   rows: the slices next to this rank's, from its neighbors.
    whole: the tensor put together on one rank, worked on there, and sent back in pieces.
    """
    always, at_refresh = watched(link)
    return always.asked, at_refresh.asked


def elementwise(link: Transform[Any]) -> bool:
    """Whether the shape of a parameter, its other elements and other parameters are all the same to a link."""
    if isinstance(link, SharedTransform):
        return False
    return not any(layout.asked or layout.shaped for layout in watched(link))


def refuse_flattened(link: Transform[Any], param: Tensor) -> None:
    """ChainError where a link is to work on what FullyShardedDataParallel keeps: pieces of parameters, or of several in one."""
    if getattr(param, "_fsdp_flattened", False) and not elementwise(link):
        raise ChainError(
            f"{link.label!r} needs each parameter in its shape; found a piece of {param.numel()} elements that "
            "FullyShardedDataParallel has flattened. Shard the model with fully_shard, or leave the link out."
        )


def _written(asked: dict[str, int]) -> str:
    words = [f"{count} {kind if count > 1 or kind != 'sums' else 'sum'}" for kind, count in sorted(asked.items())]
    return ", ".join(word.removeprefix("1 ") if word.endswith(("rows", "whole")) else word for word in words)


def traffic_table(links: Mapping[str, Transform[Any]]) -> str:
    """What links ask, by name, as a Markdown table."""
    lines = ["| transform | in every step | at a refresh, in addition |", "|---|---|---|"]
    for name, link in links.items():
        always, at_refresh = traffic(link)
        lines.append(f"| `{name}` | {_written(always) or 'local'} | {_written(at_refresh)} |")
    return "\n".join(lines)
