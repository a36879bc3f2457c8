"""What can happen to an optimizer and its parameters, as plain data. Parameters go by number, groups by position."""

import copy
import pickle
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import torch

from lives.cases import DOUBLE, HALF, SINGLE
from lives.worlds import Reference, Theirs

DTYPES = {"single": SINGLE, "double": DOUBLE, "half": HALF}


@dataclass(frozen=True)
class Edit:
    """One thing that happens to a world."""

    def __repr__(self):
        """As it is written in code, without what is left at its default."""
        given = {name: getattr(self, name) for name in self.__dataclass_fields__}
        plain = {name: one.default for name, one in self.__dataclass_fields__.items()}
        return (
            f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in given.items() if v is not plain[k] and v != plain[k])})"
        )

    def apply(self, world):
        raise NotImplementedError


@dataclass(frozen=True, repr=False)
class Step(Edit):
    """One step, with the n-th gradients of a fixed sequence; those kept are what they were."""

    n: int = 0
    missing: tuple = ()
    zero: tuple = ()
    infinite: tuple = ()
    kept: tuple = ()
    mode: str = ""  # autocast, inference, no_grad, float64, thread

    def apply(self, world):
        world.ready()
        world.step(self)


@dataclass(frozen=True, repr=False)
class New(Edit):
    """A parameter that no group has yet."""

    spec: int

    def apply(self, world):
        world.new(self.spec)


@dataclass(frozen=True, repr=False)
class Group(Edit):
    """The parameters of a group are these from now on, in this order."""

    at: int
    params: tuple
    names: bool = True  # whether the names beside them are kept in step
    in_place: bool = False

    def apply(self, world):
        group = world.optimizer.param_groups[self.at]
        made = [world.params[i] for i in self.params]
        if self.in_place:
            group["params"][:] = made
        else:
            group["params"] = made
        if world.case.named and self.names:
            group["param_names"] = [world.names[i] for i in self.params]


@dataclass(frozen=True, repr=False)
class Pop(Edit):
    """A group is taken out."""

    at: int

    def apply(self, world):
        world.optimizer.param_groups.pop(self.at)


@dataclass(frozen=True, repr=False)
class Add(Edit):
    """A group is added; the parameters have no group yet."""

    params: tuple
    lr: float
    label: Any = None

    def apply(self, world):
        world.ready()
        settings = {"lr": self.lr} | ({"label": self.label} if self.label else {})
        world.optimizer.add_param_group({**world.entries(self.params), **settings})


@dataclass(frozen=True, repr=False)
class Label(Edit):
    """A group of a partition runs another chain from now on."""

    at: int
    label: str

    def apply(self, world):
        world.optimizer.param_groups[self.at]["label"] = self.label


@dataclass(frozen=True, repr=False)
class Memory(Edit):
    """The elements of a parameter stand elsewhere; its shape is the same."""

    param: int
    how: str  # copy, transposed

    def apply(self, world):
        p = world.params[self.param]
        p.data = p.data.t() if self.how == "transposed" else p.data.clone(memory_format=torch.contiguous_format)


@dataclass(frozen=True, repr=False)
class Resize(Edit):
    """A parameter gets another shape through ``.data``."""

    param: int
    shape: tuple
    forget: bool = False  # whether its state goes

    def apply(self, world):
        p = world.params[self.param]
        old = p.data.flatten()
        p.data = torch.arange(torch.Size(self.shape).numel(), dtype=old.dtype).cos().reshape(self.shape)
        if self.forget:
            world.optimizer.state.pop(p, None)


@dataclass(frozen=True, repr=False)
class Cast(Edit):
    """A parameter gets another dtype through ``.data``, as by ``model.to(dtype)``."""

    param: int
    dtype: str

    def apply(self, world):
        p = world.params[self.param]
        p.grad = None
        p.data = p.data.to(DTYPES[self.dtype])
        if isinstance(world, Theirs):  # it wants state in the parameter's dtype, ours keeps its own
            for key, own in world.state(self.param).items():
                world.state(self.param)[key] = own if key == "step" else own.to(p.dtype)


@dataclass(frozen=True, repr=False)
class Tie(Edit):
    """Two parameters of one shape have their memory in common: all of it, or all rows but one."""

    first: int
    second: int
    rows: bool = False  # slices of one tensor that overlap

    def apply(self, world):
        first, second = world.params[self.first], world.params[self.second]
        if self.rows:
            base = torch.cat([first.data, second.data[-1:]])
            first.data, second.data = base[:-1], base[1:]
        else:
            second.data = first.data
        if isinstance(world, Reference):
            world.shared = True


