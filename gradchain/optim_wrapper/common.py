"""Numbers that exist once for all parameters, of which every parameter keeps a copy in its state: the copies are made equal.

A parameter that had no gradient for a while, or has just joined, holds an old copy. The newest is that of the parameter whose
copy has seen the most steps; see ``Transform.common``. Nothing is read on the host.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from gradchain.chains.chain import Chain
from gradchain.optim_wrapper.base import OptimizerBase
from gradchain.optim_wrapper.drivers.total import counting
from gradchain.optim_wrapper.shards import local

State = Mapping[str, Tensor]


@contextmanager
def taking_step(optimizer: OptimizerBase) -> Generator[None]:
    """Bring numbers that all parameters share to one value before a step, and count the step if nothing raises."""
    agree(optimizer)
    with counting(optimizer):
        yield


def agree(optimizer: OptimizerBase) -> None:
    """Give every parameter the newest copy of the numbers that are common to all."""
    members = [(optimizer.chain.label_of(group), g, group["params"]) for g, group in enumerate(optimizer.param_groups)]
    chains = {label: chain for label, chain in optimizer.chain.parts.items() if has_common(chain)}
    if not chains:
        return
    params = [param for label, _, params in members if label in chains for param in params]
    if any(param.grad is not None and not optimizer.state.get(param) for param in params):
        optimizer.rows()  # makes the state of those that have joined
    for label, chain in chains.items():
        states = [(g, optimizer.state[p]) for other, g, ps in members if other == label for p in ps if p in optimizer.state]
        for keys, alike in companies(chain, states):
            for key, value in newest(keys, alike).items():
                copies = [local(state[key]) for state in alike]
                torch._foreach_copy_(copies, [value] * len(copies))  # pyright: ignore[reportPrivateImportUsage]


def has_common(chain: Chain) -> bool:
    """Whether some link of the chain keeps numbers that are common to all."""
    return any(link.common for link in chain.links)


def companies(chain: Chain, states: Iterable[tuple[Any, State]]) -> Iterable[tuple[tuple[str, ...], Sequence[State]]]:
    """The keys of the numbers of each link, and the states that have to agree in them; states come with their group."""
    states = list(states)
    for link in chain.links:
        keys = tuple(f"{link.label}/{name}" for name in link.common)
        alike: dict[Any, list[State]] = {}
        for group, state in states if keys else ():
            if keys[0] in state:
                alike.setdefault(None if link.common_to == "optimizer" else group, []).append(state)
        yield from ((keys, company) for company in alike.values() if len(company) > 1)


def newest(keys: Sequence[str], states: Sequence[State]) -> dict[str, Tensor]:
    """The numbers of the copy with the largest count, which is the first of them."""

    def of_all(key: str) -> Tensor:
        device = local(states[0][key]).device
        return torch.stack([local(state[key]).to(device, torch.float64) for state in states])

    lead = of_all(keys[0]).argmax().reshape(1)
    return {key: of_all(key).index_select(0, lead)[0] for key in keys}
