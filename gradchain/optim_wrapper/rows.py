"""The rows of the parameter table."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from gradchain.optim_wrapper.hyperparameters import BoundLink
from gradchain.types import UNSET, ParamInfo, Transform


class Row(NamedTuple):
    """A parameter and what runs on it."""

    info: ParamInfo
    links: tuple[BoundLink, ...]
    lr: Tensor
    state: dict[str, Tensor]  # live, flat
    used: frozenset[str]  # slots that some link of the chain reads or writes
    label: str  # of the chain, where different parameters have different ones
    total: Tensor = UNSET  # steps of the optimizer, this one included, where a link of the chain asks


def refreshed_without_gradient(link: Transform[tuple[Tensor, ...]]) -> bool:
    """Whether a refresh of the link can fall due for a parameter that has no gradient."""
    return link.refreshes_by == "optimizer_step" and link.refresh_schedule is not None
