"""Saved state and chains that may have changed since: what fits is kept, by name."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from multiprocessing.context import get_spawning_popen
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.optim import Optimizer

from gradchain.chains.reports import LoadReport
from gradchain.optim_wrapper.base import OptimizerBase
from gradchain.optim_wrapper.commit import Before, NewState
from gradchain.optim_wrapper.drivers.loop import working
from gradchain.optim_wrapper.foreign import is_foreign, is_group_of_torch, translated
from gradchain.optim_wrapper.group_keys import saved_rules
from gradchain.optim_wrapper.hyperparameters import BoundLink, name_in, without
from gradchain.optim_wrapper.loaded_groups import going_on, in_evaluation, usable
from gradchain.optim_wrapper.matching import Matched, matched
from gradchain.optim_wrapper.saved import MODE, SUM, count, normalized, readable, refuse_repeated
from gradchain.optim_wrapper.saved import SEEN as SEEN
from gradchain.optim_wrapper.shards import elements, layout_of, placed, sharded_state
from gradchain.optim_wrapper.traffic import refuse_flattened
from gradchain.transforms import FactoredSecondMoment
from gradchain.types import ChainError

HELD = "/held"  # ends the key of the training value that evaluation has put aside, see modes
PUT_ASIDE = (
    "it was saved in evaluation, and training goes on from the parameters as they stand, which is from the average where they "
    "were saved with it; the training values that were put aside are dropped"
)


def fresh_state(link: BoundLink, param: Tensor) -> dict[str, Tensor]:
    """A link's state before its first step, under flat names; of a DTensor's, what is cut like it is a DTensor too."""
    refuse_flattened(link.transform, param)
    piece, init = working(param), link.transform.init
    layout = layout_of(param, piece)
    made = init(piece) if layout is None else sharded_state(init, piece, layout)
    return dict(zip(link.state_keys, made, strict=True))


def host_step(value: float | Tensor = 0) -> Tensor:
    """The step count as it is stored: a whole number on the host, which goes on where float32 would stand still (2^24).

    It is no float64: compiled code takes a 0-d one on the host for a Python number, and loses what is added to it.
    """
    return torch.zeros((), dtype=torch.int64, device="cpu") + torch.as_tensor(value, dtype=torch.int64, device="cpu")


def apart(state: Mapping[Tensor, dict[str, Any]]) -> dict[Tensor, dict[str, Any]]:
    """The states, each tensor with memory of its own: ``pickle`` writes a whole stack for every row of it."""
    return defaultdict(dict, {param: {key: _own(value) for key, value in own.items()} for param, own in state.items()})


def sent(state: Any) -> Any:
    """The states as they are pickled. A process that is being started gets the live memory, as of torch's optimizers.

    Its file descriptors have to outlive the pickling, so the live states leave their stacks, where they shared memory.
    """
    own = apart(state)
    if get_spawning_popen() is None:
        return own
    for param, tensors in own.items():
        state[param].update(tensors)
    return state


def _own(value: Any) -> Any:
    if type(value) is not Tensor or value.untyped_storage().nbytes() <= value.numel() * value.element_size():
        return value
    if value.device.type == "cpu" and value.is_shared():
        return value  # another process is to see it too
    return value.clone()


def load(optimizer: OptimizerBase, state_dict: Mapping[str, Any], strict: bool) -> LoadReport:
    """torch's loading, with its hooks, around our own treatment of the states; nothing has changed when it raises."""
    plans: list[tuple[LoadReport, NewState]] = []

    def capture(_: Optimizer, saved: Any) -> dict[str, Any]:
        saved = normalized(saved)
        found = matched(optimizer.param_groups, saved["param_groups"])
        if found is None:
            return saved  # torch says which numbers do not match
        refuse_repeated(saved["param_groups"])
        report, states, groups = plan(optimizer, saved, found)
        if strict and not report.clean:
            raise ChainError(f"the state was saved by another chain ({report}). Pass strict=False to keep what fits.")
        plans.append((report, NewState(optimizer.state, states)))
        return {**saved, "state": {}, "param_groups": groups}  # torch would cast states to their parameter's dtype

    def fill(_: Optimizer) -> None:
        optimizer.state.update(plans[0][1].states)
        plans[0][1].write()

    if not isinstance(state_dict, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]
        _ = normalized(state_dict)
    before = Before(optimizer)
    hooks = (
        optimizer.register_load_state_dict_pre_hook(capture),
        optimizer.register_load_state_dict_post_hook(fill, prepend=True),
    )
    try:
        Optimizer.load_state_dict(optimizer, dict(state_dict))
    except BaseException:
        before.restore()
        raise
    finally:
        for hook in hooks:
            hook.remove()
    return plans[0][0]


