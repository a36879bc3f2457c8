"""Any ``torch.optim.Optimizer`` as a link: what stands before it changes its gradient, what stands behind it sees its step.

    chain(AGR(), from_torch(torch.optim.RAdam, lr=1e-3), SpeedLimit(speed_limit=0.1))

Its numbers become hyperparameters of the chain (``lr``, ``betas``), so schedulers work; its state stands under flat names
(``"radam/exp_avg"``). Every parameter has an instance of its own, so what an optimizer works out over all parameters
(D-Adaptation) it would work out over one. Steps run one by one and numbers that are tensors are read: a base for what has no
chain, and a check for what has one, not for speed.

LBFGS needs a closure and solves once a step over all its parameters: the links before it work on the gradient of every trial
point, with their state as it was before the step; those behind it on the displacement. Its history is kept by parameter,
2 * history_size tensors like it, from the start. A parameter without a gradient stays where it is; the loss that
a line search sees is the closure's.
"""

from __future__ import annotations

import inspect
from collections import namedtuple
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, make_dataclass, replace
from functools import cache
from typing import Any, ClassVar, TypeGuard, cast

import torch
from torch import Tensor
from torch.optim import LBFGS, Optimizer
from typing_extensions import override

from gradchain.chains.lbfgs import LBFGSState, blank, solve
from gradchain.types import Carry, ChainError, Context, Transform

Values = tuple[Tensor, ...]
WHOLE = (int, "int", int | None, "int | None")  # annotations of arguments that count something


@dataclass(frozen=True, kw_only=True, repr=False)
class FromTorch(Transform[Values]):
    """Runs an optimizer of torch on a copy of the parameter. Subclasses, one an optimizer, are made by ``from_torch``."""

    reads = frozenset({"update", "param"})
    traits = frozenset({"learning_rate", "eager"})
    removable = False
    base: ClassVar[type[Optimizer]]
    fixed: ClassVar[Mapping[str, Any]]  # arguments that are no numbers
    kinds: ClassVar[Mapping[str, type]]  # of the values of its state, by name

    @override
    def init(self, param: Tensor) -> Values:
        real = param.new_zeros(param.shape, device="cpu") if param.is_meta else param
        state = self._stepped(real, torch.zeros_like(real), {})[1] if param.numel() else {}
        return self.State(*(_blank(state[key], param) if key in state else param.new_zeros(0) for key in self.kinds))

    @override
    def update(self, carry: Carry, state: Values, ctx: Context) -> tuple[Carry, Values]:
        param = carry.param
        if ctx.layout.shape(param) != param.shape:
            raise ChainError(
                f"{self.label!r} runs {self.base.__name__}, which knows nothing of sharded parameters. Use a chain's own links."
            )
        if param.numel() == 0:
            return carry, state
        saved = {k: v for k, v in zip(self.kinds, state, strict=True) if v.numel()}
        first = bool(ctx.step == 1)  # on the host, like all counts of steps
        after, new = self._stepped(param, carry.update, {} if first else saved)
        values = (_stored(new[k]).to(old.dtype) if k in new else old for k, old in zip(self.kinds, state, strict=True))
        step = torch.where((ctx.lr != 0).to(param.device), param - after, 0)  # Rprop steps at a rate of 0, too
        return carry._replace(update=step), self.State(*values)

    def _stepped(self, param: Tensor, grad: Tensor, saved: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Any]]:
        """The parameter after a step from a saved state, and the state."""
        copy = torch.nn.Parameter(param.detach().clone())
        copy.grad = grad.detach().clone()
        optimizer = self.base([copy], **{k: _now(getattr(self, k)) for k in self.hyperparameters()}, **self.fixed)
        if saved:
            optimizer.state[copy] = {
                k: v.clone() if self.kinds[k] is Tensor else self.kinds[k](v.item()) for k, v in saved.items()
            }
        optimizer.step()
        return copy.detach(), {k: v for k, v in optimizer.state[copy].items() if isinstance(v, Tensor | int | float)}

    @override
    def __reduce__(self) -> tuple[Any, ...]:
        numbers = {key: getattr(self, key) for key in self.hyperparameters()}
        return _rebuilt, (self.base, {**numbers, **self.fixed}, {key: getattr(self, key) for key in self.settings})

    @override
    def written(self, arguments: str) -> str:
        where = "torch.optim" if self.base.__module__.startswith("torch.optim.") else self.base.__module__
        rest = "".join(f", {key}={value!r}" for key, value in self.fixed.items())
        return f"from_torch({where}.{self.base.__name__}, {arguments}{rest})"


@dataclass(frozen=True, kw_only=True, repr=False)
class FromLBFGS(FromTorch):
    """Gives what LBFGS has moved the parameter by; the optimizer lets it ``solve`` before the chain runs."""

    traits = frozenset({"learning_rate", "eager", "solves"})

    @override
    def init(self, param: Tensor) -> LBFGSState:
        return blank(param, int(self.fixed.get("history_size", 100)))

    @override
    def update(self, carry: Carry, state: Any, ctx: Context) -> tuple[Carry, Any]:
        step = torch.where((ctx.lr != 0).to(state.move.device), state.move, 0)
        return carry._replace(update=step), state

    def solve(self, params: Sequence[Tensor], states: Sequence[LBFGSState], closure: Callable[[], Any]) -> None:
        """One step over all parameters, taken back; the states tell what it was."""
        solver = self.base(params, **{k: _now(getattr(self, k)) for k in self.hyperparameters()}, **self.fixed)
        solve(cast(LBFGS, solver), states, closure)


