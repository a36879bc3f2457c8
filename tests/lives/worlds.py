"""An optimizer with its parameters: of one driver, of torch.optim, or the reference that is rebuilt before every use."""

import contextlib
import copy
import warnings
from collections import defaultdict

import torch
from torch import Tensor, nn

from gradchain import ChainError
from lives.cases import DOUBLE, HALF, REFERENCE, SPECS, Case

DRIVERS = {  # driver and options
    REFERENCE: (REFERENCE, {}),
    "eager": ("eager", {}),
    "auto": ("auto", {}),
    "flat": ("eager", {"flatten": True}),
    "compiled": ("compiled", {}),
}
COUNTS = ("step", "since", "seen")
SHAPES = {}  # of states, by case and form of a parameter
GRAPHS = {}  # by case and driver: what lives may have in common, as tracing takes most of their time


def value(shape, seed, dtype):
    """Numbers of size one, the same for every world."""
    numbers = torch.sin(torch.arange(max(1, torch.Size(shape).numel()), dtype=DOUBLE) * 1.3 + seed)
    return numbers[: torch.Size(shape).numel()].reshape(shape).to(dtype)


def is_count(key):
    return key.rpartition("/")[2] in COUNTS


class World:
    """Parameters by number, their names, and the optimizer that has them."""

    def __init__(self, case: Case, driver: str, groups, rates):
        self.case, self.driver = case, driver
        self.params: dict[int, Tensor] = {}
        self.names: dict[int, str] = {}
        self.saved = self.own = None
        numbers = [[self.new(spec) for spec in group] for group in groups]
        made = [{**self.entries(group), "lr": rate} for group, rate in zip(numbers, rates, strict=True)]
        self.optimizer = self.make(made)

    def new(self, spec: int) -> int:
        """One more parameter, which no group has yet."""
        number, (shape, dtype, name) = len(self.params), SPECS[spec]
        self.params[number] = nn.Parameter(value(shape, number, dtype))
        self.names[number] = name.format(number)
        return number

    def entries(self, numbers):
        """The parameters as a group takes them."""
        if self.case.named:
            return {"params": [(self.names[i], self.params[i]) for i in numbers]}
        return {"params": [self.params[i] for i in numbers]}

    def make(self, groups):
        driver, options = DRIVERS[self.driver]
        optimizer = self.case.recipe.optimizer(groups, driver=driver, **options, **self.case.options)
        return self.with_graphs(optimizer)

    def with_graphs(self, optimizer, own=False):
        """Lives use what others have traced, where a driver keeps such things under these names; or their own from now on."""
        if own:
            self.own = ({}, {})
        if hasattr(getattr(optimizer, "_drive", None), "graphs"):
            shared = GRAPHS.setdefault((id(self.case), self.driver == "compiled"), ({}, {}))
            optimizer._drive.graphs, optimizer._drive.asked = self.own or shared
        return optimizer

    def number_of(self, param) -> int:
        return next(i for i, own in self.params.items() if own is param)

    def layout(self) -> list[list[int]]:
        """The numbers of the parameters in each group."""
        return [[self.number_of(p) for p in group["params"]] for group in self.optimizer.param_groups]

    def present(self) -> list[int]:
        return [i for group in self.layout() for i in group]

    def state(self, number) -> dict:
        return self.optimizer.state.get(self.params[number], {})

    def key(self, key):
        """What the world calls a state of ours."""
        return key

    def ready(self):
        """Called before the library is."""

    def deliver(self, step):
        """Set the gradients of a step."""
        for i, p in self.params.items():
            if i in step.kept:
                continue
            p.grad = None
            if i not in step.missing:
                grad = value(p.shape, 2.1 * step.n + i + 0.5, p.dtype) * (0 if i in step.zero else 1)
                p.grad = torch.full_like(grad, torch.inf) if i in step.infinite else grad

    def step(self, step):
        """Call step() as the caller's surroundings are."""
        if step.mode in ("autocast", "inference", "float64"):  # what is traced here is not for other lives
            self.with_graphs(self.optimizer, own=True)
        surroundings = {
            "autocast": lambda: torch.autocast("cpu", HALF),
            "inference": torch.inference_mode,
            "no_grad": torch.no_grad,
            "float64": default_float64,
        }
        if step.mode == "thread":
            in_thread(self.optimizer.step)
            return
        with surroundings.get(step.mode, contextlib.nullcontext)():
            self.optimizer.step()

    def snapshot(self):
        """All that a step may change, as numbers that do not change any more."""
        params = {i: p.detach().clone() for i, p in self.params.items()}
        states = {i: {k: v.clone() for k, v in self.state(i).items()} for i in self.params if self.state(i)}
        groups = [{k: v for k, v in group.items() if k != "params"} for group in self.optimizer.param_groups]
        return params, states, copy.deepcopy(groups), self.layout()


