"""What may happen next in a life: each operation draws edits that make sense now, and makes them happen."""

import torch
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from gradchain import ChainError
from lives.cases import SPECS
from lives.edits import (
    Add,
    Cast,
    Copy,
    Exchange,
    Forget,
    Group,
    Label,
    Load,
    Memory,
    Mode,
    New,
    Pop,
    Rate,
    Resize,
    Save,
    Set,
    Step,
    Tie,
    Write,
)
from lives.life import Life
from lives.worlds import is_count

OPERATIONS = {}
RATES = (0.125, 0.0625, 0.03125)  # the same in every precision
BETAS = ((0.9, 0.99), (0.5, 0.9), (0.0, 0.5))


def operation(act):
    OPERATIONS[act.__name__] = act
    return act


class Now:
    """What a life is like now, and choices in it."""

    def __init__(self, life, draw):
        self.life, self.draw, self.world, self.do = life, draw, life.reference, life.do
        self.groups = self.world.layout()
        self.present = self.world.present()
        self.orphans = [i for i in self.world.params if i not in self.present]

    def pick(self, choices):
        return self.draw(st.sampled_from(list(choices)))

    def some(self, choices, most=2):
        return tuple(sorted(self.draw(st.sets(st.sampled_from(list(choices)), max_size=most)))) if choices else ()

    def flag(self):
        return self.draw(st.booleans())

    def filled(self):
        """Groups with parameters, by position."""
        return [g for g, group in enumerate(self.groups) if group]

    def with_state(self, states=1):
        """Parameters that have as many states beside the count of steps."""
        return [i for i in self.world.params if len(self.world.state(i)) > states]

    def regroup(self, g, params):
        """Write the parameters of a group, with their names or without, where the optimizer can know these."""
        known = set(params) <= set(self.groups[g])
        names = not (self.life.case.named and known) or self.flag()
        self.do(Group(g, tuple(params), names=names, in_place=self.flag()))

    def step(self, **settings):
        """A step, and what a user does who is refused one."""
        self.life.steps = getattr(self.life, "steps", 0) + 1
        if not self.do(Step(self.life.steps, **settings)):
            self.mend()

    def mend(self):
        world = self.world
        if not all(group.get("train_mode", True) for group in world.optimizer.param_groups):
            self.do(Mode(training=True))
        for i in world.present():
            p, own = world.params[i], world.state(i)
            shapes = world.needed_shapes(i) if own else {}
            wrong = any(key in own and own[key].shape != shape for key, shape in shapes.items())
            total = own.get("accumulate/sum")
            if wrong or (total is not None and total.shape != (p.shape or (1,))):
                self.do(Forget(i, how="del"))


@operation
def steps(now):
    for _ in range(now.draw(st.integers(1, 3))):
        now.step()


@operation
def missing(now):
    """Gradients are missing, or zero, or not finite where there is a gate."""
    gate = now.life.case.options.get("finite_gate")
    now.step(missing=now.some(now.present, 3), zero=now.some(now.present), infinite=now.some(now.present) if gate else ())


@operation
def remove(now):
    if not now.filled():
        return
    g = now.pick(now.filled())
    gone = now.pick(now.groups[g])
    now.regroup(g, [i for i in now.groups[g] if i != gone])
    if now.world.state(gone) and now.flag():
        now.do(Forget(gone, how="del"))
    now.step()


@operation
def reorder(now):
    if not now.filled():
        return
    g = now.pick(now.filled())
    now.regroup(g, now.draw(st.permutations(now.groups[g])) if now.flag() else now.groups[g][::-1])
    now.step()


@operation
def insert(now):
    """A parameter, new or taken out before, at any position."""
    if not now.orphans or now.flag():
        now.do(New(now.draw(st.integers(0, len(SPECS) - 1))))
        new = max(now.world.params)
    else:
        new = now.pick(now.orphans)
    g = now.draw(st.integers(0, len(now.groups) - 1))
    at = now.draw(st.integers(0, len(now.groups[g])))
    now.regroup(g, [*now.groups[g][:at], new, *now.groups[g][at:]])
    now.step()


@operation
def replace(now):
    """A new Parameter in place of another, as of the same shape or of any."""
    if not now.filled():
        return
    g = now.pick(now.filled())
    at = now.draw(st.integers(0, len(now.groups[g]) - 1))
    old = now.world.params[now.groups[g][at]]
    alike = [k for k, (shape, dtype, _) in enumerate(SPECS) if torch.Size(shape) == old.shape and dtype == old.dtype]
    now.do(New(now.pick(alike) if alike and now.flag() else now.draw(st.integers(0, len(SPECS) - 1))))
    group = list(now.groups[g])
    group[at] = max(now.world.params)
    now.regroup(g, group)
    now.step()


@operation
def move(now):
    """A parameter goes from one group to another."""
    if len(now.groups) < 2 or not now.filled():
        return
    g = now.pick(now.filled())
    to = now.pick(h for h in range(len(now.groups)) if h != g)
    mover = now.pick(now.groups[g])
    now.regroup(g, [i for i in now.groups[g] if i != mover])
    now.regroup(to, [*now.groups[to], mover])
    now.step()


@operation
def pop(now):
    if len(now.groups) > 1:
        now.do(Pop(now.draw(st.integers(0, len(now.groups) - 1))))
        now.step()


@operation
def add(now):
    params = list(now.some(now.orphans))
    for spec in now.draw(st.lists(st.integers(0, len(SPECS) - 1), min_size=not params, max_size=2)):
        now.do(New(spec))
        params.append(max(now.world.params))
    now.do(Add(tuple(params), now.pick(RATES), now.pick([None, *now.life.case.labels])))
    now.step()


