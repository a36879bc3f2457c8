"""Matrices that fit each other: how well, and how large their product is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from gradchain.transforms._pairs import values as values
from gradchain.types import Layout, ParamInfo


class Peers(NamedTuple):
    """All matrices of one shape among the parameters."""

    matrices: Tensor  # (count, rows, columns)
    places: Tensor  # (count,), of the parameters among all of the optimizer's


class Meeting(NamedTuple):
    """What one parameter is told: its own matrix and place, and all matrices, its own among them; none if it is no matrix."""

    own: Tensor
    place: Tensor  # 0-d: a number in Python would be another graph for each parameter
    peers: tuple[Peers, ...]


class RelationState(NamedTuple):
    partner: Tensor  # 0-d, its place, -1 for none
    compatibility: Tensor  # 0-d, with the partner
    factor: Tensor  # 0-d


def fresh(param: Tensor) -> RelationState:
    """Nobody known yet."""
    return RelationState(param.new_full((), -1.0), param.new_zeros(()), param.new_ones(()))


def _itself(matrix: Tensor) -> Tensor:
    return matrix


def seen(param: Tensor, layout: Layout) -> Tensor:
    """What others see of a parameter: all of a matrix, and nothing of what is none."""
    if len(layout.shape(param)) != 2:
        return param.new_zeros(())
    return layout.on_whole(_itself, param, like=0)


def meetings(measured: Sequence[Tensor], infos: Sequence[ParamInfo]) -> list[Meeting]:
    """Every parameter with the matrices of all; a complex one is no matrix, and nor is an empty one."""
    able = [one.dim() == info.param.dim() == 2 and one.numel() > 0 for one, info in zip(measured, infos, strict=True)]
    kinds: dict[tuple[torch.Size, torch.dtype, torch.device], list[int]] = {}
    for i, matrix in enumerate(measured):
        if able[i]:
            kinds.setdefault((matrix.shape, matrix.dtype, matrix.device), []).append(i)
    peers = tuple(_peers([measured[i] for i in members], [infos[i].place for i in members]) for members in kinds.values())
    places = [torch.tensor(info.place, dtype=torch.float64, device="cpu") for info in infos]
    return [Meeting(own, places[i], peers if able[i] else ()) for i, own in enumerate(measured)]


def resting(infos: Sequence[ParamInfo]) -> list[ParamInfo]:
    """The other real matrices of the same group, which have no gradient in this step: partners all the same."""
    first, group = infos[0], infos[0].group
    params: Sequence[Tensor] = group.get("params", ())
    start = next((first.place - i for i, param in enumerate(params) if param is first.param), None)
    if start is None:
        return []
    places: Sequence[int] = group.get("places") or range(start, start + len(params))
    here = {info.place for info in infos}
    others = [(place, p) for place, p in zip(places, params, strict=False) if place not in here]
    return [ParamInfo("", p, group, place) for place, p in others if p.dim() == 2 and not p.is_complex()]


def _peers(matrices: list[Tensor], places: list[int]) -> Peers:
    numbers = torch.tensor(places, dtype=matrices[0].dtype, device="cpu")
    return Peers(torch.stack(matrices), numbers.to(matrices[0].device, non_blocking=True))


def common_sides(own: Sequence[int], other: Sequence[int]) -> int:
    """How many of the four pairs of sides are equal: 0, 1, 2 or 4 for matrices."""
    return sum(a == b for a in own for b in other)


def fitting(meeting: Meeting) -> list[Peers]:
    """The matrices with a side in common with this one, in its own dtype and on its own device."""
    own = meeting.own
    alike = [p for p in meeting.peers if (p.matrices.dtype, p.matrices.device) == (own.dtype, own.device)]
    return [p for p in alike if common_sides(own.shape, p.matrices.shape[1:])]


def compatibility(own: Tensor, peers: Peers) -> Tensor:
    """0.7 (common sides) / 4 + 0.3 |correlation of the elements, row by row, as far as both go|, for every peer."""
    sides = common_sides(own.shape, peers.matrices.shape[1:])
    length = min(own.numel(), peers.matrices[0].numel())
    x, y = own.flatten()[:length], peers.matrices.flatten(1)[:, :length]
    variances, means = torch.var_mean(torch.cat((x[None], y)), 1, correction=0)
    varied = variances > 1e-12 * (variances + means.square())  # what is constant correlates with nothing
    known = varied[1:] & varied[0]
    scale = torch.where(known, (variances[1:] * variances[0]).sqrt() * length, 1)
    correlation = torch.where(known, (y @ (x - means[0])).abs() / scale, 0)
    return 0.7 * sides / 4 + 0.3 * correlation.clamp(max=1)


def product_name(own: Sequence[int], other: Sequence[int]) -> str:
    """The product of A (own) and B (other) that the shapes admit, the first of four."""
    (a0, a1), (b0, b1) = own, other
    return "A B" if a1 == b0 else "B A" if a0 == b1 else "A B'" if a1 == b1 else "A' B"


def product_norm(own: Tensor, other: Tensor) -> Tensor:
    """|X| of that product, 0-d; by the smaller of the product and the Gram matrices."""
    kind = product_name(own.shape, other.shape)
    left, right = {"A B": (own, other), "B A": (other, own), "A B'": (own, other.T), "A' B": (own.T, other)}[kind]
    if left.shape[1] ** 2 < left.shape[0] * right.shape[1]:
        return ((left.T @ left) * (right @ right.T)).sum().clamp(min=0).sqrt()
    return torch.linalg.vector_norm(left @ right)


def factor(compatibility: Tensor, size: Tensor) -> Tensor:
    """What a relation is worth."""
    return (1 + 0.2 * compatibility) / (1 + 0.1 * size)


def findings(label: str, infos: Sequence[ParamInfo]) -> dict[str, object]:
    """The relations that stand in the states, as plain data; the one place that reads them."""
    names = {info.place: info for info in infos}
    found: list[dict[str, object]] = []
    for info in infos:
        place, fit, scale = (info.state.get(f"{label}/{name}") for name in RelationState._fields)
        if place is None or fit is None or scale is None or place.is_meta or int(place) not in names:
            continue
        partner = names[int(place)]
        shapes = [list(info.param.shape), list(partner.param.shape)]
        found.append(
            {
                "parameter": info.name,
                "partner": partner.name,
                "shapes": shapes,
                "compatibility": round(float(fit), 6),
                "product": product_name(*shapes),
                "factor": round(float(scale), 6),
            }
        )
    return {"relations": found}
