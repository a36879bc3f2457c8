"""Saved state and chains that may have changed since: what fits is kept, by name."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.optim import Optimizer

from gradchain.optim_wrapper.drivers import working
from gradchain.optim_wrapper.foreign import group_of, is_foreign, translated
from gradchain.optim_wrapper.group_keys import saved_rules
from gradchain.optim_wrapper.hyperparameters import BoundLink, check, name_in, without
from gradchain.optim_wrapper.matching import matched
from gradchain.optim_wrapper.numbers import counts
from gradchain.optim_wrapper.shards import elements, layout_of, overwritten, placed, sharded_state
from gradchain.optim_wrapper.traffic import refuse_flattened
from gradchain.transforms import FactoredSecondMoment
from gradchain.types import ChainError

if TYPE_CHECKING:
    from gradchain.optim_wrapper.optimizer import ChainOptimizer


SUM = "accumulate/sum"  # key of a parameter's state: the gradients of the calls that have made no step yet
SEEN = "accumulated_calls"  # in the groups: the number of these calls


class LoadReport(NamedTuple):
    """What became of a saved state, by link: kept, dropped (saved, but no link of that name), fresh (started anew)."""

    kept: tuple[str, ...]
    dropped: tuple[str, ...]
    fresh: tuple[str, ...]
    missing: tuple[str, ...] = ()  # parameters that were not saved, where parameters are matched by name
    unused: tuple[str, ...] = ()  # saved parameters that the optimizer does not have
    remarks: tuple[str, ...] = ()  # what the saved run did and this one does not

    @property
    def clean(self) -> bool:
        """Whether all that was saved is used, and all that is needed was saved."""
        return not any(self[1:])

    def __str__(self) -> str:
        lists = [*self[:3], *(names for names in self[3:] if names)]
        words = [*self._fields[:3], *(word for word, names in zip(self._fields[3:], self[3:], strict=True) if names)]
        return "; ".join(f"{word}: {', '.join(names) or 'none'}" for word, names in zip(words, lists, strict=True))


def fresh_state(link: BoundLink, param: Tensor) -> dict[str, Tensor]:
    """A link's state before its first step, under flat names; of a DTensor's, what is cut like it is a DTensor too."""
    refuse_flattened(link.transform, param)
    piece, init = working(param), link.transform.init
    layout = layout_of(param, piece)
    made = init(piece) if layout is None else sharded_state(init, piece, layout)
    return dict(zip(link.state_keys, made, strict=True))


def host_step(value: float | Tensor = 0.0) -> Tensor:
    """The step count as it is stored: 0-d, float32, on the host, whatever the defaults are."""
    return torch.zeros((), dtype=torch.float32, device="cpu") + torch.as_tensor(value, dtype=torch.float32, device="cpu")


def apart(state: Mapping[Tensor, dict[str, Any]]) -> dict[Tensor, dict[str, Any]]:
    """The states, each tensor with memory of its own: ``pickle`` writes a whole stack for every row of it."""
    return defaultdict(dict, {param: {key: _own(value) for key, value in own.items()} for param, own in state.items()})


def _own(value: Any) -> Any:
    if type(value) is not Tensor or value.untyped_storage().nbytes() <= value.numel() * value.element_size():
        return value
    return value.clone()


def joined(state: Mapping[str, Any], links: Sequence[BoundLink], param: Tensor) -> dict[str, Tensor]:
    """The state of links that begin to work on a parameter with a state: they count their steps from here."""
    made: dict[str, Tensor] = {}
    for link in links:
        if link.state_keys and link.state_keys[0] not in state:
            made |= {**fresh_state(link, param), f"{link.label}/since": state["step"].clone()}
    return made


Numbered = tuple[int, Tensor, tuple[Sequence[BoundLink], frozenset[str]], Any]


def _numbered(optimizer: ChainOptimizer, saved: Mapping[str, Any]) -> Iterator[Numbered]:
    """(saved number, parameter, its links and which are idle, saved group); torch complains where the numbers do not match."""
    for g, (group, old) in enumerate(zip(optimizer.param_groups, saved["param_groups"], strict=False)):
        for i, (number, param) in enumerate(zip(old["params"], group["params"], strict=False)):
            known = optimizer.binder.of(group)
            links = without(known.bind_all(group), known.absent(name_in(group, g, i), param))
            yield number, param, (links, frozenset(links[at].label for at in known.idle({**group, **old}))), old


def _fit(name: str, key: str, saved: Any, wanted: Tensor) -> Tensor:
    """A saved tensor in the shape and dtype of the live one."""
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
    return value.reshape(wanted.shape).to(wanted.dtype)


def load(optimizer: ChainOptimizer, state_dict: Mapping[str, Any], strict: bool) -> LoadReport:
    """torch's loading, with its hooks, around our own treatment of the states."""
    if not isinstance(state_dict, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]
        found = type(state_dict).__name__
        raise ChainError(f"this is no optimizer state: it is of type {found}. Pass what state_dict() returned.")
    plans: list[Plan] = []
    live = dict(optimizer.state)

    def capture(_: Optimizer, saved: dict[str, Any]) -> dict[str, Any]:
        plans.append(plan(optimizer, saved, strict))
        return {**saved, "state": {}, "param_groups": plans[0].groups}  # torch would cast states to their parameter's dtype

    def fill(_: Optimizer) -> None:
        optimizer.state.update({p: settle(live.get(p, {}), new, p) for p, new in plans[0].states.items()})

    hooks = (
        optimizer.register_load_state_dict_pre_hook(capture),
        optimizer.register_load_state_dict_post_hook(fill, prepend=True),
    )
    try:
        Optimizer.load_state_dict(optimizer, dict(state_dict))
    finally:
        for hook in hooks:
            hook.remove()
    return plans[0].report


