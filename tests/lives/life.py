"""A row of worlds to which the same things happen, compared after each."""

from collections import Counter

import torch

from gradchain import ChainError
from lives.cases import CASES, DOUBLE, HALF, SINGLE
from lives.edits import Cast, Edit, Exchange, Step, Tie
from lives.worlds import DRIVERS, Reference, Theirs, World, is_count

CLOSE = {DOUBLE: (1e-7, 1e-9), SINGLE: (1e-4, 1e-5), HALF: (3e-2, 3e-2)}  # relative, absolute


class Figures:
    """What a number of lives came to."""

    def __init__(self):
        self.lives = self.steps = self.refused = 0
        self.edits = Counter()
        self.largest = {}  # by world and dtype

    def note(self, world, dtype, difference):
        key = f"{world} {str(dtype).removeprefix('torch.')}"
        self.largest[key] = max(self.largest.get(key, 0.0), difference)

    def plain(self):
        return {
            "lives": self.lives,
            "steps": self.steps,
            "refused": self.refused,
            "edits": dict(self.edits),
            "largest": self.largest,
        }


class Life:
    """An optimizer's life under every driver, under torch.optim where it has the chain, and in the reference."""

    def __init__(self, name, groups, rates=(), drivers=tuple(DRIVERS), figures=None):
        case = CASES[name]
        rates = tuple(rates) or (0.05,) * len(groups)
        self.case, self.figures = case, figures or Figures()
        self.reference = Reference(case, groups, rates)
        self.worlds = [self.reference, *(World(case, driver, groups, rates) for driver in drivers)]
        if case.theirs is not None:
            self.worlds.append(Theirs(case, groups, rates))
        self.dtypes = {}  # the coarsest that a parameter has had
        self.begun = (name, groups, rates, drivers)
        self.journal: list[Edit] = []
        self.figures.lives += 1
        self.watch()

    def code(self):
        """The life so far, to be run again."""
        return written(*self.begun, self.journal)

    def do(self, edit) -> bool:
        """Let it happen everywhere; False where it was refused, as it had to be."""
        self.journal.append(edit)
        self.figures.edits[type(edit).__name__] += 1
        try:
            went = self._do(edit)
            self.compare(after=edit)
        except BaseException as error:
            error.add_note(self.code())
            raise
        return went

    def _do(self, edit):
        refusal = ""
        if isinstance(edit, Exchange):
            ours = [world for world in self.worlds if not isinstance(world, Theirs)]
            kept = [world.saved for world in ours]
            for world, saved in zip(ours, kept[1:] + kept[:1], strict=True):
                world.saved = saved
            return True
        if isinstance(edit, Step):
            for world in self.worlds:
                world.deliver(edit)
            refusal = self.reference.refusal()
            self.figures.steps += not refusal
            self.figures.refused += bool(refusal)
        for world in self.worlds:
            if not refusal:
                self.goes(world, edit)
            elif not isinstance(world, Theirs):
                self.refuses(world, edit, refusal)
        if isinstance(edit, Cast | Tie):
            self.watch()
        return not refusal

    def goes(self, world, edit):
        try:
            edit.apply(world)
        except Exception as error:
            where = f"{type(world).__name__} of {world.driver}"
            raise AssertionError(f"{where}: {edit!r} raised {type(error).__name__}: {error}") from error

    def refuses(self, world, edit, reason):
        if getattr(world, "shared", False):
            return  # the reference takes such parameters one by one, and what comes before the refusal has changed
        before, where = world.snapshot(), f"{type(world).__name__} of {world.driver}"
        try:
            edit.apply(world)
        except ChainError:
            pass
        except Exception as error:
            raise AssertionError(f"{where}: no ChainError, though {reason}, but {type(error).__name__}: {error}") from error
        else:
            raise AssertionError(f"{where}: {edit!r} went, though {reason}")
        assert same(before, world.snapshot()), f"{where}: something changed, though the step was refused as {reason}"

    def watch(self):
        """Rounding stays where it was once."""
        for i, p in self.reference.params.items():
            self.dtypes[i] = max(self.dtypes.get(i, p.dtype), p.dtype, key=list(CLOSE).index)
        if self.reference.shared or self.case.meets:
            coarsest = max(self.dtypes.values(), key=list(CLOSE).index, default=DOUBLE)
            self.dtypes = dict.fromkeys(self.dtypes, coarsest)

    def compare(self, after):
        """Every world is as the reference is."""
        if self.reference.params.keys() != self.dtypes.keys():
            self.watch()
        for world in self.worlds[1:]:
            where = f"{type(world).__name__} of {world.driver} after {after!r}"
            assert world.layout() == self.reference.layout(), where
            for i, p in self.reference.params.items():
                if isinstance(world, Theirs) and self.dtypes[i] is HALF:
                    continue  # its state is in that precision there
                self.close(world, i, p, world.params[i], f"{where}: parameter {i}")
                if not isinstance(world, Theirs):
                    self.compare_states(world, i, where)
            if isinstance(after, Step) and self.case.named and not isinstance(world, Theirs):
                names = {i: world.optimizer.name_of(world.params[i]) for i in world.present()}
                assert names == (right := {i: world.names[i] for i in names}), f"{where}: names are {names}; right {right}"

    def compare_states(self, world, i, where):
        ours, theirs = world.state(i), self.reference.state(i)
        assert ours.keys() == theirs.keys(), f"{where}: state of {i} has {sorted(ours)}, the reference {sorted(theirs)}"
        for key, value in theirs.items():
            if is_count(key):
                assert ours[key] == value, f"{where}: {key} of {i} is {float(ours[key])}, in the reference {float(value)}"
            else:
                self.close(world, i, value, ours[key], f"{where}: state {key!r} of {i}")

    def close(self, world, i, right, seen, what):
        relative, absolute = CLOSE[self.dtypes[i]]
        if isinstance(world, Theirs):  # keeps some numbers, such as NAdam's product, in single precision
            relative, absolute = max(relative, 1e-6), max(absolute, 1e-7)
        assert seen.shape == right.shape and seen.dtype == right.dtype, (
            f"{what}: {seen.shape} {seen.dtype}; right {right.shape} {right.dtype}"
        )
        if not right.numel():
            return
        right, seen = right.detach().to(DOUBLE), seen.detach().to(DOUBLE)
        alike = torch.isclose(seen, right, rtol=relative, atol=absolute, equal_nan=True)
        assert alike.all(), f"{what} is {seen.flatten().tolist()[:6]}; right {right.flatten().tolist()[:6]}"
        self.figures.note(
            world.driver, self.dtypes[i], (seen - right)[right.isfinite()].abs().max().item() if right.isfinite().any() else 0.0
        )


def same(a, b):
    """Bit for bit."""
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return a.dtype == b.dtype and a.shape == b.shape and torch.equal(a, b)
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return repr(a) == repr(b)


def written(name, groups, rates, drivers, edits):
    """A call of ``live``."""
    return "\n".join([f"live({name!r}, {groups!r}, {rates!r}, [", *(f"    {edit!r}," for edit in edits), f"], {drivers!r})"])


def live(name, groups, rates, edits, drivers=tuple(DRIVERS)):
    """A life that is written down."""
    life = Life(name, groups, rates, drivers)
    for edit in edits:
        life.do(edit)
    return life