@dataclass(frozen=True, repr=False)
class Forget(Edit):
    """State is thrown away: of one parameter, or all of it."""

    param: Any = None
    how: str = "clear"  # clear, del, new

    def apply(self, world):
        if self.param is None:
            if self.how == "new":
                world.optimizer.state = defaultdict(dict)
            else:
                world.optimizer.state.clear()
        elif self.how == "del":
            del world.optimizer.state[world.params[self.param]]
        else:
            world.optimizer.state[world.params[self.param]].clear()


@dataclass(frozen=True, repr=False)
class Write(Edit):
    """A tensor of the state gets other values."""

    param: int
    key: str
    how: str  # in_place, data, assigned
    factor: float = 0.5

    def apply(self, world):
        own, key = world.state(self.param), world.key(self.key)
        if self.how == "in_place":
            own[key].mul_(self.factor)
        elif self.how == "data":
            own[key].data = own[key] * self.factor
        else:
            own[key] = own[key] * self.factor


@dataclass(frozen=True, repr=False)
class Set(Edit):
    """A hyperparameter of a group is written, in one of the forms that torch takes."""

    at: int
    key: str
    value: Any  # a number, a tuple, or what is refused
    form: str = "plain"  # plain, tensor, numpy, list, array

    def apply(self, world):
        import numpy as np

        forms = {
            "plain": lambda x: x,
            "tensor": lambda x: torch.tensor(x),
            "double": lambda x: torch.tensor(x, dtype=DOUBLE),
            "numpy": lambda x: tuple(map(np.float64, x)) if isinstance(x, tuple) else np.float64(x),
            "list": list,
            "array": np.array,
        }
        form = "plain" if isinstance(world, Theirs) else self.form
        value = float(torch.tensor(self.value)) if isinstance(world, Theirs) and self.form == "tensor" else self.value
        world.optimizer.param_groups[self.at][self.key] = forms[form](value)


@dataclass(frozen=True, repr=False)
class Rate(Edit):
    """The learning rate of a group times a factor, in place where it is a tensor."""

    at: int
    factor: float

    def apply(self, world):
        group = world.optimizer.param_groups[self.at]
        if isinstance(group["lr"], torch.Tensor):
            group["lr"].mul_(self.factor)
        else:
            group["lr"] *= self.factor


@dataclass(frozen=True, repr=False)
class Mode(Edit):
    """train() or eval() of a chain that averages."""

    training: bool

    def apply(self, world):
        world.ready()
        (world.optimizer.train if self.training else world.optimizer.eval)()


@dataclass(frozen=True, repr=False)
class Save(Edit):
    """state_dict(), kept for later. State of parameters that are in no group goes before, as torch wants it."""

    def apply(self, world):
        world.ready()
        mine = {id(world.params[i]) for i in world.present()}
        for p in [p for p in world.optimizer.state if id(p) not in mine]:
            del world.optimizer.state[p]
        world.saved = copy.deepcopy(world.optimizer.state_dict())


@dataclass(frozen=True, repr=False)
class Load(Edit):
    """What was kept is loaded, into the optimizer or a fresh one."""

    fresh: bool = False

    def apply(self, world):
        world.ready()
        if self.fresh:
            groups = [{**world.entries(numbers)} for numbers in world.layout()]
            for group, old in zip(groups, world.optimizer.param_groups, strict=True):
                group |= {key: old[key] for key in ("label",) if key in old}
            world.optimizer = world.make(groups)
        world.optimizer.load_state_dict(copy.deepcopy(world.saved))
        world.with_graphs(world.optimizer)


@dataclass(frozen=True, repr=False)
class Exchange(Edit):
    """What the drivers have kept goes from each to the next; see Life."""


@dataclass(frozen=True, repr=False)
class Copy(Edit):
    """The optimizer and its parameters are copied, and the life of the copies goes on."""

    how: str  # deepcopy, pickle

    def apply(self, world):
        both = (world.params, world.optimizer)
        copied = copy.deepcopy(both) if self.how == "deepcopy" else pickle.loads(pickle.dumps(both))
        world.params, world.optimizer = copied
        world.with_graphs(world.optimizer)
