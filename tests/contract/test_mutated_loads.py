"""Checkpoints changed at random: a load is right, or an error that leaves parameters, state and groups as they were.

Every mutation changes the saved state and what should come of it, or says that the load must be refused. A run that was
loaded then steps as the reference loop does from the same state.
"""

import copy
import json
import random
import warnings
from collections import Counter, OrderedDict
from dataclasses import dataclass, field
from functools import cache

import pytest
import torch
from torch import nn
from training import Everything, identical

from gradchain import ChainWarning, chain, presets
from gradchain import transforms as t

MATRICES, ODD = [(4, 5), (3,), (5, 2)], [(4, 5), (1, 8), (8, 1), (3,), (), (2, 0), (2, 3, 1, 1)]
EMA = chain(presets.adam(lr=0.1), t.WeightEMA(ema_decay=0.7))
PAIRS = [(2, 6), (6, 2), (2, 6), (6, 2), (3,)]


@dataclass
class Setup:
    recipe: object
    shapes: list = field(default_factory=lambda: MATRICES)
    named: bool = False
    split: int = 0  # parameters in a group of their own
    evaluating: bool = False
    dtype: torch.dtype = torch.float32
    options: dict = field(default_factory=dict)

    def params(self, seed=0):
        source = torch.Generator().manual_seed(seed)
        params = [nn.Parameter(torch.randn(shape, generator=source).to(self.dtype)) for shape in self.shapes]
        if self.shapes is PAIRS:
            for p in params[1:4:2]:
                p.data.zero_()
        return params

    def optimizer(self, params, **options):
        listed = [(f"layer.{i}", p) for i, p in enumerate(params)] if self.named else params
        groups = [{"params": listed[: self.split], "lr": 0.07}] if self.split else []
        return self.recipe.optimizer([*groups, {"params": listed[self.split :]}], **self.options, **options)


SETUPS = {
    "adam": Setup(presets.adam(lr=0.1)),
    "named adam": Setup(presets.adamw(lr=0.1), named=True, split=1),
    "tensor rate": Setup(presets.adam(lr=0.1), options={"lr": torch.tensor(0.1)}),
    "nesterov": Setup(presets.sgd(lr=0.1, momentum=0.9, nesterov=True), split=2),
    "eight bits": Setup(presets.cameamp_original_8bit(), split=1),
    "complex": Setup(presets.adam(lr=0.1), dtype=torch.complex64),
    "adafactor": Setup(presets.adafactor(), ODD),
    "came": Setup(presets.came(), ODD, named=True),
    "cameamp": Setup(presets.cameamp(), ODD),
    "ladam": Setup(presets.ladam(c2=0.1), split=2),
    "muon": Setup(presets.muon_adamw(), named=True),
    "unnamed muon": Setup(presets.muon_adamw()),
    "schedule free": Setup(presets.schedule_free_adamw(lr=0.1), split=1),
    "evaluating": Setup(presets.schedule_free_adamw(lr=0.1), named=True, split=1, evaluating=True),
    "evaluating ema": Setup(EMA, evaluating=True),
    "lora": Setup(presets.hina_adamw(lr=1e-2), PAIRS),
    "named lora": Setup(presets.cameamp_lora(), PAIRS, named=True),
    "prodigy": Setup(presets.prodigy()),
    "adan": Setup(presets.adan(), split=1),
    "half": Setup(presets.kahan_adamw(lr=0.1), dtype=torch.bfloat16),
    "scheduled": Setup(chain(t.Moments(), t.LearningRate(lr=lambda step: 0.1 / step)), named=True),
    "accumulating": Setup(presets.adam(lr=0.1), options={"accumulate": 2}),
}


def train(params, optimizer, count, start=0, absent=()):
    for step in range(start, start + count):
        for i, p in enumerate(params):
            p.grad = None if i in absent else torch.sin(3 * p.detach() + step + i)
        optimizer.step()


@dataclass
class Want:
    """What should come of a load, by the place of a parameter."""

    states: dict
    groups: list
    numbers: dict  # of parameters in the saved state
    clean: bool = True
    refused: bool = False
    fresh: set = field(default_factory=set)  # (place, link)


class Unfit(Exception):
    """The mutation says nothing about this setup."""


def some_state(rng, saved, want):
    """(place, saved state, wanted state) of a parameter that has one."""
    places = [i for i, own in want.states.items() if own]
    if not places:
        raise Unfit
    i = rng.choice(places)
    return i, saved["state"][want.numbers[i]], want.states[i]


