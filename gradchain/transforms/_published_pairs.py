"""How HinaAdamWOptimizer (hinablue/sd-scripts, e57630c) sorts parameters by name, and what it makes of a pair.

The first of KINDS that occurs anywhere in the lower-cased name decides. Pairs are found within a parameter group.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import Tensor

from gradchain.transforms._pairs import mean_row_length, product_norm
from gradchain.types import ParamInfo

KINDS = {
    "lokr_w1": "lokr_w1",
    "lokr_w2": "lokr_w2",
    "lokr": "lokr",
    "lora_down": "lora_a",
    "lora_a": "lora_a",
    "lora_up": "lora_b",
    "lora_b": "lora_b",
}


def kind(name: str) -> str:
    """One of the values of KINDS, or nothing."""
    return next((kind for part, kind in KINDS.items() if part in name.lower()), "")


def _groups(infos: Sequence[ParamInfo]) -> Iterator[list[int]]:
    groups: dict[int, list[int]] = {}
    for i, info in enumerate(infos):
        groups.setdefault(id(info.group), []).append(i)
    yield from groups.values()


def _without(name: str, *parts: str) -> str:
    for part in parts:
        name = name.replace(part, "")
    return name


def lora_pairs(infos: Sequence[ParamInfo]) -> tuple[list[tuple[int, int]], list[int]]:
    """Positions of A and B of each pair, and of each B without a partner."""
    pairs: list[tuple[int, int]] = []
    rest: list[int] = []
    for members in _groups(infos):
        firsts: dict[str, int] = {}  # the first B of each name
        for i in members:
            if kind(infos[i].name) == "lora_b":
                firsts.setdefault(_without(infos[i].name, "lora_up", "lora_B", ".weight"), i)
                rest.append(i)
        for i in members:
            if kind(infos[i].name) == "lora_a":
                j = firsts.get(_without(infos[i].name, "lora_down", "lora_A", ".weight"))
                if j is not None and set(infos[i].param.shape[:2]) & set(infos[j].param.shape[:2]) and _matrices(infos, i, j):
                    pairs.append((i, j))
    partners = {j for _, j in pairs}
    return pairs, [j for j in rest if j not in partners]


def _matrices(infos: Sequence[ParamInfo], *positions: int) -> bool:
    return all(infos[i].param.dim() >= 2 and infos[i].param.numel() and not infos[i].param.is_complex() for i in positions)


def pair_length(a: Tensor, b: Tensor) -> Tensor:
    """Mean row length of B A, or of the first other product that the shapes allow, or mean of |A| and |B|."""
    rows, columns = a.shape[-2:]
    if b.shape[-1] == rows:
        return mean_row_length(b, a)
    if b.shape[-2] == columns:
        return mean_row_length(a, b)
    if b.shape[-1] == columns:
        return mean_row_length(b, a.mT)
    if b.shape[-2] == rows:
        return mean_row_length(b.mT, a)
    return (product_norm(a) + product_norm(b)) / 2


def lokr_groups(infos: Sequence[ParamInfo]) -> list[tuple[int, int]]:
    """Positions of w1 and w2 of each group that has both; a decomposed factor counts as one."""
    found: list[tuple[int, int]] = []
    for members in _groups(infos):
        slots: dict[str, dict[str, int]] = {}
        for i in members:
            if (slot := kind(infos[i].name)) in ("lokr_w1", "lokr_w2") and infos[i].param.numel():
                slots.setdefault(_without(infos[i].name, f".{slot}").strip("."), {})[slot] = i
        found += [(both["lokr_w1"], both["lokr_w2"]) for both in slots.values() if len(both) == 2]
    return found
