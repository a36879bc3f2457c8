"""What an optimizer tells of itself when asked: a few figures a link, and what links have found by name and shape."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from gradchain.optim_wrapper.hyperparameters import BoundLink, name_in
from gradchain.optim_wrapper.rules import members_of, taken
from gradchain.optim_wrapper.shards import whole
from gradchain.types import ParamInfo, SharedTransform

if TYPE_CHECKING:
    from gradchain.optim_wrapper.optimizer import ChainOptimizer

SHOWN = 12  # entries of one finding in the printed table; the data has them all


@dataclass(frozen=True)
class Report:
    """Plain data, ``dataclasses.asdict(report)`` at any depth; printed, a table of means over parameters."""

    steps: tuple[int, int]  # fewest and most steps that a parameter has taken; (0, 0) before the first
    figures: dict[str, dict[str, dict[str, float]]]  # link -> figure -> parameter -> value after its last step
    findings: dict[str, dict[str, Any]]  # link -> finding -> what it says
    labels: dict[str, dict[str, int]] = field(default_factory=lambda: {})  # of a partition -> parameters, elements
    masked: dict[str, dict[str, int]] = field(default_factory=lambda: {})  # link -> parameters it works on, of

    def __str__(self) -> str:
        fewest, most = self.steps
        lines = [f"after {most} steps" if fewest == most else f"after {fewest} to {most} steps"]
        lines += [f"{label}: {n['parameters']} parameters, {n['elements']:,} elements" for label, n in self.labels.items()]
        lines += [f"{link}: works on {n['parameters']} of {n['of']} parameters" for link, n in self.masked.items()]
        rows = [[link, name, *_summary(values)] for link, all_of in self.figures.items() for name, values in all_of.items()]
        lines += _table([["link", "figure", "mean", "least", "most", "parameters"], *rows]) if rows else []
        for link, found in self.findings.items():
            lines += [line for name, value in found.items() for line in _listed(f"{link}: {name}", value)]
        return "\n".join(lines if len(lines) > 1 else [*lines, "no link of this chain has figures or findings yet"])


def report(optimizer: ChainOptimizer) -> Report:
    """Read the state: one transfer per device, and nothing that a step would have to prepare.

    Where parameters are cut over ranks, each has to call it, and each gathers the states.
    """
    optimizer.follow()
    places: list[tuple[str, str, str]] = []
    values: list[Tensor] = []
    steps: list[int] = []
    infos: list[tuple[ParamInfo, Sequence[BoundLink]]] = []
    first = 0  # place of the group's first parameter
    for g, group in enumerate(optimizer.param_groups):
        for i, param in enumerate(group["params"]):
            links = optimizer.links_at(g, i)
            state = {key: whole(value) for key, value in cast("dict[str, Tensor]", optimizer.state.get(param, {})).items()}
            name = name_in(group, g, i)
            infos += [(ParamInfo(name, param, group, first + i, state), links)] if param.requires_grad or state else []
            steps += [int(state["step"])] if state else []
            for link in links:
                if state and param.numel() and all(key in state for key in link.state_keys):
                    told = link.transform.figures(link.transform.State(*[state[key] for key in link.state_keys]))
                    places += [(link.label, figure, name) for figure in told]
                    values += told.values()
        first += len(group["params"])
    figures: dict[str, dict[str, dict[str, float]]] = {}
    for (label, figure, name), value in zip(places, _read(values), strict=True):
        figures.setdefault(label, {}).setdefault(figure, {})[name] = value
    findings: dict[str, dict[str, Any]] = {}
    order: list[str] = []
    for label in optimizer.chain.parts:  # a shared link tells of the parameters that meet in it
        mine = [(info, links) for info, links in infos if optimizer.chain.label_of(info.group) == label]
        for i, link in enumerate(optimizer.binder.bind(mine[0][0].group) if mine else ()):
            order.append(link.label)
            meeting = [info for info, links in mine if isinstance(links[i].transform, SharedTransform)]
            if isinstance(link.transform, SharedTransform) and (found := link.transform.findings(meeting)):
                findings.setdefault(link.label, {}).update(found)
    figures = {label: figures[label] for label in sorted(figures, key=order.index)}
    return Report((min(steps, default=0), max(steps, default=0)), figures, findings, *_counts(optimizer))


def _counts(optimizer: ChainOptimizer) -> tuple[dict[str, dict[str, int]], dict[str, dict[str, int]]]:
    """How many parameters fall to each label of a partition, and on how many each link of masked() works."""
    labels: dict[str, dict[str, int]] = {}
    masked: dict[str, dict[str, int]] = {}
    for label, chain in optimizer.chain.parts.items():
        infos = members_of(optimizer, label)
        if label:
            labels[label] = {"parameters": len(infos), "elements": sum(info.param.numel() for info in infos)}
        for link in chain.links if infos else ():
            if link.only is not None:
                place = f"{label}/{link.label}" if label else link.label
                masked[place] = {"parameters": len(taken(link, infos)), "of": len(infos)}
    return labels, masked


def _read(values: Sequence[Tensor]) -> list[float]:
    """Their numbers, in the order given; nan for what has none (the meta device)."""
    read = [float("nan")] * len(values)
    by_device: dict[torch.device, list[int]] = {}
    for i, value in enumerate(values):
        if not value.is_meta:
            by_device.setdefault(value.device, []).append(i)
    for places in by_device.values():
        numbers = torch.stack([values[i].detach().to(torch.float64) for i in places]).tolist()
        for i, number in zip(places, numbers, strict=True):
            read[i] = number
    return read


def _summary(values: Mapping[str, float]) -> list[str]:
    numbers = list(values.values())
    return [*(f"{x:.4g}" for x in (sum(numbers) / len(numbers), min(numbers), max(numbers))), str(len(numbers))]


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return [lines[0], "  ".join("-" * width for width in widths), *lines[1:]]


def _listed(title: str, value: Any) -> list[str]:
    """A finding as text; a long one is cut."""
    if isinstance(value, Mapping):
        entries = [f"{key}: {one}" for key, one in cast("Mapping[Any, Any]", value).items()]
    elif isinstance(value, list | tuple):
        entries = [str(one) for one in cast("Sequence[Any]", value)]
    else:
        return [f"{title}: {value}"]
    more = [f"  ... and {len(entries) - SHOWN} more"] if len(entries) > SHOWN else []
    return [f"{title}: {len(entries) or 'none'}", *(f"  {entry}" for entry in entries[:SHOWN]), *more]