def some_link(rng, own):
    """(link, its keys) of a state."""
    labels = sorted({key.rpartition("/")[0] for key in own if "/" in key} - {"accumulate"})
    if not labels:
        raise Unfit
    label = rng.choice(labels)
    return label, [key for key in own if key.rpartition("/")[0] == label and not key.endswith(("/held", "/since"))]


# mutations after which everything is as saved


def renumbered(rng, saved, want):
    shift = rng.randint(1, 50)
    saved["state"] = {number + shift: own for number, own in saved["state"].items()}
    for group in saved["param_groups"]:
        group["params"] = [number + shift for number in group["params"]]
    want.numbers = {i: number + shift for i, number in want.numbers.items()}


def lists(rng, saved, want):
    for group in saved["param_groups"]:
        group.update({key: list(value) for key, value in group.items() if isinstance(value, tuple)})


def through_json(rng, saved, want):
    try:
        saved["param_groups"] = json.loads(json.dumps(saved["param_groups"]))
    except TypeError:
        raise Unfit from None


def shuffled(rng, saved, want):
    saved["state"] = dict(rng.sample(list(saved["state"].items()), len(saved["state"])))
    i, own, _ = some_state(rng, saved, want)
    saved["state"][want.numbers[i]] = OrderedDict(rng.sample(list(own.items()), len(own)))


def widened(rng, saved, want):
    for own in saved["state"].values():
        own.update({key: v.double() for key, v in own.items() if v.is_floating_point()})


def strided(rng, saved, want):
    for own in saved["state"].values():
        own.update({key: torch.stack([v, v], -1)[..., 0] for key, v in own.items()})


def counted_otherwise(rng, saved, want):
    _, own, _ = some_state(rng, saved, want)
    step = int(own["step"])
    own["step"] = rng.choice([step, float(step), torch.tensor([step]), torch.tensor(step), torch.tensor(step).char()])


def with_keys_of_others(rng, saved, want):
    for group in saved["param_groups"]:
        group.update(foreach=None, initial_lr=0.5)


def permuted(rng, saved, want):
    for group in saved["param_groups"]:
        if "param_names" not in group or "placeholder_names" in group or not group["params"]:
            raise Unfit
        pairs = rng.sample(list(zip(group["params"], group["param_names"], strict=True)), len(group["params"]))
        group["params"], group["param_names"] = map(list, zip(*pairs, strict=True))


def wrapped(rng, saved, want):
    for group in saved["param_groups"]:
        if "param_names" not in group or "placeholder_names" in group:
            raise Unfit
        group["param_names"] = [f"module._orig_mod.{name}" for name in group["param_names"]]


def string_keys(rng, saved, want):
    saved["state"] = {str(number): own for number, own in saved["state"].items()}


SAME = [renumbered, lists, through_json, shuffled, widened, strided, counted_otherwise, with_keys_of_others, permuted, wrapped]

# mutations of which it is clear what should come


def without_a_state(rng, saved, want):
    i, *_ = some_state(rng, saved, want)
    if not want.clean:  # it may have been this state that was not
        raise Unfit
    del saved["state"][want.numbers[i]]
    want.states[i] = {}


def without_a_link(rng, saved, want):
    i, own, wanted = some_state(rng, saved, want)
    label, keys = some_link(rng, wanted)
    for key in keys:
        del own[key], wanted[key]
    want.fresh.add((i, label))
    want.clean = False


def without_a_key(rng, saved, want):
    i, own, wanted = some_state(rng, saved, want)
    label, keys = some_link(rng, wanted)
    if not (full := [key for key in keys if wanted[key].numel()]):
        raise Unfit
    del own[rng.choice(full)]
    for key in keys:
        del wanted[key]
    want.fresh.add((i, label))
    want.clean = False


def with_an_unknown_key(rng, saved, want):
    some_state(rng, saved, want)[1][rng.choice(["nobody/knows", "exponential", "a/b/c"])] = torch.ones(2)
    want.clean = False


def with_a_stray(rng, saved, want):
    saved["state"][rng.choice([777, "777", "layer.99"])] = {"step": torch.tensor(1.0)}
    want.clean = False


def with_another_rate(rng, saved, want):
    g = rng.randrange(len(want.groups))
    rate = rng.choice([0.05, 0.0, 1, torch.tensor(0.02)])
    saved["param_groups"][g]["lr"], want.groups[g]["lr"] = rate, float(rate) if isinstance(rate, int) else rate


CLEAR = [without_a_state, without_a_link, without_a_key, with_an_unknown_key, with_a_stray, with_another_rate]