@operation
def label(now):
    if now.life.case.labels:
        now.do(Label(now.draw(st.integers(0, len(now.groups) - 1)), now.pick(now.life.case.labels)))
        now.step()


@operation
def memory(now):
    """Other memory of the same shape, or the same with other strides."""
    i = now.pick(now.world.params)
    square = now.world.params[i].dim() == 2 and len(set(now.world.params[i].shape)) == 1
    now.do(Memory(i, now.pick(["copy", "transposed"]) if square else "copy"))
    now.step()


@operation
def resize(now):
    i = now.pick(now.world.params)
    shapes = [(4, 3), (2, 4), (3, 2), (1, 3), (3,), (6,), (1,), (), (3, 3), (8, 4), (0, 3)]
    now.do(Resize(i, now.pick(shape for shape in shapes if torch.Size(shape) != now.world.params[i].shape), now.flag()))
    now.step(kept=(i,) if now.flag() else ())


@operation
def cast(now):
    now.do(Cast(now.pick(now.world.params), now.pick(["single", "double", "half"])))
    now.step()


@operation
def tie(now):
    forms = {}
    for i, p in now.world.params.items():
        forms.setdefault((p.shape, p.dtype), []).append(i)
    alike = [members for (shape, _), members in forms.items() if len(members) > 1 and shape.numel()]
    if not alike:
        return
    first, second = now.draw(st.permutations(now.pick(alike)))[:2]
    rows = now.world.params[first].dim() > 0 and len(now.world.params[first]) > 1
    now.do(Tie(first, second, rows=rows and now.flag()))
    now.step()
    now.step()


@operation
def forget(now):
    having = now.with_state(0)
    i = now.pick([None, *having])
    now.do(Forget(i, how=now.pick(["clear", "new"] if i is None else ["clear", "del"])))
    if now.flag():
        now.step()
        now.do(Save())


@operation
def write(now):
    """A tensor of the state is written in place, through ``.data``, or replaced."""
    if not now.with_state():
        return
    i = now.pick(now.with_state())
    known = now.life.case.keys
    keys = [key for key in now.world.state(i) if not is_count(key) and (now.life.case.theirs is None or key in known)]
    if keys:
        now.do(Write(i, now.pick(sorted(keys)), now.pick(["in_place", "data", "assigned"])))
        now.step()


@operation
def settings(now):
    g = now.draw(st.integers(0, len(now.groups) - 1))
    group = now.world.optimizer.param_groups[g]
    values = {"lr": RATES, "weight_decay": (0.0, 0.125, 0.25), "betas": BETAS, "momentum": (0.875, 0.5), "max_norm": (0.5, 2.0)}
    key = now.pick([key for key in values if key in group])
    number = ["plain", "tensor", "double", "numpy"]
    now.do(Set(g, key, now.pick(values[key]), now.pick(["plain", "list", "array", "numpy"] if key == "betas" else number)))
    now.step()


@operation
def rate(now):
    now.do(Rate(now.draw(st.integers(0, len(now.groups) - 1)), now.pick([0.5, 1.5])))
    now.step()


@operation
def unfit(now):
    """A value that the constructor refuses is refused by the step, and mended."""
    if now.life.case.options.get("accumulate"):
        return  # a call that only adds gradients up need not look at it
    g = now.pick(now.filled() or [0])
    group = now.world.optimizer.param_groups[g]
    values = {"lr": ("fast", -0.1, (0.1, 0.2)), "weight_decay": ("x", (0.1, 0.2)), "betas": (0.9, (0.9,), (0.9, 1.5), "ab")}
    key = now.pick([key for key in values if key in group])
    value = now.pick(values[key])
    try:
        now.life.case.recipe.optimizer([torch.nn.Parameter(torch.ones(2))], **{key: value})
    except (ChainError, TypeError):
        now.do(Set(g, key, value))
        now.step()
        now.do(Set(g, key, {"lr": 0.0625, "weight_decay": 0.125, "betas": (0.9, 0.99)}[key]))


@operation
def mode(now):
    """eval() of a chain that averages; a step there is refused; train()."""
    if now.life.case.averages:
        now.do(Mode(training=False))
        if now.flag():
            now.step()
        now.do(Mode(training=True))
        now.step()


@operation
def surroundings(now):
    now.step(mode=now.pick(["autocast", "inference", "no_grad", "float64", "thread"]))
    now.step()


@operation
def reload(now):
    """Into the optimizer itself, into a fresh one, or into a fresh one of another driver."""
    if not now.present:
        return
    now.do(Save())
    fresh = now.flag()
    if fresh and now.flag():
        now.do(Exchange())
    if not fresh and now.flag():
        now.step()  # that is taken back, but for the parameters
    now.do(Load(fresh=fresh))
    now.step()


@operation
def copied(now):
    now.do(Copy(now.pick(["deepcopy", "pickle"])))
    now.step()


def machine(name, drivers, figures, operations=None):
    """A state machine whose runs are lives of a chain."""

    class Lives(RuleBasedStateMachine):
        latest = None  # the life that was begun last

        @initialize(data=st.data())
        def begin(self, data):
            specs = st.lists(st.integers(0, len(SPECS) - 1), min_size=1, max_size=4)
            groups = data.draw(st.lists(specs, min_size=1, max_size=2), label="groups")
            rates = tuple(data.draw(st.sampled_from(RATES)) for _ in groups)
            self.life = Lives.latest = Life(name, groups, rates, drivers, figures)

    def as_rule(act):
        @rule(data=st.data())
        def run(self, data):
            act(Now(self.life, data.draw))

        run.__name__ = run.__qualname__ = act.__name__
        return run

    for key, act in OPERATIONS.items():
        if operations is None or key in operations:
            setattr(Lives, key, as_rule(act))
    return Lives
