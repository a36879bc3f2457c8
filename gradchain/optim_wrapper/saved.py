"""The form of a saved optimizer state: checked before anything is read from it, and brought up to date.

A state that is not ``{"state": {number: {name: tensor}}, "param_groups": [{"params": [number, ...], ...}, ...]}`` is refused
with a ChainError that says what was found.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor

from gradchain.optim_wrapper.names import PLACEHOLDERS
from gradchain.types import ChainError

SUM = "accumulate/sum"  # key of a parameter's state: the gradients of the calls that have made no step yet
SEEN = "accumulated_calls"  # in the groups: the number of these calls
MODE = "train_mode"  # in the groups of a chain with an average: False while the parameters hold it

RENAMED_STATE = {"every_k/sum": SUM}
RENAMED_KEYS = {"every_k_seen": SEEN}

REMEDY = "Pass what state_dict() returned."


def normalized(saved: Any) -> dict[str, Any]:
    """The saved state as new dicts and lists, under today's names, its parameters numbered as the groups number them.

    The tensors are those that were saved. Raises ChainError where the form is not that of an optimizer state.
    """
    if not isinstance(saved, Mapping):
        raise ChainError(f"this is no optimizer state: it is of type {_type(saved)}. {REMEDY}")
    for part, kind, wanted in (("state", (Mapping,), "a dict"), ("param_groups", (list, tuple), "a list")):
        if part not in saved:
            found = ", ".join(map(repr, saved)) or "nothing"
            raise ChainError(f"this is no optimizer state: it has {found}, not {part!r}. {REMEDY}")
        if not isinstance(saved[part], kind):
            raise ChainError(f"the saved {part!r} must be {wanted}; found {_type(saved[part])}. {REMEDY}")
    groups = [_group(g, group) for g, group in enumerate(saved["param_groups"])]
    numbers = {number for group in groups for number in group["params"]}
    states = {key: _state(key, own) for key, own in _keyed(saved["state"], numbers).items()}
    return {**saved, "state": states, "param_groups": groups}


def refuse_repeated(groups: Sequence[Mapping[str, Any]]) -> None:
    """ChainError where the saved groups list a parameter more than once."""
    numbers = Counter(number for group in groups for number in group["params"])
    if repeated := [number for number, times in numbers.items() if times > 1]:
        raise ChainError(f"the saved groups list parameter {repeated[0]!r} more than once. {REMEDY}")


def _type(value: Any) -> str:
    return type(value).__name__


def _group(g: int, group: Any) -> dict[str, Any]:
    if not isinstance(group, Mapping):
        raise ChainError(f"saved parameter group {g} must be a dict; found {_type(group)}. {REMEDY}")
    group = {RENAMED_KEYS.get(cast(Any, key), key): value for key, value in group.items()}
    if "params" not in group:
        raise ChainError(
            f"saved parameter group {g} has no 'params'; found {', '.join(map(repr, group)) or 'nothing'}. {REMEDY}"
        )
    params = group["params"]
    if not isinstance(params, list | tuple) or not all(isinstance(p, int | str) for p in params):
        raise ChainError(f"'params' of saved parameter group {g} must be a list of numbers; found {_shown(params)}. {REMEDY}")
    for key, (good, wanted) in BOOKKEEPING.items():
        if key in group and not good(group[key]):
            raise ChainError(f"{key!r} of saved parameter group {g} must be {wanted}; found {_shown(group[key])}. {REMEDY}")
    if "scheduled" in group:
        group["scheduled"], group["scheduled_step"] = tuple(group["scheduled"]), group.get("scheduled_step", 0)
    return {**group, "params": list(cast("list[Any]", params))}


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _is_word(value: Any) -> bool:
    return isinstance(value, str)


def _is_bool(value: Any) -> bool:
    return isinstance(value, bool)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _are_words(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(word, str) for word in cast("list[Any]", value))


BOOKKEEPING = {  # what the library keeps in groups besides hyperparameters
    "label": (_is_word, "a word"),
    "param_names": (_are_words, "a list of names"),
    PLACEHOLDERS: (_are_words, "a list of names"),
    "scheduled": (_are_words, "a list of hyperparameters' names"),
    "scheduled_step": (_is_count, "a whole number in [0, inf)"),
    MODE: (_is_bool, "True or False"),
    SEEN: (_is_count, "a whole number in [0, inf)"),
}


def _keyed(states: Mapping[Any, Any], numbers: set[Any]) -> dict[Any, Any]:
    """The states by the groups' numbers; JSON makes strings of numbers that are keys, and leaves them numbers in lists."""
    if any(isinstance(key, int) for key in states):
        return dict(states)
    known = {str(number): number for number in numbers if isinstance(number, int)}
    return {key if key in numbers else known.get(key, key): own for key, own in states.items()}


def _state(key: Any, own: Any) -> dict[str, Any]:
    if not isinstance(own, Mapping):
        raise ChainError(f"the saved state of parameter {key!r} must be a dict of tensors; found {_shown(own)}. {REMEDY}")
    if strange := [name for name in own if not isinstance(name, str)]:
        raise ChainError(f"the saved state of parameter {key!r} has the key {strange[0]!r}, which is no name. {REMEDY}")
    return {RENAMED_STATE.get(name, name): value for name, value in cast("Mapping[str, Any]", own).items()}


def readable(owner: str, key: str, saved: Any) -> Tensor:
    """A saved value as a tensor; ChainError where it has none to read."""
    if not isinstance(saved, Tensor | int | float):
        raise ChainError(f"saved state {key!r} of {owner} is of type {_type(saved)}, not a tensor. Load a checkpoint.")
    value = torch.as_tensor(saved).detach()
    if value.is_meta or value.layout != torch.strided:
        found = "on the meta device, without values" if value.is_meta else f"{value.layout}, not dense"
        raise ChainError(f"saved state {key!r} of {owner} is {found}. Load a checkpoint with its tensors in memory.")
    return value


def count(owner: str, key: str, saved: Any) -> Tensor:
    """A saved count of steps, 0-d."""
    value = readable(owner, key, saved)
    if value.numel() != 1:
        raise ChainError(
            f"saved state {key!r} of {owner} has shape {tuple(value.shape)}, the optimizer needs (). "
            "Load a checkpoint of the same model, with the parameters in the same order."
        )
    number: Any = value.item()
    if isinstance(number, complex) or not (0 <= number < float("inf") and number == int(number)):
        raise ChainError(f"saved state {key!r} of {owner} must be a whole number in [0, inf); found {number!r}. {REMEDY}")
    return value.reshape(())