# mutations that must be refused


def a_value(rng, saved, want):
    _, own, wanted = some_state(rng, saved, want)
    wrong = [torch.zeros(7, 3), torch.zeros(4, device="meta"), "zeros", None, [0.0], torch.ones(3).to_sparse(), {}]
    own[rng.choice(sorted(wanted))] = rng.choice(wrong)


def a_shape(rng, saved, want):
    _, own, wanted = some_state(rng, saved, want)
    key = rng.choice([key for key in sorted(wanted) if wanted[key].dim()] or ["step"])
    longer = torch.cat([own[key].reshape(-1)] * 2 + [torch.ones(1)])
    own[key] = rng.choice([own[key].unsqueeze(0).expand(2, *own[key].shape), longer])


def a_count(rng, saved, want):
    own = some_state(rng, saved, want)[1]
    wrong = [float("nan"), float("inf"), -1, 0.5, torch.tensor(-2.0), torch.tensor([1.0, 2.0]), 1j * torch.ones(())]
    own["step"] = rng.choice(wrong)


def no_count(rng, saved, want):
    _, own, wanted = some_state(rng, saved, want)
    some_link(rng, wanted)
    del own["step"]


def a_key(rng, saved, want):
    some_state(rng, saved, want)[1][rng.choice([0, None, ("a", "b")])] = torch.ones(2)


def a_state(rng, saved, want):
    if not want.numbers:
        raise Unfit
    saved["state"][rng.choice(list(want.numbers.values()))] = rng.choice([None, [], torch.ones(2), "state", 3])


def a_rate(rng, saved, want):
    wrong = [float("nan"), float("inf"), -1.0, "fast", None, [0.1, 0.2], True, 1j, {}, torch.tensor(float("nan"))]
    wrong += [torch.ones(2), torch.tensor(0.1, device="meta"), torch.tensor(-1.0), float]
    rng.choice(saved["param_groups"])["lr"] = rng.choice(wrong)


def a_pair(rng, saved, want):
    group = rng.choice(saved["param_groups"])
    pairs = [key for key, value in group.items() if isinstance(value, list | tuple) and key.startswith("betas")]
    if not pairs:
        raise Unfit
    group[rng.choice(pairs)] = rng.choice([(0.9,), (0.9, 1.5), (0.9, "x"), (0.9, 0.9, 0.9, 0.9, 0.9), 0.9, None, (0.9, [0.9])])


def an_entry(rng, saved, want):
    wrong = {"label": 3, "scheduled_step": 0.5, "train_mode": 0, "accumulated_calls": -1}
    key = rng.choice([*wrong, "param_names", "placeholder_names", "scheduled"])
    rng.choice(saved["param_groups"])[key] = wrong.get(key, rng.choice([3, [3], [None], "names"]))


def the_params(rng, saved, want):
    group = rng.choice(saved["param_groups"])
    wrong = [None, 3, "0", {}, torch.arange(2), [[0]], [None], [torch.ones(())]]
    group["params"] = rng.choice(wrong)
    if rng.random() < 0.3:
        del group["params"]


def a_number(rng, saved, want):
    group = rng.choice([group for group in saved["param_groups"] if group["params"]])
    numbers = [number for other in saved["param_groups"] for number in other["params"]]
    at = rng.randrange(len(group["params"]))
    others = [number for number in numbers if number != group["params"][at]]
    if not others:
        raise Unfit
    group["params"][at] = rng.choice(others)


def the_groups(rng, saved, want):
    groups = saved["param_groups"]
    wrong = [None, 3, {0: groups[0]}, [*groups, None], [list(groups[0].items()), *groups[1:]], [], [*groups, {"params": []}]]
    saved["param_groups"] = rng.choice(wrong)


def the_parts(rng, saved, want):
    part = rng.choice(["state", "param_groups"])
    if rng.random() < 0.5:
        del saved[part]
    else:
        saved[part] = rng.choice([None, 3, "state", torch.ones(2)])


def a_fraction_for_whole_numbers(rng, saved, want):
    _, own, wanted = some_state(rng, saved, want)
    whole = [key for key, value in wanted.items() if value.dtype in (torch.uint8, torch.int8) and value.numel()]
    if not whole:
        raise Unfit
    own[rng.choice(whole)] = own[rng.choice(whole)].double() + 0.5


WRONG = [a_value, a_shape, a_count, no_count, a_key, a_state, a_rate, a_pair, an_entry, the_params, a_number, the_groups]
WRONG += [the_parts, a_fraction_for_whole_numbers]


