"""Recipes at work: as optimizers, and as pure functions.

Chains and partitions know no optimizer: ``optim_wrapper`` registers its own when the package is imported.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Generic, NamedTuple, Self, TypeVar, cast

from torch import Tensor
from torch.optim import Optimizer
from typing_extensions import override

from gradchain.chains.reports import LoadReport, Report

R = TypeVar("R")  # a chain or a partition
Params = Mapping[str, Tensor] | Sequence[Tensor]


class RecipeOptimizer(Optimizer, Generic[R]):
    """The optimizer that ``recipe.optimizer(params)`` makes, as users see it: a ``gradchain.ChainOptimizer``."""

    chain: R

    @property
    def train(self) -> Callable[[], None]:
        """Put the training values back in place of the average; only optimizers of chains with an average have it."""
        raise NotImplementedError

    @property
    def eval(self) -> Callable[[], None]:
        """Put the average in place of the parameters, to evaluate the model; likewise."""
        raise NotImplementedError

    @override
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step. The closure, if given, computes loss and gradients anew; its loss is returned.

        Gradients and states are checked first: when one does not fit its parameter, ChainError is raised and nothing has
        changed. The step does not depend on the caller's autocast or inference mode; the closure runs in them.
        """
        raise NotImplementedError

    def bind_names(self, named_parameters: Iterable[tuple[str, Tensor]]) -> None:
        """Give parameters their names after the fact, as from ``model.named_parameters()``; others keep what they have."""
        raise NotImplementedError

    def report(self) -> Report:
        """Figures of the links after the last step, and their findings about names and shapes; ``print`` it for a table."""
        raise NotImplementedError

    def name_of(self, param: Tensor) -> str:
        """The parameter's name, or its group and position where parameters came without names."""
        raise NotImplementedError

    def by_label(self, values: Mapping[str, Any]) -> list[Any]:
        """One value for each group, by its label: ``LambdaLR(optimizer, optimizer.by_label({"muon": f, "adamw": g}))``."""
        raise NotImplementedError

    @override
    def load_state_dict(  # pyright: ignore[reportIncompatibleMethodOverride]  (torch's returns nothing)
        self, state_dict: dict[str, Any], strict: bool = False
    ) -> LoadReport:
        """Load by link name, keeping each state's dtype; values are copied into the live state where there is one.

        Parameters are matched by name where both sides have names, by position otherwise. State that ``torch.optim`` has
        saved goes to the matching links. Saved state without a link is dropped, and state that was not saved starts afresh:
        the report that is returned says so, with a ChainWarning; ``strict=True`` raises ChainError instead, as does state of
        the wrong shape. Nothing has changed when it raises.
        """
        raise NotImplementedError


class Wrapper(NamedTuple):
    """The functions that run recipes."""

    optimizer: Callable[..., RecipeOptimizer[Any]]  # of parameters, recipe and options
    init: Callable[[Any, Params], Any]  # of recipe and parameters
    update: Callable[[Any, Any, Any, Params, Mapping[str, Any]], tuple[Any, Any]]  # of recipe, gradients, state, ..., values


_registered: list[Wrapper] = []


def register(wrapper: Wrapper) -> None:
    """Let this wrapper run all recipes from now on."""
    _registered[:] = [wrapper]


class Runnable:
    """The ways in which chains and partitions run."""

    def optimizer(
        self,
        params: Iterable[Any],
        *,
        driver: str = "auto",
        accumulate: int = 1,
        finite_gate: bool = False,
        flatten: bool = False,
        maximize: bool = False,
        **hyperparameters: Any,
    ) -> RecipeOptimizer[Self]:
        """Bind the recipe to parameters: a ``torch.optim.Optimizer``.

        ``params`` are tensors, ``named_parameters()`` or group dicts. ``hyperparameters`` override those of the links by
        their keys in ``param_groups``, for all groups that do not set their own: ``lr=0.1`` in every chain that has one,
        ``muon={"lr": 0.1}`` in the chain of a partition's label. A group may carry the same keys, and ``"label"`` to decide
        for all its parameters. The other options are those of ``ChainOptimizer``.
        """
        options: dict[str, Any] = {"driver": driver, "accumulate": accumulate, "finite_gate": finite_gate, "flatten": flatten}
        made = _registered[0].optimizer(params, self, **options, maximize=maximize, **hyperparameters)
        return cast("RecipeOptimizer[Self]", made)

    def init(self, params: Params) -> Any:
        """The state of a run without an optimizer, see ``optim_wrapper.functional``: by parameter, flat, by link."""
        return _registered[0].init(self, params)

    def update(self, grads: Any, state: Any, params: Params, **hyperparameters: Any) -> tuple[Any, Any]:
        """(updates to subtract from ``params``, the new state); pure: differentiate it, or map it with ``torch.func.vmap``."""
        return _registered[0].update(self, grads, state, params, hyperparameters)
