"""Which parameters: rules on a parameter's name, shape and module, for ``partition`` and ``masked``.

A rule is a pattern for the name ("*.bias", or a compiled regular expression), a function of (name, parameter), a rule made
here, or several of these, of which one must hold. Rules made here combine: ``matrices & ~in_modules(model, nn.Embedding)``.
Rules see names as the model has them that is inside wrappers: "_orig_mod.head.weight" is "head.weight"; a pattern may also be
written for the whole name. A parameter that came without a name is called "<group>.<position>".
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Union

from torch import Tensor, nn
from typing_extensions import override

from gradchain.chains.hidden import is_no_hidden_matrix
from gradchain.transforms._names import bare
from gradchain.types import ChainError

Where = Union[str, "re.Pattern[str]", Callable[[str, Tensor], bool], Sequence["Where"]]


class Rule(ABC):
    """Yes or no for each parameter; ``~``, ``&`` and ``|`` combine rules."""

    @abstractmethod
    def __call__(self, name: str, param: Tensor) -> bool:
        """Whether the parameter is meant."""

    @property
    def looks_at(self) -> str:
        """The properties a rule decides by: "names", "shapes" or, for a function of the caller's, "unknown"."""
        return "unknown"

    def __invert__(self) -> Rule:
        return Not(self)

    def __and__(self, other: Where) -> Rule:
        return Several((self, rule(other)), every=True)

    def __or__(self, other: Where) -> Rule:
        return Several((self, rule(other)))


@dataclass(frozen=True, repr=False)
class Named(Rule):
    """Parameters whose whole name fits a pattern."""

    pattern: str | re.Pattern[str]

    @override
    def __call__(self, name: str, param: Tensor) -> bool:
        return any(map(self._fits, {bare(name), name}))

    def _fits(self, name: str) -> bool:
        return fnmatchcase(name, self.pattern) if isinstance(self.pattern, str) else bool(self.pattern.fullmatch(name))

    @property
    @override
    def looks_at(self) -> str:
        return "names"

    def __repr__(self) -> str:
        return repr(self.pattern)


@dataclass(frozen=True, repr=False)
class Asked(Rule):
    """Parameters for which a function of (name, parameter) says so."""

    function: Callable[[str, Tensor], bool]

    @override
    def __call__(self, name: str, param: Tensor) -> bool:
        return bool(self.function(bare(name), param))

    @property
    @override
    def looks_at(self) -> str:
        return next((what for function, what in LOOK_AT if function is self.function), "unknown")

    def __repr__(self) -> str:
        return getattr(self.function, "__name__", repr(self.function)).strip("_")


@dataclass(frozen=True, repr=False)
class Not(Rule):
    """All other parameters."""

    one: Rule

    @override
    def __call__(self, name: str, param: Tensor) -> bool:
        return not self.one(name, param)

    @property
    @override
    def looks_at(self) -> str:
        return self.one.looks_at

    @override
    def __invert__(self) -> Rule:
        return self.one

    def __repr__(self) -> str:
        return f"~{self.one!r}"


@dataclass(frozen=True, repr=False)
class Several(Rule):
    """Parameters for which one of several rules holds, or every one of them."""

    rules: tuple[Rule, ...]
    every: bool = False

    @override
    def __call__(self, name: str, param: Tensor) -> bool:
        return (all if self.every else any)(one(name, param) for one in self.rules)

    @property
    @override
    def looks_at(self) -> str:
        looks = {one.looks_at for one in self.rules}
        return next((kind for kind in ("names", "unknown") if kind in looks), "shapes")

    def __repr__(self) -> str:
        return f"({(' & ' if self.every else ' | ').join(map(repr, self.rules))})"


@dataclass(frozen=True, repr=False)
class InModules(Rule):
    """Parameters with these names; see ``in_modules``."""

    names: frozenset[str]
    kinds: str

    @override
    def __call__(self, name: str, param: Tensor) -> bool:
        return bare(name) in self.names

    @property
    @override
    def looks_at(self) -> str:
        return "names"

    def __repr__(self) -> str:
        return f"in_modules(model, {self.kinds})"


def rule(where: Where) -> Rule:
    """A pattern, a function, or several, as one rule."""
    if isinstance(where, Rule):
        return where
    if isinstance(where, str | re.Pattern):
        return Named(where)
    if isinstance(where, type) or not (isinstance(where, Sequence) or callable(where)):
        raise ChainError(
            f"a rule on parameters is a pattern, a function of (name, parameter) or a list of these; found {where!r}. "
            "For a type of module, pass in_modules(model, nn.Linear)."
        )
    if callable(where):
        return Asked(where)
    return Several(tuple(map(rule, where)))


def in_modules(model: nn.Module, *kinds: type[nn.Module]) -> Rule:
    """The parameters that modules of these types hold themselves.

    They are known by their names in ``model``, so pass ``model.named_parameters()`` to the optimizer. Either may be wrapped
    (compiled, FSDP, DistributedDataParallel).
    """
    names = {
        bare(f"{path}.{name}" if path else name)
        for path, module in model.named_modules()
        if isinstance(module, kinds)
        for name, _ in module.named_parameters(recurse=False)
    }
    return InModules(frozenset(names), ", ".join(kind.__name__ for kind in kinds))


def _matrices(name: str, param: Tensor) -> bool:
    return param.dim() >= 2


def _biases_and_norms(name: str, param: Tensor) -> bool:
    return param.dim() < 2 or re.search(r"(^|\.)bias$|norm", name, re.IGNORECASE) is not None


def _hidden_matrices(name: str, param: Tensor) -> bool:
    return param.dim() >= 2 and not is_no_hidden_matrix(name)


LOOK_AT: tuple[tuple[Callable[[str, Tensor], bool], str], ...] = (
    (_matrices, "shapes"),
    (_biases_and_norms, "shapes"),  # names only tell biases and norms of more than one dimension
    (_hidden_matrices, "names"),
)

matrices = Asked(_matrices)  # two or more dimensions
biases_and_norms = Asked(_biases_and_norms)  # what is usually not decayed: fewer than two dimensions, or named so
hidden_matrices = Asked(_hidden_matrices)  # matrices that are no embedding, output head or classifier by their name
