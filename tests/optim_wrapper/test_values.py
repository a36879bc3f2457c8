"""Values of hyperparameters: in every form that torch takes, followed where the caller keeps them, or refused in words."""

import copy
import io
import warnings
from collections import UserList
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import pytest
import torch
from harness import CLASSES
from torch import nn, optim
from torch.optim.lr_scheduler import LambdaLR
from training import identical, snapshot, steps

from gradchain import ChainError, chain, optim_wrapper, presets
from gradchain import transforms as t

PRESETS = [name for name in presets.__all__ if name != "suggest_c2"]


class ListConfig(Sequence):
    """A sequence that is neither list nor tuple, as configuration libraries have them."""

    def __init__(self, *entries):
        self.entries = entries

    def __getitem__(self, i):
        return self.entries[i]

    def __len__(self):
        return len(self.entries)


def params(dtype=torch.float64):
    random = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(shape, generator=random, dtype=dtype)) for shape in ((4, 3), (5,))]


def moved(optimizer, ps, start=0, count=1):
    steps(optimizer, count, start=start)
    return [p.detach().clone() for p in ps]


# the caller's tensor

DRIVERS = ["reference", "eager"]
GIVEN = {
    "option": lambda ps, lr, driver: presets.adamw().optimizer(ps, lr=lr, driver=driver),
    "preset": lambda ps, lr, driver: presets.adamw(lr=lr).optimizer(ps, driver=driver),
    "class": lambda ps, lr, driver: optim_wrapper.AdamW(ps, lr=lr, driver=driver),
    "group": lambda ps, lr, driver: presets.adamw().optimizer([{"params": ps, "lr": lr}], driver=driver),
    "by hand": lambda ps, lr, driver: by_hand(presets.adamw().optimizer(ps, driver=driver), lr),
    "two groups": lambda ps, lr, driver: presets.adamw().optimizer([{"params": [p]} for p in ps], lr=lr, driver=driver),
}


def by_hand(optimizer, lr):
    for group in optimizer.param_groups:
        group["lr"] = lr
    return optimizer


@pytest.mark.parametrize("make", GIVEN.values(), ids=GIVEN)
@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize("shape", [(), (1,)], ids=str)
def test_a_tensor_that_the_caller_keeps_is_followed(make, driver, shape):
    lr = torch.full(shape, 0.1)
    theirs = optim.AdamW(a := params(), lr=(rate := torch.tensor(0.1)))
    ours = make(b := params(), lr, driver)
    for i, value in enumerate((0.1, 0.02, 0.0, 0.3)):
        before = [p.detach().clone() for p in b]
        lr.fill_(value)
        rate.fill_(value)
        steps(theirs, start=i)
        steps(ours, start=i)
        torch.testing.assert_close(b, a, rtol=1e-7, atol=1e-7)
        assert value != 0.0 or all(map(torch.equal, before, b))


@pytest.mark.parametrize("name", sorted(CLASSES))
def test_every_class_follows_the_caller_s_rate_to_0(name):
    lr = torch.tensor(0.001)
    optimizer = CLASSES[name](ps := params(torch.float32), lr=lr)
    steps(optimizer)
    before = [p.detach().clone() for p in ps]
    lr.fill_(0.0)
    steps(optimizer, start=1)
    assert all(map(torch.equal, before, ps))


def test_a_tensor_in_the_group_is_the_caller_s_own():
    lr = torch.tensor(0.1)
    for optimizer in (optim.AdamW(params(), lr=lr), presets.adamw().optimizer(params(), lr=lr)):
        optimizer.add_param_group({"params": [nn.Parameter(torch.ones(2))]})
        assert all(group["lr"] is lr for group in optimizer.param_groups) and optimizer.defaults["lr"] is lr


def test_schedulers_write_into_the_caller_s_tensor_as_with_torch():
    seen = []
    for make in (optim.SGD, lambda groups, lr: presets.sgd().optimizer(groups, lr=lr)):
        lr = torch.tensor(0.1)
        optimizer = make([{"params": [p]} for p in params()], lr=lr)
        scheduler = LambdaLR(optimizer, [lambda n: 0.5**n, lambda n: 0.25**n])
        for i in range(3):
            steps(optimizer, start=i)
            scheduler.step()
        seen.append((float(lr), [float(group["lr"]) for group in optimizer.param_groups]))
    assert seen[0] == seen[1]


@pytest.mark.parametrize("way", ["deepcopy", "pickle"])
def test_a_copy_has_a_tensor_of_its_own_that_its_groups_share_as_with_torch(way):
    for optimizer in (
        optim.AdamW([{"params": [p]} for p in params()], lr=torch.tensor(0.1)),
        presets.adamw().optimizer([{"params": [p]} for p in params()], lr=torch.tensor(0.1)),
    ):
        given = optimizer.param_groups[0]["lr"]
        if way == "deepcopy":
            twin = copy.deepcopy(optimizer)
        else:
            torch.save(optimizer, file := io.BytesIO())
            file.seek(0)
            twin = torch.load(file, weights_only=False)
        first, second = (group["lr"] for group in twin.param_groups)
        assert first is second and first is not given
        first.fill_(0.0)
        assert given == torch.tensor(0.1)


