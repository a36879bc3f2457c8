"""What flows along a chain, what a link is told, and what a link is.

A *transform* is a technique; a *link* is a transform standing in a chain. A link sees one parameter at a time:

    carry, state = link.update(carry, state, ctx)

and returns new values; it edits nothing that it was given. How links are executed (one by one, stacked, compiled,
on shards, in which precision) is decided elsewhere and never shows here.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Annotated, Any, ClassVar, Generic, Literal, NamedTuple, Protocol, Self, cast

import torch
from torch import Tensor
from typing_extensions import TypeVar

from gradchain._declared import check_class, check_fields, check_schedule
from gradchain._fields import ChainError, checked, field_hints, refuse_unknown

__all__ = [
    "UNSET",
    "Carry",
    "ChainError",
    "ChainWarning",
    "Context",
    "Layout",
    "NoState",
    "ParamInfo",
    "SharedTransform",
    "TRAITS",
    "Transform",
]

UNSET = cast(Tensor, None)  # a slot that nobody has written; a chain proves when it is built that nobody reads it

TRAITS: Mapping[str, str] = {  # what a link can say of itself; checks of chains, drivers and the optimizer look at them
    "aligns": "aligns the update with the gradient",
    "averages": "keeps weights to evaluate with",
    "caps": "limits the size of the update",
    "decays": "draws the parameter towards zero, or towards another value",
    "eager": "runs one parameter at a time, untraced",
    "enlarges": "may enlarge the update",
    "favors_b": "gives B of a LoRA pair a longer step than A",
    "learning_rate": "multiplies by the learning rate",
    "names": "goes by names of parameters",
    "normalizes": "divides the update by its size",
    "optimizer_step": "reads the optimizer's count of steps (ctx.total), or refreshes by it",
    "owns": "owns the write of the parameter: no link behind it changes the step",
    "perturbs": "has the gradients taken at other parameters, which needs a closure",
    "solves": "evaluates the loss at points of its own, which needs a closure",
}


class ChainWarning(UserWarning):
    """A chain that runs, but most likely does not do what was meant."""


class Carry(NamedTuple):
    """What flows along the chain for one parameter. A link returns a new one, ``carry._replace(update=...)``."""

    grad: Tensor  # the gradient as delivered; never rewritten
    param: Tensor  # the parameter before this step; never rewritten
    update: Tensor  # starts as grad; what is left at the end is SUBTRACTED from the parameter
    second_moment: Tensor = UNSET  # estimate of E[g^2]; written by a moments link, consumed by a normalizing one
    gate: Tensor = UNSET  # 0-d, starts at 1; 0 means "leave this parameter untouched this step"
    processed: Tensor = UNSET  # the gradient as the links before Signal() left it; starts as grad
    residual: Tensor = UNSET  # newest signal minus its momentum; written by a momentum link, consumed by a confidence one
    scale: Tensor = UNSET  # 0-d or like the parameter, starts at 1: product of adaptive factors, applied by ApplyScale()
    bump_scale: Tensor = UNSET  # 0-d or like the parameter, starts at 1: factor on the bumps of a learning rate mask
    eps_scale: Tensor = UNSET  # 0-d, starts at 1: factor on the eps of ScaledNormalize()
    regularized: Tensor = UNSET  # what processed was before DualMomentum put its average there; written by it

    branches: tuple[Any, ...] = ()  # for each parallel that is open: what entered it, and what its branches have given

    @property
    def signal(self) -> Tensor:
        """What directions are compared with: the processed gradient, or the gradient as delivered."""
        return self.grad if self.processed is UNSET else self.processed


class Layout(Protocol):
    """Where the elements of a parameter live. Right on one device and on a shard of a parameter.

    A link asks its layout for every number that concerns more than one element, and for the parameter's shape. With
    ``dim``, x is cut over ranks where the parameter is cut (a row statistic, say); without, it is like the parameter.
    """

    def shape(self, x: Tensor) -> torch.Size: ...  # of the whole tensor of which x is the local piece
    def sum(self, x: Tensor, dim: int | None = None) -> Tensor: ...  # 0-d, or with dim: kept as an extent of 1
    def mean(self, x: Tensor, dim: int | None = None) -> Tensor: ...  # likewise; 0 for an empty tensor
    def dot(self, x: Tensor, y: Tensor) -> Tensor: ...  # 0-d, sum of products
    def norm(self, x: Tensor) -> Tensor: ...  # 0-d, Euclidean
    def pad(self, x: Tensor, dim: int) -> Tensor: ...  # x with its wrapped border: one more entry at either end of dim

    def on_whole(self, work: Callable[..., Any], *xs: Tensor, like: int = 1) -> Any:
        """``work(*xs)`` on whole tensors like the parameter (SVD, sort, FFT); what it gives.

        Of what it gives, a tensor or a tuple, the first ``like`` have the parameter's shape; the others are small. ``work``
        is pure; on shards it runs on one rank for each parameter, on tensors in the parameter's shape.
        """
        ...


class Context(NamedTuple):
    """What the optimizer tells every link about this step."""

    step: Tensor  # 0-d float64: this parameter's own count of steps with a gradient, 1 on the first
    lr: Tensor  # 0-d float64: the group's current learning rate, for links that scale with it besides LearningRate
    shared: Any  # this link's own share() result for this parameter
    layout: Layout
    dtype: torch.dtype = torch.float32  # in which the parameter is stored, by its real parts
    optimizer_step: Tensor = UNSET  # 0-d float64: steps of the optimizer, this one included, whether or not the parameter had
    # a gradient in them; UNSET where no link of the chain has the trait "optimizer_step"

    @property
    def total(self) -> Tensor:
        """The optimizer's steps; the parameter's own, where nobody counts those."""
        return self.step if self.optimizer_step is UNSET else self.optimizer_step


class NoState(NamedTuple):
    """The state of a transform that keeps none."""


class ParamInfo(NamedTuple):
    """What a shared transform is told about each parameter that has a gradient in this step."""

    name: str  # as in named_parameters(), or "<group>.<position>" when the parameters came without names
    param: Tensor
    group: Mapping[str, Any]
    place: int = 0  # among all parameters of the optimizer, with and without a gradient
    state: Mapping[str, Tensor] = {}  # flat, by "<link>/<name>"; filled in for findings() only


S = TypeVar("S", bound="tuple[Tensor, ...]", default=NoState)


@dataclass(frozen=True, kw_only=True)
class Transform(ABC, Generic[S]):
    """One technique. The fields of the dataclass are its hyperparameters; subclasses are final.

    A float field takes a number, a 0-d tensor or a schedule (``step -> value``); while an optimizer runs, a link sees
    it as a 0-d float64 tensor that holds the group's current value. Fields are checked against their annotation when
    the transform is made: ``Annotated[float, "[0, 1)"]`` states an interval, ``Literal`` the choices.

    Every parameter keeps its own state. A number that exists once for the whole optimizer, say a norm's history, is kept by
    each as a copy, and its state is named in ``common``, behind one that counts the steps the number has seen: before every
    step all parameters take over the numbers of the one whose count is largest, so a parameter that joins late, or that had
    no gradient for a while, goes by what the others know.

    Raises ChainError when a class declares traits, slots or fields that do not exist.
    """

    State: ClassVar[type[tuple[Tensor, ...]]] = NoState
    reads: ClassVar[frozenset[str]] = frozenset({"update"})  # slots of Carry
    writes: ClassVar[frozenset[str]] = frozenset({"update"})
    traits: ClassVar[frozenset[str]] = frozenset()  # some of TRAITS
    off: ClassVar[Mapping[str, float]] = {}  # field -> value at which the link does nothing
    idle: ClassVar[Mapping[str, float]] = {}  # field -> value at which the link does nothing and needs no state: it is left out
    alias: ClassVar[str] = ""  # its name in a chain, where the class name in snake case would not do (LoRA: lo_ra)
    common: ClassVar[tuple[str, ...]] = ()  # states that are one number for all parameters, counted by the first; see below
    common_to: ClassVar[Literal["optimizer", "group"]] = "optimizer"  # whether all parameters are those of one group
    refreshes_by: ClassVar[Literal["step", "optimizer_step"]] = "step"  # the count that ``refresh_schedule`` is about
    removable: ClassVar[bool] = True  # False where leaving the link out makes no sense in an ablation
    settings: ClassVar[tuple[str, ...]] = ("window", "only", "scope", "name")  # fields that parameter groups do not hold

    window: tuple[Annotated[int, "[1, inf)"], Annotated[int, "[1, inf)"] | None] = (1, None)  # see Phase()
    only: Callable[[str, Tensor], bool] | None = None  # parameters, by name, on which the link works; see masked()
    scope: str = ""  # the branch in which it stands, ahead of its name and keys; see parallel()
    name: str = ""  # key of its state, and prefix of its hyperparameters where given; default: class name in snake case

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        check_class(cls, TRAITS, [slot for slot in Carry._fields if slot != "branches"])

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """A link, after a look at the keywords: a misspelled one is answered with the nearest."""
        if kwargs:
            refuse_unknown(cls.__name__, cls.__init__, kwargs)
        return super().__new__(cls)

    def __post_init__(self) -> None:
        check_fields(type(self))
        for field in fields(self):
            value = getattr(self, field.name)
            hint = field_hints(type(self))[field.name]
            object.__setattr__(self, field.name, checked(f"{self.label!r}", field.name, value, hint, field.default))
        start, stop = self.window
        if stop is not None and stop <= start:
            raise ChainError(f"{self.label!r}: a window ends after it starts; found {self.window!r}. Pass start < stop.")
        if "/" in self.name or "." in self.name:
            raise ChainError(f"{self.name!r} cannot name a link: '/' and '.' are kept for state keys. Use '_'.")
        check_schedule(self.label, self.refresh_schedule)

    @classmethod
    def hyperparameters(cls) -> tuple[str, ...]:
        """Names of the fields that are the technique's own."""
        return tuple(f.name for f in fields(cls) if f.name not in cls.settings)

    @property
    def refresh_schedule(self) -> tuple[int, int] | None:
        """(first step, interval) of the steps at which ``refresh`` runs before ``update``; None for never.

        The steps are the parameter's own; with ``refreshes_by = "optimizer_step"`` the optimizer's. Then a parameter that has
        no gradient at such a step is refreshed too, with a gradient and an update of zeros, and not updated.
        """
        return None

    @property
    def label(self) -> str:
        """The link's name in a chain."""
        plain = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", type(self).__name__).lower()
        own = self.name or self.alias or plain
        return f"{self.scope}/{own}" if self.scope else own

    def init(self, param: Tensor) -> S:
        """The state before the first step, for a parameter (or local shard) of this shape and dtype."""
        return cast(S, NoState())

    def refresh(self, carry: Carry, state: S, ctx: Context) -> S:
        """The state with what is too dear to renew at every step made anew, pure; see ``refresh_schedule``."""
        return state

    def figures(self, state: S) -> Mapping[str, Tensor]:
        """What ``optimizer.report()`` tells of this state: 0-d tensors by name."""
        return {}

    def weights(self, param: Tensor, state: S) -> Tensor:
        """What ``optimizer.eval()`` puts in place of the parameter, where the link has the trait "averages"."""
        return param

    @abstractmethod
    def update(self, carry: Carry, state: S, ctx: Context) -> tuple[Carry, S]:
        """One step for one parameter, pure."""

    def written(self, arguments: str) -> str:
        """How the link is made, in code."""
        return f"{type(self).__name__}({arguments})"

    def __repr__(self) -> str:
        own = [field.name for field in fields(self) if field.name not in Transform.settings]
        given = [(field, getattr(self, field)) for field in own]
        given += [(field, getattr(self, field)) for field in ("scope", "name") if getattr(self, field)]
        given += [("window", self.window)] if self.window != (1, None) else []
        text = self.written(", ".join(f"{k}={v!r}" for k, v in given))
        return text if self.only is None else f"masked({text}, by={self.only!r})"


class SharedTransform(Transform[S]):
    """A transform that needs to see other parameters: global norm, pairs found by name, relations.

    Before ``update`` runs, every parameter with a gradient is measured, and ``share`` turns the measurements into one
    value per parameter, which ``update`` finds in ``ctx.shared``. ``share`` is called on the link as the first group
    has it; what differs by group is in ``infos[i].group``. A link with a ``refresh_schedule`` meets at its refreshes only:
    at other steps nothing is measured, and ``ctx.shared`` is None. Set ``every_step`` where it has to meet at all steps.
    """

    every_step: ClassVar[bool] = False

    @abstractmethod
    def measure(self, carry: Carry, state: S, ctx: Context) -> Tensor:
        """What this parameter contributes."""

    @abstractmethod
    def share(self, measured: Sequence[Tensor], infos: Sequence[ParamInfo]) -> Sequence[Any]:
        """One value per parameter, in the order given."""

    def findings(self, infos: Sequence[ParamInfo]) -> Mapping[str, Any]:
        """What ``optimizer.report()`` tells of names and shapes, and of what the states say of them, as plain data."""
        return {}
