"""Different chains for different parameters, in one optimizer.

    partition({"muon": chain(...), "adamw": chain(...)}, by={"muon": hidden_matrices}).optimizer(model.named_parameters())

Every group of parameters is split into one group for each label that occurs in it; ``group["label"]`` says which, and the
group holds the hyperparameters of that label's chain. State keys are those of the chains alone.

Schedulers that cycle momentum (OneCycleLR, CyclicLR) write one key into all groups, ``betas`` or ``momentum``: they work where
all chains have it, and torch raises ValueError where one has ``momentum`` and another ``betas`` (Muon beside AdamW). There
pass ``cycle_momentum=False``, and give the momentum a schedule of its own: ``muon={"momentum": lambda step: ...}``.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

from torch import Tensor

from gradchain._fields import instead, nearest
from gradchain.chains.chain import Chain, chain
from gradchain.chains.runnable import Runnable
from gradchain.chains.where import Rule, Where, rule
from gradchain.transforms._names import bare
from gradchain.types import ChainError, ChainWarning, Transform

By = Mapping[str, Where] | Callable[[str, Tensor], str] | None
SHOWN = 8  # names in an error
MADE_UP = re.compile(r"\d+\.\d+(\.lora_[AB])?")  # names of parameters that came without names, see optim_wrapper.names


@dataclass(frozen=True, repr=False)
class Partition(Runnable):
    """Chains by label, and which parameter falls to which. Make one with ``partition``."""

    chains: Mapping[str, Chain]
    by: Mapping[str, Rule] | Callable[[str, Tensor], str] | None

    def __post_init__(self) -> None:
        climbing = [(label, one) for label, part in self.chains.items() for one in part.links if "perturbs" in one.traits]
        for label, one in climbing[1:]:
            first, other = climbing[0]
            if type(one) is not type(other):
                raise ChainError(
                    f"{other.label!r} of {first!r} and {one.label!r} of {label!r} climb in one step, and each in its own way. "
                    "Use one of them in both."
                )

    @property
    def parts(self) -> Mapping[str, Chain]:
        """The chains by label, as ``Chain.parts`` has one without."""
        return self.chains

    @property
    def links(self) -> tuple[Transform[Any], ...]:
        """The links of all chains."""
        return tuple(link for one in self.chains.values() for link in one.links)

    def label_of(self, group: Mapping[str, Any]) -> str:
        """The key in ``parts`` of the chain that a parameter group runs."""
        label = group.get("label")
        if label not in self.chains:
            found = "has no label" if label is None else f"is labeled {label!r}"
            meant = nearest(label, self.chains)
            what = "Give it one of these." if meant is None else f"Did you mean {meant!r}?"
            raise ChainError(f"a group of parameters {found}; labels are: {', '.join(self.chains)}. {what}")
        return cast(str, label)

    def map(self, change: Callable[[Chain], Chain]) -> Partition:
        """Every chain changed in the same way."""
        return replace(self, chains={label: change(one) for label, one in self.chains.items()})

    def replace(self, **chains: Chain) -> Partition:
        """The partition with the chains of these labels exchanged."""
        for label in chains:
            self.label_of({"label": label})
        return replace(self, chains={**self.chains, **chains})

    def ablations(self) -> dict[str, Partition]:
        """One partition per removable link, by label and name of the link left out."""
        return {
            f"{label}/{name}": self.replace(**{label: shorter})
            for label, one in self.chains.items()
            for name, shorter in one.ablations().items()
        }

    def override(self, values: Mapping[str, Any]) -> Partition:
        """Hyperparameters exchanged: ``lr=0.1`` in every chain that has one, ``muon={"lr": 0.1}`` in one chain."""
        own = {label: dict(cast("Mapping[str, Any]", values[label])) for label in self.chains if label in values}
        common = {key: value for key, value in values.items() if key not in own}
        has = {label: one.hyperparameters for label, one in self.chains.items()}
        if unknown := [key for key in common if not any(key in keys for keys in has.values())]:
            there = "; ".join(f"{label}: {', '.join(keys)}" for label, keys in has.items())
            meant = nearest(unknown[0], [*has, *(key for keys in has.values() for key in keys)])
            raise ChainError(
                f"no chain has a hyperparameter {unknown[0]!r}; there are {there}. "
                + (f"Did you mean {meant!r}?" if meant is not None else "Use one of these or a label.")
            )
        changes = {label: {key: v for key, v in common.items() if key in has[label]} | own.get(label, {}) for label in has}
        return replace(self, chains={label: one.override(changes[label]) for label, one in self.chains.items()})

    def split(self, group: Mapping[str, Any], names: Iterable[str]) -> list[dict[str, Any]]:
        """A group of parameters as one group per label that occurs in it; what was under ``group[label]`` counts there only."""
        params, names = list(cast("Iterable[Tensor]", group["params"])), list(names)
        label = group.get("label", None if params else next(iter(self.chains)))
        if label is not None:
            self.label_of({"label": label})
        labels = [label] * len(params) if label is not None else self._labels(params, names)
        lists = {key: list(group[key]) for key in ("params", "param_names", "named") if key in group}
        rest = {key: value for key, value in group.items() if key not in (*self.chains, *lists)}
        groups: list[dict[str, Any]] = []
        for one in self.chains:
            mine = [i for i, other in enumerate(labels) if other == one]
            if mine or one == label:
                parts = {key: [entries[i] for i in mine] for key, entries in lists.items()}
                groups.append({**parts, **rest, **group.get(one, {}), "label": one})
        return groups

    def describe(self) -> str:
        """The tables of all chains."""
        if isinstance(self.by, Mapping):
            which = {label: repr(self.by[label]) if label in self.by else "what no other rule takes" for label in self.chains}
        else:
            which = dict.fromkeys(self.chains, "by the label of the group" if self.by is None else f"by {self.by!r}")
        return "\n\n".join(f"{label} ({which[label]})\n{one.describe()}" for label, one in self.chains.items())

    def __repr__(self) -> str:
        by = "" if self.by is None else f", by={self.by!r}"
        return f"partition({dict(self.chains)!r}{by})"

    def _labels(self, params: list[Tensor], names: list[str]) -> list[str]:
        """Every parameter's label; ChainError names those that have none or several."""
        if self.by is None:
            raise ChainError(
                "this partition goes by the labels of groups, and a group has none. "
                f"Pass groups such as {{'params': ..., 'label': {next(iter(self.chains))!r}}}, or rules in by=."
            )
        found = [self._fitting(name, param) for name, param in zip(names, params, strict=True)]
        none = [name for name, labels in zip(names, found, strict=True) if not labels]
        several = [f"{name} ({', '.join(labels)})" for name, labels in zip(names, found, strict=True) if len(labels) > 1]
        if none or several:
            text = "; ".join(
                f"{listed[0]}: {', '.join(listed[1][:SHOWN])}{f' and {len(listed[1]) - SHOWN} more' * (len(listed[1]) > SHOWN)}"
                for listed in (("to none", none), ("to several", several))
                if listed[1]
            )
            raise ChainError(
                f"every parameter must fall to exactly one of {', '.join(self.chains)}; there fall {text}. "
                "Change the rules, leave one label without a rule for the rest, or pass named_parameters() for rules on names."
            )
        self._warn_without_names(names)
        return [labels[0] for labels in found]

    def _warn_without_names(self, names: list[str]) -> None:
        """ChainWarning where rules look at names and there are none; names that come later do not split groups again."""
        if not isinstance(self.by, Mapping) or not nameless(names):
            return
        if blind := [f"{one!r} for {label!r}" for label, one in self.by.items() if one.looks_at == "names"]:
            warnings.warn(
                f"parameters fall to {', '.join(self.chains)} by rules on names ({', '.join(blind)}), but found "
                f"{len(names)} parameters without names, whose embeddings and heads cannot be told from other matrices. "
                "Pass model.named_parameters(), or groups with labels.",
                ChainWarning,
                stacklevel=2,
            )

    def _fitting(self, name: str, param: Tensor) -> list[str]:
        if callable(self.by):
            label = self.by(bare(name), param)
            return [label] if label in self.chains else []
        rules = self.by or {}
        fitting = [label for label, fits in rules.items() if fits(name, param)]
        return fitting or [label for label in self.chains if label not in rules]