def test_tensors_in_a_tuple_are_followed():
    beta = torch.tensor(0.5, dtype=torch.float64)
    results = []
    for make in (optim.Adam, lambda p, **kw: presets.adam().optimizer(p, **kw)):
        beta.fill_(0.5)
        extra = {"lr": torch.tensor(0.1)} if make is optim.Adam else {"lr": 0.1}
        optimizer = make(ps := params(), betas=(beta, torch.tensor(0.9, dtype=torch.float64)), **extra)
        steps(optimizer, 2)
        beta.fill_(0.8)
        results.append(moved(optimizer, ps, 2, 2))
    torch.testing.assert_close(*results, rtol=1e-6, atol=1e-6)


# other forms

FORMS = {
    "list": [0.8, 0.95],
    "UserList": UserList([0.8, 0.95]),
    "sequence": ListConfig(0.8, 0.95),
    "array": np.array([0.8, 0.95]),
    "array of one byte order": np.array([0.8, 0.95], dtype=">f8"),
    "numpy scalars": (np.float64(0.8), np.float64(0.95)),
    "arrays": [np.array(0.8), np.array([0.95])],
    "fractions": (Fraction(4, 5), Fraction(19, 20)),
    "tensor": torch.tensor([0.8, 0.95], dtype=torch.float64),
    "tensors": (torch.tensor(0.8, dtype=torch.float64), torch.tensor([0.95], dtype=torch.float64)),
}
NUMBERS = {
    "int": 1,
    "numpy scalar": np.float64(0.25),
    "single precision": np.float32(0.25),
    "numpy int": np.int64(1),
    "0-d array": np.array(0.25),
    "array": np.array([0.25]),
    "fraction": Fraction(1, 4),
    "0-d tensor": torch.tensor(0.25),
    "tensor": torch.tensor([0.25]),
}


def ways(key, value):
    """Optimizers that have the value: from the preset, an option, a group, by hand before the first and after a step."""
    yield presets.adamw(**{key: value}).optimizer(params())
    yield presets.adamw().optimizer(params(), **{key: value})
    yield optim_wrapper.AdamW(params(), **{key: value})
    yield presets.adamw().optimizer([{"params": params(), key: value}])
    optimizer = presets.adamw().optimizer(params())
    optimizer.param_groups[0][key] = value
    yield optimizer


def result(optimizer):
    return moved(optimizer, [p for group in optimizer.param_groups for p in group["params"]], count=3)


@pytest.mark.parametrize("betas", FORMS.values(), ids=FORMS)
def test_betas_are_any_sequence(betas):
    expected = result(presets.adamw(betas=(0.8, 0.95)).optimizer(params()))
    for optimizer in ways("betas", betas):
        torch.testing.assert_close(result(optimizer), expected, rtol=1e-13, atol=1e-13)
        kept = optimizer.param_groups[0]["betas"]
        assert type(kept) is tuple and all(isinstance(one, float | torch.Tensor) for one in kept)


@pytest.mark.parametrize("lr", NUMBERS.values(), ids=NUMBERS)
def test_numbers_are_any_number(lr):
    expected = result(presets.adamw(lr=float(lr.item() if hasattr(lr, "item") else lr)).optimizer(params()))
    for optimizer in ways("lr", lr):
        torch.testing.assert_close(result(optimizer), expected, rtol=1e-13, atol=1e-13)
        assert isinstance(optimizer.param_groups[0]["lr"], float | torch.Tensor)


@pytest.mark.parametrize("key", ["lr", "betas", "eps", "weight_decay"])
def test_groups_written_by_hand_are_added_to_and_saved(key):
    optimizer = presets.adamw().optimizer(params())
    steps(optimizer)
    optimizer.param_groups[0][key] = [0.8, 0.9] if key == "betas" else np.array(0.01)
    steps(optimizer, start=1)
    optimizer.add_param_group({"params": params()})
    steps(optimizer, start=2)
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    torch.load(file, weights_only=True)


WRONG = {
    "lr": ["1e-2", None, -0.1, float("nan"), torch.ones(2), np.ones(2), [0.1], True],
    "betas": [0.9, (0.9,), (0.9, 1.0), "ab", ("a", "b"), None, torch.ones(3), np.ones((2, 2)), {0.9: 1, 0.99: 2}],
    "eps": [-1e-8, "1e-8", None, (1e-8, 1e-8)],
    "weight_decay": [-1, "0.1", None],
}