def mutated(rng, saved, want):
    """Up to three mutations; their names."""
    done = []
    chosen = rng.sample(SAME + CLEAR, rng.randint(0, 2)) + ([rng.choice(WRONG)] if rng.random() < 0.5 else [])
    if rng.random() < 0.1 and chosen and chosen[-1] not in WRONG:
        chosen = [one for one in chosen if one is not with_a_stray] + [string_keys]
    for one in chosen:
        try:
            one(rng, saved, want)
        except Unfit:
            continue
        want.refused |= one in WRONG
        done.append(one.__name__)
    return done


@cache
def run(name, absent):
    """A run of which one parameter, or none, had no gradient: its parameters, and what it saves."""
    setup = SETUPS[name]
    optimizer = setup.optimizer(params := setup.params())
    train(params, optimizer, 3, absent={absent})
    if setup.evaluating:
        optimizer.eval()
    numbers = {id(p): number for number, p in enumerate(p for group in optimizer.param_groups for p in group["params"])}
    return params, optimizer.state_dict(), {i: numbers[id(p)] for i, p in enumerate(params)}


def source(name, rng):
    """The parameters of a run, what it saves, and what should come of it."""
    absent = rng.choice([None, None, len(SETUPS[name].shapes) - 1])
    params, state_dict, places = run(name, absent)
    saved, kept = copy.deepcopy(state_dict), copy.deepcopy(state_dict)
    states = {i: kept["state"].get(number, {}) for i, number in places.items()}
    groups = [{key: value for key, value in group.items() if key != "params"} for group in kept["param_groups"]]
    return params, saved, Want(states, groups, dict(places))


def check(setup, params, optimizer, report, want):
    assert not want.refused and report.clean is want.clean
    for i, p in enumerate(params):
        got = optimizer.state.get(p, {})
        assert identical({key: got[key] for key in want.states[i]}, want.states[i])
        labels = {label for place, label in want.fresh if place == i}
        assert {key.rpartition("/")[0] for key in got.keys() - want.states[i].keys()} == labels
        assert all(torch.equal(got[f"{label}/since"], got["step"]) for label in labels)
    for group, wanted in zip(optimizer.param_groups, want.groups, strict=True):
        assert identical({key: group[key] for key in wanted}, wanted)
    twins = [nn.Parameter(p.detach().clone()) for p in params]
    reference = setup.optimizer(twins, driver="reference")
    for p, q in zip(params, twins, strict=True):
        if p in optimizer.state:
            reference.state[q] = copy.deepcopy(dict(optimizer.state[p]))
    for group, other in zip(optimizer.param_groups, reference.param_groups, strict=True):
        other.update({key: copy.deepcopy(value) for key, value in group.items() if key != "params"})
    for one, tensors in ((optimizer, params), (reference, twins)):
        if setup.evaluating:
            one.train()
        train(tensors, one, 2, start=3)
    torch.testing.assert_close([p.detach() for p in params], [q.detach() for q in twins], rtol=1e-5, atol=1e-6)


def loaded(name, seed):
    """One mutated load; what became of it."""
    setup, rng = SETUPS[name], random.Random(seed)
    saver, saved, want = source(name, rng)
    done = mutated(rng, saved, want)
    params = setup.params(seed=0 if setup.shapes is PAIRS else 1)
    optimizer = setup.optimizer(params)
    if rng.random() < 0.5:
        train(params, optimizer, 2, start=7)
        if setup.evaluating and rng.random() < 0.5:
            optimizer.eval()
    for p, q in zip(params, saver, strict=True):
        p.data.copy_(q.detach())
    before, strict = Everything(optimizer), rng.random() < 0.3
    try:
        report = optimizer.load_state_dict(saved, strict=strict)
    except ValueError as error:
        assert str(error) and (want.refused or (strict and not want.clean)), (done, error)
        assert before.unchanged(), done
        return "refused"
    assert not strict or want.clean
    check(setup, params, optimizer, report, want)
    return "loaded"


COUNTS = {name: 8 if setup.shapes is PAIRS else 26 for name, setup in SETUPS.items()}  # adapters take longest


@pytest.mark.parametrize("name", SETUPS)
def test_a_mutated_checkpoint_loads_right_or_changes_nothing(name):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ChainWarning)
        found = Counter(loaded(name, f"{name} {i}") for i in range(COUNTS[name]))
    assert min(found["loaded"], found["refused"]) >= COUNTS[name] // 8


def test_at_least_500_checkpoints_are_mutated():
    assert sum(COUNTS.values()) >= 500
