"""Warnings about rules that look at parameters and find none: most likely names are missing or misspelled."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor

from gradchain.chains.lints import is_off
from gradchain.chains.partition import Partition, nameless
from gradchain.chains.where import rule
from gradchain.optim_wrapper.base import OptimizerBase
from gradchain.optim_wrapper.hyperparameters import name_in
from gradchain.types import ChainWarning, ParamInfo, SharedTransform, Transform

NAMES = "Pass named_parameters() or call bind_names() before the first step."


def warn_about_rules(optimizer: OptimizerBase) -> None:
    """ChainWarning where a rule of masked() or partition() takes no parameter or sees no names, or where no adapter is found.

    Called at the first step, when all groups and names are there. A rule on shapes that takes nothing is no reason for a
    warning: it says something about the model.
    """
    if torch.compiler.is_compiling():  # a graph cannot warn
        return
    optimizer.rules_checked = True
    for complaint in complaints(optimizer):
        warnings.warn(complaint, ChainWarning, stacklevel=3)


def complaints(optimizer: OptimizerBase) -> Iterator[str]:
    """What is to be warned about, in words."""
    members = {label: members_of(optimizer, label) for label in optimizer.chain.parts}
    yield from _empty_labels(optimizer, members)
    for label, infos in members.items():
        if infos:
            links = optimizer.chain.parts[label].links
            yield from _masks(links, infos)
            yield from _adapters(links, infos)


def members_of(optimizer: OptimizerBase, label: str) -> list[ParamInfo]:
    """All parameters that run the chain of a label, with a gradient or without."""
    infos: list[ParamInfo] = []
    place = 0
    for g, group in enumerate(optimizer.param_groups):
        params = cast("Sequence[Tensor]", group["params"])
        if optimizer.chain.label_of(group) == label:
            infos += [ParamInfo(name_in(group, g, i), param, group, place + i) for i, param in enumerate(params)]
        place += len(params)
    return infos


def taken(link: Transform[Any], infos: Sequence[ParamInfo]) -> list[ParamInfo]:
    """The parameters on which a link works by the rule of masked()."""
    if link.only is None:
        return list(infos)
    fits = rule(link.only)
    return [info for info in infos if fits(info.name, info.param)]


def _empty_labels(optimizer: OptimizerBase, members: Mapping[str, Sequence[ParamInfo]]) -> Iterator[str]:
    recipe = optimizer.chain
    if not isinstance(recipe, Partition) or recipe.by is None or not any(members.values()):
        return
    for label in recipe.chains:
        if isinstance(recipe.by, Mapping):
            if label not in recipe.by or recipe.by[label].looks_at == "shapes":
                continue
            by = f"its rule {recipe.by[label]!r} takes none"
        else:
            by = f"{recipe.by!r} gives it to none"
        if not members[label]:
            total = sum(map(len, members.values()))
            yield f"no parameter falls to {label!r}: {by} of {total}. Change the rule, or do without {label!r}."


def _masks(links: Sequence[Transform[Any]], infos: Sequence[ParamInfo]) -> Iterator[str]:
    """One complaint for each rule, as one rule often masks several links."""
    masked: dict[str, list[Transform[Any]]] = {}
    for link in links:
        if link.only is not None and rule(link.only).looks_at != "shapes":
            masked.setdefault(repr(link.only), []).append(link)
    blind = nameless(info.name for info in infos)
    for text, same in masked.items():
        labels = ", ".join(repr(link.label) for link in same)
        if blind and rule(same[0].only or "").looks_at == "names":
            yield f"{labels}: the rule {text} goes by names, but found {len(infos)} parameters without names. {NAMES}"
        elif not taken(same[0], infos):
            yield f"{labels}: the rule {text} takes none of {len(infos)} parameters. Change the rule, or leave the link out."


def _adapters(links: Sequence[Transform[Any]], infos: Sequence[ParamInfo]) -> Iterator[str]:
    """A complaint where no link that works on pairs finds one; links for different kinds of adapters stand together."""
    seeking: list[str] = []
    misses: list[str] = []
    for link in links:
        if "names" in link.traits and isinstance(link, SharedTransform) and not is_off(link):
            findings = link.findings(taken(link, infos))
            if findings.get("pairs"):
                return
            seeking += [link.label] if findings.keys() & {"pairs", "names"} else []
            misses += findings.get("near misses", [])
    if seeking:
        labels, them = ", ".join(map(repr, seeking)), "them" if len(seeking) > 1 else "it"
        why = "no names" if nameless(info.name for info in infos) else "no names of adapters"
        why = f"near misses ({misses[0]})" if misses else why
        yield f"{labels}: found no pair of adapters; the {len(infos)} parameters have {why}. {NAMES} Or leave {them} out."
