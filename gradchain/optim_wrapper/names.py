"""Names of parameters, from wherever the caller has left them.

Trainers hand over tensors, and often their names in a form of their own. They are looked for in this order:

1. (name, tensor) pairs, or a list ``param_names`` beside the tensors, as torch has it;
2. a list ``named`` beside the tensors, as a fork of sd-scripts has it;
3. ``params`` is a view of a dict's values, as in sd-scripts and LyCORIS: the keys;
4. an attribute ``param_name`` on every tensor;
5. where a link of the chain asks for names and there are none: a zero matrix (out, r) right behind another one (r, in),
   r smaller than both, is taken for B behind A of a LoRA pair.

Names may also be given later, with ``ChainOptimizer.bind_names()``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, ValuesView
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from gradchain.types import ChainError

PLACEHOLDERS = "placeholder_names"  # in a group: those of its ``param_names`` that no caller gave; checkpoints keep them


def as_groups(params: Any) -> Any:
    """A view of a dict's tensors as a group of its own, so that its keys are still there when the group is added."""
    if isinstance(params, ValuesView) and all(isinstance(value, Tensor) for value in params):
        return [{"params": params}]
    return params


def number(group: dict[str, Any], g: int) -> None:
    """Give the parameters of the g-th group their places as names, where they have none."""
    if "param_names" not in group:
        places = [f"{g}.{i}" for i in range(len(group["params"]))]
        group["param_names"] = places
        mark(group, places)


def numbered(groups: Sequence[dict[str, Any]]) -> None:
    """Gives the groups without names their numbers as names; torch wants all groups with names, or none."""
    for g, group in enumerate(groups):
        number(group, g)


def mark(group: dict[str, Any], placeholders: Iterable[str]) -> None:
    """Note in the group which of its names are placeholders; a group without any has no such entry."""
    if listed := sorted(placeholders):
        group[PLACEHOLDERS] = listed
    else:
        group.pop(PLACEHOLDERS, None)


def given_names(group: Mapping[str, Any]) -> list[str | None]:
    """For each parameter of a group the name that a caller gave it; None where it has a placeholder, or no name."""
    names, count = group.get("param_names"), len(group["params"])
    if names is None or len(names) != count:
        return [None] * count
    placeholders = set(group.get(PLACEHOLDERS, ()))
    return [None if name in placeholders else name for name in names]


def found(group: dict[str, Any], g: int, guess: bool) -> list[str] | None:
    """The names of the group's parameters, none where there are none; None where torch finds them itself.

    ``group["params"]`` is a list afterwards.
    """
    params = group["params"]
    if isinstance(params, set):
        return None  # torch refuses it
    group["params"] = tensors = [params] if isinstance(params, Tensor) else list(params)
    keys: Any = getattr(params, "mapping", None) if isinstance(params, ValuesView) else None
    if any(isinstance(param, tuple) for param in tensors):
        return None
    if group.get("param_names") is not None:
        _ = _checked(group["param_names"], len(tensors), g, "param_names")
        return None
    if isinstance(group.get("named"), list | tuple):
        names = _checked(group["named"], len(tensors), g, "named")
        mark(group, set(group.get(PLACEHOLDERS, ())).intersection(names))  # found by structure before the group was split
        return names
    if keys is not None:
        return _checked(list(keys), len(tensors), g, "params")
    attributes: list[Any] = [getattr(param, "param_name", None) for param in tensors]
    if tensors and None not in attributes:
        return _checked(attributes, len(tensors), g, "param_name")
    names = _structure(tensors, g) if guess else []
    mark(group, names)
    return names


def unpair(group: dict[str, Any]) -> None:
    """(name, tensor) pairs as two lists, with torch's refusals: for groups that are split before torch sees them."""
    params: Any = group["params"]
    if isinstance(params, set):
        raise TypeError("optimizer parameters need to be in an ordered collection; found a set. Use a list instead.")
    pairs: list[Any] = [param for param in params if isinstance(param, tuple)]
    if pairs and len(pairs) < len(params):
        raise ChainError(
            "all optimizer params should be with/without names. Some param names are missing: "
            f"found {len(pairs)} of {len(params)}. Name every parameter or none."
        )
    if pairs:
        group.update(param_names=[name for name, *_ in pairs], params=[param for _, param, *_ in pairs])
    if strange := [param for param in group["params"] if not isinstance(param, Tensor)]:
        raise TypeError(f"optimizer can only optimize Tensors, but one of the params is {type(strange[0]).__name__}.")


def bind(groups: Sequence[dict[str, Any]], named_parameters: Iterable[tuple[str, Tensor]]) -> None:
    """Gives parameters the names under which they are listed."""
    names = {id(param): name for name, param in named_parameters}
    mine = {id(param) for group in groups for param in group["params"]}
    if not names.keys() & mine:
        raise ChainError(
            f"none of the {len(names)} named tensors is a parameter of the optimizer. "
            "Pass named_parameters() of the model whose parameters the optimizer has."
        )
    numbered(groups)
    for group in groups:
        pairs = list(zip(group["params"], group["param_names"], strict=True))
        known = given_names(group)
        group["param_names"] = [names.get(id(param), old) for param, old in pairs]
        mark(
            group,
            (old for (param, old), name in zip(pairs, known, strict=True) if name is None and id(param) not in names),
        )


def _checked(names: Sequence[Any], count: int, g: int, source: str) -> list[str]:
    if len(names) != count or not all(isinstance(name, str) for name in names):
        found = f"{len(names)} entries" if len(names) != count else f"{next(n for n in names if not isinstance(n, str))!r}"
        raise ChainError(
            f"parameter group {g}: {source!r} must hold one name for each of its {count} parameters; found {found}. "
            "Give every parameter its name, in the order of params."
        )
    return list(names)


@torch.no_grad()
def _structure(tensors: Sequence[Any], g: int) -> list[str]:
    """Names by structure, none where nothing looks like a pair. Reads values, so once, when the group is added."""
    names = [f"{g}.{i}" for i in range(len(tensors))]
    for i, (a, b) in enumerate(pairwise(tensors)):
        plain = all(type(x) in (Tensor, torch.nn.Parameter) and x.dim() == 2 and not x.is_meta and x.numel() for x in (a, b))
        fits = plain and b.shape[1] == a.shape[0] < min(a.shape[1], b.shape[0])
        if fits and bool(a.any()) and not bool(b.any()):
            names[i : i + 2] = [f"{g}.{i}.lora_A", f"{g}.{i}.lora_B"]
    return names if any("lora" in name for name in names) else []


def drop_repeated(group: dict[str, Any]) -> None:
    """Keep one of each parameter (torch has warned): a repeated one would be stepped twice."""
    first = {id(param): i for i, param in reversed(list(enumerate(group["params"])))}
    keep = sorted(first.values())
    for key in ("params", "param_names"):
        if key in group and len(keep) < len(group[key]):
            group[key] = [group[key][i] for i in keep]