@pytest.mark.parametrize(("key", "value"), [(key, value) for key, all_ in WRONG.items() for value in all_], ids=str)
def test_what_is_no_value_is_refused_by_hand_as_when_it_is_made(key, value):
    with pytest.raises(ChainError) as made:
        presets.adamw().optimizer(params(), **{key: value})
    optimizer = presets.adamw().optimizer(params())
    steps(optimizer)
    good = optimizer.param_groups[0][key]
    optimizer.param_groups[0][key] = value
    state, ps = copy.deepcopy(optimizer.state_dict()["state"]), copy.deepcopy(optimizer.param_groups[0]["params"])
    with pytest.raises(ChainError) as by_hand_:
        steps(optimizer)
    assert str(by_hand_.value) == str(made.value) and "found" in str(made.value) and "that fits" not in str(made.value)
    assert identical(optimizer.state_dict()["state"], state) and identical(optimizer.param_groups[0]["params"], ps)
    optimizer.param_groups[0][key] = good
    steps(optimizer)


def test_one_wrong_group_keeps_all_groups_as_they_are():
    optimizer = presets.adamw().optimizer([{"params": [p]} for p in params()])
    steps(optimizer)
    given = [0.8, 0.9]
    optimizer.param_groups[0]["betas"], optimizer.param_groups[1]["lr"] = given, -1.0
    before = snapshot(optimizer)
    with pytest.raises(ChainError, match="lr must be"):
        steps(optimizer)
    assert identical(snapshot(optimizer), before) and optimizer.param_groups[0]["betas"] is given


@pytest.mark.parametrize("build", [lambda o: LambdaLR(o, lambda n: -1e-17 if n else 1.0)])
def test_a_scheduler_s_rounding_below_0_is_0(build):
    optimizer = presets.adamw().optimizer(ps := params())
    scheduler = build(optimizer)
    steps(optimizer)
    scheduler.step()
    before = [p.detach().clone() for p in ps]
    steps(optimizer, start=1)
    assert all(map(torch.equal, before, ps)) and optimizer.param_groups[0]["lr"] == 0.0


# schedules in tuples


@pytest.mark.parametrize("driver", DRIVERS)
def test_a_schedule_in_a_tuple_is_a_schedule(driver):
    one = presets.adamw(betas=(lambda n: 0.9 - 0.1 * n, 0.99)).optimizer(a := params(), driver=driver)
    whole = presets.adamw().optimizer(b := params(), driver=driver)
    for i in range(3):
        whole.param_groups[0]["betas"] = (0.9 - 0.1 * (i + 1), 0.99)
        steps(one, start=i)
        steps(whole, start=i)
        assert one.param_groups[0]["betas"] == whole.param_groups[0]["betas"]
    assert all(map(torch.equal, a, b))


def test_a_schedule_in_a_tuple_works_in_the_functional_form():
    recipe = presets.adamw(lr=0.1, betas=(lambda n: 0.5 + 0.1 * n, 0.99))
    optimizer = recipe.optimizer([p := nn.Parameter(torch.ones(3, dtype=torch.float64))])
    ps = [torch.ones(3, dtype=torch.float64)]
    state = recipe.init(ps)
    for _ in range(3):
        p.grad = torch.sin(p.detach())
        optimizer.step()
        updates, state = recipe.update([torch.sin(ps[0])], state, ps)
        ps = [ps[0] - updates[0]]
    torch.testing.assert_close(ps[0], p.detach())


def test_a_schedule_in_a_group_s_tuple_is_refused():
    with pytest.raises(ChainError, match="a schedule is part of the chain, not of a parameter group"):
        presets.adamw().optimizer([{"params": params(), "betas": (lambda n: 0.9, 0.99)}])


def test_a_schedule_out_of_range_at_its_first_step_is_refused_when_it_is_bound():
    with pytest.raises(ChainError, match="'moments', step 1: betas must be"):
        presets.adamw(betas=(lambda n: 1.5, 0.99)).optimizer(params())


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_takes_a_schedule_in_its_betas_or_refuses_it(name):
    preset = getattr(presets, name)
    plain = preset()
    keys = [("betas", link.betas) for part in plain.parts.values() for link in part.links if hasattr(link, "betas")]
    if not keys:
        pytest.skip("it has no betas")
    values = keys[0][1]
    optimizer = plain.optimizer(params(torch.float32), betas=(lambda n: values[0], *values[1:]))
    expected = plain.optimizer(params(torch.float32))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert all(map(torch.equal, result(optimizer), result(expected)))


def test_the_links_refuse_in_words_that_name_the_form():
    for make, form in (
        (lambda: t.Normalize(eps="1e-8"), r"Pass a number, not a text: eps=1e-08"),
        (lambda: t.Normalize(eps=-1.0), r"Pass eps=1e-08, for example"),
        (lambda: t.Moments(betas=0.9), r"betas must be 2 numbers, .* Pass betas=\(0.9, 0.999\), for example"),
        (lambda: t.Orthogonalize(adjust_lr_fn="orignal"), r"Did you mean 'original'\?"),
        (lambda: chain(t.Moments(), t.Normalize()).override({"epss": 1}), r"Did you mean 'eps'\?"),
    ):
        with pytest.raises(ChainError, match=form):
            make()