class Findings(NamedTuple):
    """Collects the entries of a LoadReport: each once, in the order of discovery."""

    kept: dict[str, None]
    dropped: dict[str, None]
    fresh: dict[str, None]
    remarks: dict[str, None]


def plan(
    optimizer: OptimizerBase, saved: Mapping[str, Any], found: Matched
) -> tuple[LoadReport, dict[Tensor, dict[str, Tensor]], list[Any]]:
    """Work out a load: report, state by parameter, groups; ChainError if it cannot work. Changes nothing."""
    told = Findings({}, {}, {}, {})
    evaluating = in_evaluation(saved["param_groups"])
    groups = [usable(optimizer, group, evaluating) for group in found.groups]
    if any(map(is_foreign, saved["state"].values())) or any(map(is_group_of_torch, groups)):
        told.remarks.update(dict.fromkeys(saved_rules(optimizer.chain, groups)))
    states: dict[Tensor, dict[str, Tensor]] = {}
    for g, (group, live) in enumerate(zip(groups, optimizer.param_groups, strict=True)):
        known = optimizer.binder.of(group)
        values = {**known.defaults, **group}
        bound = known.bind_all(values)
        idle = frozenset(bound[i].label for i in known.idle(values))
        for i, (number, param) in enumerate(zip(group["params"], live["params"], strict=True)):
            name = name_in(group, g, i)
            known.check_owners(absent := known.absent(name, param), name)
            if old := saved["state"].get(number):
                loading = Loading(optimizer, param, name, without(bound, absent), idle, group, evaluating, told)
                states[param] = loading.state(dict(old), found.moved.get(number))
    going_on(optimizer, groups, states)
    listed = {number for group in saved["param_groups"] for number in group["params"]}
    unused = (*found.unused, *(str(key) for key in saved["state"] if key not in listed))
    kept, dropped, fresh, remarks = map(tuple, told)
    report = LoadReport(kept, dropped, fresh, found.missing, unused, remarks)
    return report, states, groups