class Plan(NamedTuple):
    """What loading would give, worked out before anything changes."""

    report: LoadReport
    states: dict[Tensor, dict[str, Tensor]]
    groups: list[Any]


def plan(optimizer: ChainOptimizer, saved: Mapping[str, Any], strict: bool) -> Plan:
    """What loading would give; ChainError where it cannot work."""
    for part in ("state", "param_groups"):
        if part not in saved:
            found = ", ".join(map(repr, saved)) or "nothing"
            raise ChainError(f"this is no optimizer state: it has {found}, not {part!r}. Pass what state_dict() returned.")
    found = matched(optimizer.param_groups, {**saved, "param_groups": [group_of(g) for g in saved["param_groups"]]})
    for group in found.saved["param_groups"]:
        check(optimizer.chain, group)
    kept, dropped, fresh = dict[str, None](), dict[str, None](), dict[str, None]()
    remarks = dict.fromkeys(saved_rules(optimizer.chain, found.saved["param_groups"]))
    states: dict[Tensor, dict[str, Tensor]] = {}
    for number, param, (links, idle), _ in _numbered(optimizer, found.saved):
        old = dict(saved["state"].get(number, {}))
        if is_foreign(old):
            old = translated(old, links)
        if not old:
            continue
        links = [link for link in links if link.label not in idle or set(link.state_keys) <= old.keys()]
        name = optimizer.name_of(param)
        old, left = _brought(old, then := found.moved.get(number), optimizer)
        remarks |= {f"{name} was saved under {then!r}{' and starts afresh' * bool(left)}": None} if then else {}
        new = {"step": host_step(_fit(name, "step", old.pop("step", 0.0), host_step()))}
        for link in links:
            if _take(new, old, link, param, name):
                kept |= {link.label: None} if link.state_keys else {}
            else:
                fresh[link.label] = None
        new |= _collected(optimizer, old, param, name)
        dropped |= dict.fromkeys(key.rpartition("/")[0] or key for key in (*left, *old))
        states[param] = new
    report = LoadReport(tuple(kept), tuple(dropped), tuple(fresh), found.missing, found.unused, tuple(remarks))
    if strict and not report.clean:
        raise ChainError(f"the state was saved by another chain ({report}). Pass strict=False to keep what fits.")
    return Plan(report, states, _as_it_goes_on(_with_schedules(optimizer, found.saved), states))


def _brought(old: dict[str, Any], label: str | None, optimizer: ChainOptimizer) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a parameter brings of its saved state, and what it leaves: all but its count of steps, with its chain.

    Where a partition has the label under which it was saved no more, the label may have been renamed: it brings everything.
    """
    if label not in optimizer.chain.parts:
        return old, {}
    return {key: old[key] for key in ("step", SUM) if key in old}, {k: v for k, v in old.items() if k not in ("step", SUM)}


def _collected(optimizer: ChainOptimizer, old: dict[str, Any], param: Tensor, name: str) -> dict[str, Tensor]:
    """The saved sum of gradients of calls that have made no step yet, where the optimizer collects."""
    return {SUM: _fit(name, SUM, old.pop(SUM), working(param))} if SUM in old and optimizer.accumulate > 1 else {}


def _as_it_goes_on(groups: Sequence[Any], states: Mapping[Tensor, Mapping[str, Tensor]]) -> list[Any]:
    """The groups, with no calls counted where their gradients are not there."""
    collected = any(SUM in state for state in states.values())
    return [group if collected or SEEN not in group else {**group, SEEN: 0} for group in groups]


def _take(new: dict[str, Tensor], old: dict[str, Any], link: BoundLink, param: Tensor, name: str) -> bool:
    """Move a link's state from the saved to the new one; False, and a state of its own, where it was not saved."""
    initial, since = fresh_state(link, param), f"{link.label}/since"
    if isinstance(link.transform, FactoredSecondMoment):  # torch saves one half, and the other is empty
        old |= {key: old.get(key, value) for key, value in initial.items() if value.numel() == 0}
    if not initial.keys() <= old.keys():
        new |= {**initial, since: new["step"].clone()}
        return False
    new |= {key: _fit(name, key, old.pop(key), value) for key, value in initial.items()}
    if (held := f"{link.label}/held") in old:  # what evaluation has put aside, see modes
        new[held] = _fit(name, held, old.pop(held), initial[link.state_keys[0]])
    if since in old:
        new[since] = host_step(_fit(name, since, old.pop(since), host_step()))
    return True


def _with_schedules(optimizer: ChainOptimizer, saved: Mapping[str, Any]) -> list[Any]:
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
            settled[key] = value.clone() if counts(key) else value.detach().clone().to(param.device)
    return settled