def nameless(names: Iterable[str]) -> bool:
    """Whether there are parameters, and all of their names were made up."""
    names = list(names)
    return bool(names) and all(map(MADE_UP.fullmatch, names))


Recipe = Chain | Partition  # what an optimizer can be made of


def partition(chains: Mapping[str, Chain | Transform[Any]], by: By = None) -> Partition:
    """Chains by label for the parameters that fall to them.

    by: a rule for each label (see ``gradchain.chains.where``), of which one label may be left out: it takes what no other
    rule takes; or a function of (name, parameter) that gives the label; or None, where every group carries its ``"label"``.
    """
    if not chains or not all(isinstance(label, str) and label.isidentifier() for label in chains):
        raise ChainError(f"labels of a partition are words; found {list(chains)!r}. Pass as {{'muon': chain(...), ...}}.")
    built = {label: one if isinstance(one, Chain) else chain(one) for label, one in chains.items()}
    if clash := [label for label in built for one in built.values() if label in {*one.hyperparameters, "params", "label"}]:
        raise ChainError(f"{clash[0]!r} is a key of parameter groups, so it cannot be a label. Use another word.")
    if by is None or callable(by):
        return Partition(built, by)
    if unknown := [label for label in by if label not in built]:
        raise ChainError(
            f"by has a rule for {unknown[0]!r}, but the chains are: {', '.join(built)}. {instead(unknown[0], built)}"
        )
    if len(missing := [label for label in built if label not in by]) > 1:
        raise ChainError(f"{' and '.join(map(repr, missing))} have no rule; one label at most may take the rest. Add rules.")
    return Partition(built, {label: rule(where) for label, where in by.items()})
