"""What an optimizer tells of itself when asked: a few figures a link, and what links have found by name and shape."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor

from gradchain.chains.reports import Report
from gradchain.optim_wrapper.base import OptimizerBase
from gradchain.optim_wrapper.hyperparameters import BoundLink, name_in
from gradchain.optim_wrapper.rules import members_of, taken
from gradchain.optim_wrapper.shards import whole
from gradchain.types import ParamInfo, SharedTransform


def report(optimizer: OptimizerBase) -> Report:
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


def _counts(optimizer: OptimizerBase) -> tuple[dict[str, dict[str, int]], dict[str, dict[str, int]]]:
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
