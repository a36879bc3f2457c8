"""Saved state and chains that may have changed since: what fits is kept, by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from gradchain.optim_wrapper.drivers import working
from gradchain.optim_wrapper.hyperparameters import BoundLink, check
from gradchain.optim_wrapper.shards import elements, layout_of, overwritten, placed, sharded_state
from gradchain.types import ChainError

if TYPE_CHECKING:
    from gradchain.optim_wrapper.optimizer import ChainOptimizer


class LoadReport(NamedTuple):
    """What became of a saved state, by link: kept, dropped (saved, but no link of that name), fresh (started anew)."""

    kept: tuple[str, ...]
    dropped: tuple[str, ...]
    fresh: tuple[str, ...]

    def __str__(self) -> str:
        return "; ".join(f"{word}: {', '.join(names) or 'none'}" for word, names in self._asdict().items())


def fresh_state(link: BoundLink, param: Tensor) -> dict[str, Tensor]:
    """A link's state before its first step, under flat names; of a DTensor's, what is cut like it is a DTensor too."""
    piece, init = working(param), link.transform.init
    layout = layout_of(param, piece)
    made = init(piece) if layout is None else sharded_state(init, piece, layout)
    return dict(zip(link.state_keys, made, strict=True))


def host_step(value: float | Tensor = 0.0) -> Tensor:
    """The step count as it is stored: 0-d, float32, on the host, whatever the defaults are."""
    return torch.zeros((), dtype=torch.float32, device="cpu") + torch.as_tensor(value, dtype=torch.float32, device="cpu")


def _numbered(optimizer: ChainOptimizer, saved: Mapping[str, Any]) -> list[tuple[int, Tensor, Sequence[BoundLink]]]:
    """(saved number, parameter, its links) for every parameter, in the order in which they were saved."""
    found: list[tuple[int, Tensor, Sequence[BoundLink]]] = []
    for g, (group, old) in enumerate(zip(optimizer.param_groups, saved["param_groups"], strict=False)):
        pairs = zip(old["params"], group["params"], strict=False)
        found += [(number, param, optimizer.links_at(g, i)) for i, (number, param) in enumerate(pairs)]
    return found


def _fit(name: str, key: str, saved: Any, wanted: Tensor) -> Tensor:
    """A saved tensor in the shape of the live one."""
    if not isinstance(saved, Tensor | int | float):
        found = type(saved).__name__
        raise ChainError(f"saved state {key!r} of parameter {name!r} is of type {found}, not a tensor. Load a checkpoint.")
    value = torch.as_tensor(saved).detach()
    value = placed(elements(value) if value.is_complex() else value, wanted)
    if value.numel() != wanted.numel() or (value.dim() > 1 and value.shape != wanted.shape):
        raise ChainError(
            f"saved state {key!r} of parameter {name!r} has shape {tuple(value.shape)}, "
            f"the optimizer needs {tuple(wanted.shape)}. "
            "Load a checkpoint of the same model, with the parameters in the same order."
        )
    return value.reshape(wanted.shape)


def plan(
    optimizer: ChainOptimizer, saved: Mapping[str, Any], strict: bool
) -> tuple[LoadReport, dict[Tensor, dict[str, Tensor]]]:
    """What loading would give, worked out before anything changes; ChainError where it cannot work."""
    for part in ("state", "param_groups"):
        if part not in saved:
            found = ", ".join(map(repr, saved)) or "nothing"
            raise ChainError(f"this is no optimizer state: it has {found}, not {part!r}. Pass what state_dict() returned.")
    for group in saved["param_groups"]:
        check(optimizer.chain, group)
    kept, dropped, fresh = dict[str, None](), dict[str, None](), dict[str, None]()
    states: dict[Tensor, dict[str, Tensor]] = {}
    for number, param, links in _numbered(optimizer, saved):
        old = dict(saved["state"].get(number, {}))
        if not old:
            continue
        name = optimizer.name_of(param)
        new = {"step": host_step(_fit(name, "step", old.pop("step", 0.0), host_step()))}
        for link in links:
            initial, since = fresh_state(link, param), f"{link.label}/since"
            if initial.keys() <= old.keys():
                new |= {key: _fit(name, key, old.pop(key), value) for key, value in initial.items()}
                kept |= {link.label: None} if initial else {}
                if since in old:
                    new[since] = host_step(_fit(name, since, old.pop(since), host_step()))
            else:
                new |= {**initial, since: new["step"].clone()}
                fresh[link.label] = None
        dropped |= dict.fromkeys(key.rpartition("/")[0] for key in old)
        states[param] = new
    report = LoadReport(tuple(kept), tuple(dropped), tuple(fresh))
    if strict and (report.dropped or report.fresh):
        raise ChainError(f"the state was saved by another chain ({report}). Pass strict=False to keep what fits.")
    return report, states


def with_schedules(optimizer: ChainOptimizer, saved: Mapping[str, Any]) -> list[Any]:
    """The saved groups; one saved without the schedules that rule the live group goes on with them from its step count."""
    groups = list(saved["param_groups"])
    for i, (live, old) in enumerate(zip(optimizer.param_groups, groups, strict=False)):
        if "scheduled" in live and "scheduled" not in old:
            steps = [int(saved["state"].get(number, {}).get("step", 0)) for number in old["params"]]
            groups[i] = {**old, "scheduled": live["scheduled"], "scheduled_step": max(steps, default=0)}
    return groups


def settle(live: Mapping[str, Tensor], new: Mapping[str, Tensor], param: Tensor) -> dict[str, Tensor]:
    """The state to go on with: copied into the live tensors where they fit, never the saved tensors themselves."""
    settled: dict[str, Tensor] = {}
    for key, value in new.items():
        old = live.get(key)
        if old is not None and old.shape == value.shape and old.dtype == value.dtype:
            settled[key] = overwritten(old, value)
        else:
            settled[key] = (
                value.clone() if key.rpartition("/")[2] in ("step", "since") else value.detach().clone().to(param.device)
            )
    return settled