def from_torch(optimizer: type[Optimizer], **arguments: Any) -> Transform[Any]:
    """The optimizer as a link that owns the learning rate; arguments are those of its constructor, without the parameters.

    Raises ChainError for one that needs a closure and is not LBFGS, or cannot make a step with these arguments on dense
    gradients.
    """
    if not (isinstance(optimizer, type) and issubclass(optimizer, Optimizer)):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ChainError(f"from_torch takes a class of torch optimizers; found {optimizer!r}. Pass torch.optim.RAdam, say.")
    closure = inspect.signature(optimizer.step).parameters.get("closure")
    if not issubclass(optimizer, LBFGS) and closure is not None and closure.default is inspect.Parameter.empty:
        raise ChainError(
            f"{optimizer.__name__} evaluates the loss again within its step, over all parameters at once, so it cannot be a "
            "link. Use it alone."
        )
    link, own = ("window", "only", "scope", "name"), {"name", "scope"} & arguments.keys()
    numbers = _numbers(optimizer, arguments)
    fixed = {key: value for key, value in arguments.items() if key not in {*numbers, *link}}
    kinds = _probed(optimizer, {key: _now(value) for key, value in numbers.items()}, fixed)
    kind = _kind(optimizer, tuple(numbers.items()), tuple(fixed.items()), tuple(kinds.items()))
    return kind(**{key: arguments[key] for key in own})


def _rebuilt(optimizer: type[Optimizer], arguments: Mapping[str, Any], settings: Mapping[str, Any]) -> Transform[Any]:
    return replace(from_torch(optimizer, **arguments), **settings)


def _numbers(optimizer: type[Optimizer], arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments that may change from step to step: numbers that are no counts, and tuples of them."""
    found: dict[str, Any] = {}
    for key, parameter in inspect.signature(optimizer).parameters.items():
        default, value = parameter.default, arguments.get(key, parameter.default)
        if parameter.annotation in WHOLE or key == "params":
            continue
        if _is_number(value) or isinstance(value, Tensor) or (callable(value) and _is_number(default)):
            found[key] = float(value) if _is_number(value) else value
        elif isinstance(value, tuple | list) and value and all(map(_is_number, cast("tuple[Any, ...]", value))):
            found[key] = tuple(map(float, cast("tuple[Any, ...]", value)))
    return found


def _is_number(value: Any) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _now(value: Any) -> Any:
    """A value as an optimizer takes it: a schedule at its first step, tensors as numbers."""
    if isinstance(value, tuple):
        return tuple(map(_now, cast("tuple[Any, ...]", value)))
    if isinstance(value, Tensor):
        return value.item()
    return value(1) if callable(value) else value


def _stored(value: Tensor | float) -> Tensor:
    return value if isinstance(value, Tensor) else torch.tensor(value, dtype=torch.float64, device="cpu")


def _blank(value: Tensor | float, param: Tensor) -> Tensor:
    """Zeros in place of a value, without data where the parameter has none."""
    zeros = torch.zeros_like(_stored(value))
    return zeros.to(param.device) if param.is_meta else zeros


def _probed(optimizer: type[Optimizer], numbers: Mapping[str, Any], fixed: Mapping[str, Any]) -> dict[str, type]:
    """What the optimizer keeps for a matrix and for a vector, by name; ChainError where it can step neither."""
    kinds: dict[str, type] = {}
    failures: list[Exception] = []
    for shape in ((3, 2), (3,)):
        param = torch.nn.Parameter(torch.ones(shape, device="cpu"))
        param.grad = torch.ones_like(param)
        try:
            built = optimizer([param], **numbers, **fixed)
            built.step(*([lambda: 1.0] if isinstance(built, LBFGS) else []))
        except Exception as error:  # theirs may raise anything
            failures.append(error)
            continue
        if isinstance(built, LBFGS):  # see LBFGSState
            return {}
        state = {key: value for key, value in built.state[param].items() if value is not None}
        kinds |= {key: Tensor if isinstance(value, Tensor) else type(value) for key, value in state.items()}
    strange = [key for key, kind in kinds.items() if not issubclass(kind, Tensor | int | float)]
    if len(failures) == 2 or strange:
        why = f"it keeps {strange[0]!r}, which is no tensor" if strange else str(failures[0])
        raise ChainError(f"{optimizer.__name__} cannot be a link: {why}. Change its arguments, or use it alone.")
    return kinds


@cache
def _kind(
    optimizer: type[Optimizer], numbers: tuple[tuple[str, Any], ...], fixed: tuple[tuple[str, Any], ...], kinds: Any
) -> type[FromTorch]:
    """The transform for an optimizer with these arguments."""
    own: list[Any] = []
    for key, value in numbers:
        hint = tuple[(float,) * len(value)] if isinstance(value, tuple) else float
        own.append((key, hint, field(default=value)))
    names = tuple(key for key, _ in kinds)
    state = namedtuple(f"{optimizer.__name__}State", names)  # pyright: ignore[reportUntypedNamedTuple]
    members: dict[str, Any] = {
        "base": optimizer,
        "fixed": dict(fixed),
        "kinds": dict(kinds),
        "State": state,
        "alias": optimizer.__name__.lower(),
    }
    parent = FromTorch
    if issubclass(optimizer, LBFGS):
        parent, members["State"] = FromLBFGS, LBFGSState
    made = make_dataclass(optimizer.__name__, own, bases=(parent,), namespace=members, frozen=True, kw_only=True, repr=False)
    return cast("type[FromTorch]", made)