class Loading(NamedTuple):
    """A parameter whose state is loaded: its links as they run afterwards, and what is told of it."""

    optimizer: OptimizerBase
    param: Tensor
    name: str
    links: Sequence[BoundLink]
    idle: frozenset[str]  # labels of links that do nothing with the group's values: they load a state, but need none
    group: Mapping[str, Any]
    evaluating: bool  # it was saved while parameters held their average
    told: Findings

    def state(self, old: dict[str, Any], then: str | None) -> dict[str, Tensor]:
        """Its new state from the saved one, which is used up; ``then``: the label under which it was saved, where another."""
        told = self.told
        if is_foreign(old):
            old = translated(old, self.links)
        old, left = _brought(old, then, self.optimizer)
        if then:
            told.remarks[f"{self.name} was saved under {then!r}{' and starts afresh' * bool(left)}"] = None
        counted = "step" in old
        new = {"step": host_step(count(self.owner, "step", old.pop("step", 0)))}
        for link in self.links:
            if link.label in self.idle and not set(link.state_keys) <= old.keys():
                continue
            if not self._take(new, old, link):
                told.fresh[link.label] = None
            elif link.state_keys:
                told.kept[link.label] = None
                if not counted:
                    raise ChainError(
                        f"the saved state of {self.owner} has no 'step'. Load a checkpoint with its count of steps."
                    )
        self._take_held(new, old)
        if SUM in old and self.optimizer.accumulate > 1:
            new[SUM] = self._fit(SUM, old.pop(SUM), working(self.param))
        told.dropped.update(dict.fromkeys(key.rpartition("/")[0] or key for key in (*left, *old)))
        if self.evaluating and any(key.endswith(HELD) for key in (*left, *old)):
            told.remarks[PUT_ASIDE] = None
        return new

    @property
    def owner(self) -> str:
        """The parameter in messages."""
        return f"parameter {self.name!r}"

    def _take(self, new: dict[str, Tensor], old: dict[str, Any], link: BoundLink) -> bool:
        """Move a link's state from the saved to the new one; False, and a state of its own, where it was not saved."""
        initial, since = fresh_state(link, self.param), f"{link.label}/since"
        missing = {key: value for key, value in initial.items() if key not in old}
        if isinstance(link.transform, FactoredSecondMoment) and len(missing) < len(initial):
            missing = {key: value for key, value in missing.items() if value.numel()}  # torch saves no empty half
            old |= {key: value for key, value in initial.items() if key not in old and key not in missing}
        if missing:
            new |= {**initial, since: new["step"].clone()}
            return False
        new |= {key: self._fit(key, old.pop(key), value) for key, value in initial.items()}
        if since in old:
            new[since] = host_step(count(self.owner, since, old.pop(since)))
        return True

    def _take_held(self, new: dict[str, Tensor], old: dict[str, Any]) -> None:
        """Keep the training value that evaluation has put aside, see modes: under its link, or the one average there is now."""
        held = [key for key in old if key.endswith(HELD)]
        for link in self.links if self.group.get(MODE) is False else ():
            if "averages" in link.transform.traits and held:
                key = own if (own := link.label + HELD) in old else held[0]
                new[own] = self._fit(key, old.pop(key), fresh_state(link, self.param)[link.state_keys[0]])

    def _fit(self, key: str, saved: Any, wanted: Tensor) -> Tensor:
        """A saved tensor in the shape and dtype of the live one."""
        value = readable(self.owner, key, saved)
        value = placed(elements(value) if value.is_complex() else value, wanted)
        single = value.numel() == wanted.numel() == 1 and max(value.dim(), wanted.dim()) == 1
        if value.shape != wanted.shape and not single:
            raise ChainError(
                f"saved state {key!r} of {self.owner} has shape {tuple(value.shape)}, "
                f"the optimizer needs {tuple(wanted.shape)}. "
                "Load a checkpoint of the same model, with the parameters in the same order."
            )
        cast = value.reshape(wanted.shape).to(wanted.dtype)
        if (
            value.is_floating_point()
            and not wanted.is_floating_point()
            and not bool((cast == value.reshape(wanted.shape)).all())
        ):
            raise ChainError(
                f"saved state {key!r} of {self.owner} has dtype {value.dtype} and values that {wanted.dtype}, in which the "
                "optimizer keeps it, does not have. Load a checkpoint that keeps each tensor's dtype."
            )
        return cast


def _brought(old: dict[str, Any], label: str | None, optimizer: OptimizerBase) -> tuple[dict[str, Any], dict[str, Any]]:
    """Split a parameter's saved state into entries it keeps and entries it leaves: all but its count of steps, with its chain.

    Where a partition has the label under which it was saved no more, the label may have been renamed: it brings everything.
    """
    if label not in optimizer.chain.parts:
        return old, {}
    return {key: old[key] for key in ("step", SUM) if key in old}, {k: v for k, v in old.items() if k not in ("step", SUM)}