class Reference(World):
    """The loop over an optimizer made anew from groups, names and state before every use: nothing is remembered."""

    def __init__(self, case, groups, rates):
        self.shared = False  # whether parameters may share memory
        super().__init__(case, REFERENCE, groups, rates)

    def rebuilt(self):
        old = self.optimizer
        groups = [{**group, **self.entries(numbers)} for group, numbers in zip(old.param_groups, self.layout(), strict=True)]
        for group in groups:
            group.pop("param_names", None)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # said when it was made first
            new = self.make(groups)
        new.state = defaultdict(dict, {p: dict(own) for p, own in old.state.items() if own})
        return new

    def leave_other_chains(self, optimizer, group, p):
        """A parameter that came from a group of another label has left the state of that chain behind."""
        own, names = optimizer.state.get(p, {}), optimizer.chain.parts[optimizer.chain.label_of(group)].names
        for key in [key for key in own if "/" in key and key != "accumulate/sum"]:
            if key.rpartition("/")[0] not in names:
                del own[key]

    def ready(self):
        self.optimizer = self.rebuilt()

    def step(self, step):
        """In plain surroundings; parameters that share memory one after the other."""
        for group in self.optimizer.param_groups:
            for p in group["params"]:
                self.leave_other_chains(self.optimizer, group, p)
        options = self.case.options
        if not self.shared or self.case.meets or options:
            self.optimizer.step()
            return
        grads = {i: self.params[i].grad for i in self.present() if self.params[i].grad is not None}
        for i in grads:
            self.params[i].grad = None
        for i, grad in grads.items():
            self.params[i].grad = grad
            self.optimizer.step()
            self.params[i].grad = None
        for i, grad in grads.items():
            self.params[i].grad = grad

    def needed_shapes(self, number):
        """What the shapes of a parameter's state would be, were it made now."""
        group = next(g for g in self.optimizer.param_groups if any(p is self.params[number] for p in g["params"]))
        p = nn.Parameter(torch.ones_like(self.params[number]))
        name = self.names[number] if self.case.named else ""
        form = (id(self.case), name, group.get("label"), p.shape, p.dtype)
        if form not in SHAPES:
            SHAPES[form] = self.shapes_of(p, name, {key: group[key] for key in ("label",) if key in group})
        return SHAPES[form]

    def shapes_of(self, p, name, settings):
        p.grad = torch.ones_like(p)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            optimizer = self.make([{"params": [(name, p)] if name else [p], **settings}])
        for _ in range(self.case.options.get("accumulate", 1)):
            optimizer.step()
        return {key: own.shape for key, own in optimizer.state[p].items()}

    def refusal(self) -> str:
        """Why a step must be refused, with nothing changed; empty where it must not."""
        groups = self.optimizer.param_groups
        if not all(group.get("train_mode", True) for group in groups):
            return "the parameters hold the average"
        for i in self.present():
            p, own = self.params[i], self.state(i)
            if p.grad is None:
                continue
            if p.grad.shape != p.shape:
                return f"the gradient of parameter {i} has another shape"
            shapes = self.needed_shapes(i) if own else {}
            if any(key in own and own[key].shape != shape for key, shape in shapes.items()):
                return f"the state of parameter {i} has another shape"
            total = own.get("accumulate/sum")
            if total is not None and total.shape != (p.shape or (1,)):
                return f"the sum of gradients of parameter {i} has another shape"
        try:
            self.rebuilt()
        except (ChainError, TypeError) as error:
            return f"the constructor refuses it: {error}"
        return ""


class Theirs(World):
    """torch.optim, where everything is done one parameter after the other."""

    def __init__(self, case, groups, rates):
        super().__init__(case, "torch", groups, rates)

    def make(self, groups):
        return self.case.theirs(groups, **self.case.arguments, foreach=False, **self._fused())

    def _fused(self):
        return {"fused": False} if self.case.theirs in (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW) else {}

    def key(self, key):
        return self.case.keys.get(key)

    def ready(self):
        """Give states the form in which ours go on where torch's own classes raise.

        Adagrad makes state with the optimizer only, RMSprop its buffer with the first step only.
        """
        for group in self.optimizer.param_groups:
            for p in group["params"]:
                own = self.optimizer.state[p]
                if self.case.theirs is torch.optim.Adagrad and (not own or own["step"] == 0):
                    own.update(step=torch.tensor(0.0), sum=torch.zeros_like(p))
                if self.case.theirs is torch.optim.RMSprop and own and group["momentum"]:
                    own.setdefault("momentum_buffer", torch.zeros_like(p))
                if p.numel() == 1:  # ours holds one element for () and for (1,), so that either form goes on
                    own.update({key: own[key].reshape(p.shape) for key in self.case.keys.values() if key in own})

    def step(self, step):
        self.optimizer.step()


@contextlib.contextmanager
def default_float64():
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


def in_thread(work):
    """Run it in a thread of its own; what it raises is raised here."""
    import threading

    raised = []

    def run():
        try:
            work()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if raised:
        raise raised[0]
