"""Checkpoints of torch.optim: a run that began there goes on here as it would have there."""

import copy
import io
import warnings

import pytest
import torch
from torch import nn, optim
from training import identical, snapshot, steps

from gradchain import ChainError, ChainWarning, presets
from gradchain import transforms as t

KINDS = {
    "adam": (optim.Adam, {}, presets.adam()),
    "adam with decay": (optim.Adam, {"weight_decay": 0.1, "betas": (0.8, 0.99), "eps": 1e-6}, presets.adam()),
    "adam amsgrad": (optim.Adam, {"amsgrad": True}, presets.adam(amsgrad=True)),
    "adam decoupled": (optim.Adam, {"weight_decay": 0.1, "decoupled_weight_decay": True}, presets.adamw()),
    "adamw": (optim.AdamW, {}, presets.adamw()),
    "adamw amsgrad": (optim.AdamW, {"amsgrad": True, "weight_decay": 0.2}, presets.adamw(amsgrad=True)),
    "adamw tensor lr": (optim.AdamW, {"lr": torch.tensor(1e-2, dtype=torch.float64), "foreach": False}, presets.adamw()),
    "nadam": (optim.NAdam, {"weight_decay": 0.01}, presets.nadam()),
    "nadam decoupled": (
        optim.NAdam,
        {"weight_decay": 0.01, "decoupled_weight_decay": True},
        presets.nadam(decoupled_weight_decay=True),
    ),
    "sgd": (optim.SGD, {"weight_decay": 0.1}, presets.sgd()),
    "sgd momentum": (optim.SGD, {"momentum": 0.9, "dampening": 0.1}, presets.sgd(momentum=0.5)),
    "sgd nesterov": (optim.SGD, {"momentum": 0.9, "nesterov": True}, presets.sgd(momentum=0.5, nesterov=True)),
    "rmsprop": (optim.RMSprop, {"weight_decay": 0.1, "alpha": 0.9}, presets.rmsprop()),
    "rmsprop momentum": (optim.RMSprop, {"momentum": 0.9}, presets.rmsprop(momentum=0.5)),
    "rmsprop centered": (optim.RMSprop, {"momentum": 0.9, "centered": True}, presets.rmsprop(momentum=0.5, centered=True)),
    "adagrad": (optim.Adagrad, {"lr_decay": 0.01, "initial_accumulator_value": 0.1}, presets.adagrad()),
    "adafactor": (optim.Adafactor, {"weight_decay": 0.1, "eps": (1e-20, 1e-4)}, presets.adafactor()),
}
ROWS = pytest.mark.parametrize(("theirs", "kwargs", "ours"), list(KINDS.values()), ids=KINDS)
SHAPES = [(4, 5), (3,), (2, 3, 2)]


def params(dtype=torch.float64, shapes=SHAPES):
    random = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(shape, generator=random, dtype=torch.float64).to(dtype)) for shape in shapes]


def copied(ps):
    return [nn.Parameter(p.detach().clone()) for p in ps]


def through_a_file(state):
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@ROWS
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_training_goes_on_as_torch_would(theirs, kwargs, ours, dtype):
    a = params(dtype)
    torchs = theirs(a, **{"lr": 1e-2, **kwargs})
    steps(torchs, 10)
    b = copied(a)
    chain = ours.optimizer(b, lr=0.5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        report = chain.load_state_dict(through_a_file(torchs.state_dict()), strict=True)
    assert report.clean and chain.param_groups[0]["lr"] == torchs.param_groups[0]["lr"]
    steps(torchs, 50, start=10)
    steps(chain, 50, start=10)
    limit = {"rtol": 1e-11, "atol": 1e-12} if dtype == torch.float64 else {"rtol": 1e-4, "atol": 1e-5}
    torch.testing.assert_close(b, a, **limit)


@ROWS
def test_what_went_on_is_saved_and_loaded_as_our_own(theirs, kwargs, ours):
    torchs = theirs(a := params(), **kwargs)
    steps(torchs, 3)
    first, second = ours.optimizer(copied(a)), ours.optimizer(copied(a))
    first.load_state_dict(torchs.state_dict())
    steps(first, 2)
    assert second.load_state_dict(through_a_file(first.state_dict()), strict=True).clean
    assert identical(second.state_dict(), first.state_dict())


def test_a_state_in_bfloat16_becomes_one_in_full_precision_and_nothing_is_shared():
    a = params(torch.bfloat16)
    torchs = optim.AdamW(a)
    steps(torchs, 3)
    saved = torchs.state_dict()
    before = copy.deepcopy(saved)
    chain = presets.adamw().optimizer(b := copied(a))
    chain.load_state_dict(saved)
    for p, old in zip(b, saved["state"].values(), strict=True):
        assert chain.state[p]["moments/first"].dtype == torch.float32
        assert torch.equal(chain.state[p]["moments/first"], old["exp_avg"].float())
    steps(chain, 2, start=3)
    assert identical(saved, before)


def test_complex_and_scalar_parameters_come_along():
    a = [nn.Parameter(torch.randn(3, 2, dtype=torch.complex128)), nn.Parameter(torch.tensor(0.5, dtype=torch.float64))]
    torchs = optim.Adam(a, lr=1e-2)
    steps(torchs, 4)
    chain = presets.adam().optimizer(b := copied(a))
    assert chain.load_state_dict(torchs.state_dict(), strict=True).clean
    steps(torchs, 10, start=4)
    steps(chain, 10, start=4)
    torch.testing.assert_close(b, a, rtol=1e-11, atol=1e-12)


def test_a_run_changes_its_optimizer_on_the_way():
    torchs = optim.AdamW(a := params(), lr=1e-2, weight_decay=0.1)
    steps(torchs, 4)
    chain = presets.ladam(c2=0.1).optimizer(copied(a))
    assert chain.load_state_dict(torchs.state_dict(), strict=True).kept == ("moments",)
    assert chain.param_groups[0]["weight_decay"] == 0.1 and chain.param_groups[0]["c2"] == 0.1
    renamed = presets.adamw().replace(moments=t.Moments(name="mine")).optimizer(copied(a))
    assert renamed.load_state_dict(torchs.state_dict(), strict=True).kept == ("mine",)


def test_what_does_not_fit_is_said():
    a = params()
    torchs = optim.Adam(a, amsgrad=True)
    steps(torchs, 2)
    with pytest.warns(ChainWarning, match="kept: moments; dropped: max_exp_avg_sq; fresh: none"):
        presets.adam().optimizer(copied(a)).load_state_dict(torchs.state_dict())
    with pytest.warns(ChainWarning, match="kept: none; dropped: .*exp_avg.*; fresh: momentum"):
        report = presets.sgd(momentum=0.9).optimizer(copied(a)).load_state_dict(torchs.state_dict())
    assert set(report.dropped) == {"exp_avg", "exp_avg_sq", "max_exp_avg_sq"}


def saved_by(theirs, **kwargs):
    optimizer = theirs(params(), **kwargs)
    steps(optimizer, 2)
    return optimizer.state_dict()


@pytest.mark.parametrize(
    ("saved", "ours", "remark"),
    [
        ((optim.SGD, {"momentum": 0.9, "nesterov": True}), presets.sgd(momentum=0.9), "nesterov=True"),
        ((optim.SGD, {"momentum": 0.9}), presets.sgd(momentum=0.9, nesterov=True), "nesterov=False"),
        ((optim.AdamW, {}), presets.adam(), "decoupled_weight_decay=True"),
        ((optim.Adam, {"weight_decay": 0.1}), presets.adamw(), "decoupled_weight_decay=False"),
        ((optim.AdamW, {}), presets.adamw().without("weight_decay"), "weight_decay=0.01, for which this chain has no link"),
    ],
    ids=["nesterov", "no nesterov", "decoupled", "coupled", "no decay"],
)
def test_a_switch_of_the_saved_run_that_the_chain_lacks_is_remarked(saved, ours, remark):
    state = saved_by(saved[0], **saved[1])
    with pytest.warns(ChainWarning, match=f"remarks: it was saved with {remark}"):
        ours.optimizer(params()).load_state_dict(state)
    optimizer = ours.optimizer(params())
    before = snapshot(optimizer)
    with pytest.raises(ChainError, match=remark):
        optimizer.load_state_dict(state, strict=True)
    assert identical(snapshot(optimizer), before)


@pytest.mark.parametrize(("theirs", "ours"), [(optim.Adam, presets.adam()), (optim.SGD, presets.sgd())], ids=["adam", "sgd"])
def test_a_run_that_went_uphill_goes_on_uphill(theirs, ours):
    torchs = theirs(a := params(), lr=0.01, maximize=True)
    steps(torchs, 3)
    optimizer = ours.optimizer(b := copied(a))
    assert optimizer.load_state_dict(through_a_file(torchs.state_dict()), strict=True).clean
    assert optimizer.param_groups[0]["maximize"] is True
    steps(torchs, 5, start=3)
    steps(optimizer, 5, start=3)
    torch.testing.assert_close(b, a, rtol=1e-11, atol=1e-12)


def test_momentum_that_a_run_of_torch_had_goes_on_in_a_chain_without():
    torchs = optim.SGD(a := params(), lr=0.01, momentum=0.9, dampening=0.1)
    steps(torchs, 3)
    optimizer = presets.sgd().optimizer(b := copied(a))
    assert optimizer.load_state_dict(through_a_file(torchs.state_dict()), strict=True).clean
    steps(torchs, 5, start=3)
    steps(optimizer, 5, start=3)
    torch.testing.assert_close(b, a, rtol=1e-11, atol=1e-12)


def test_a_rule_of_a_saved_run_that_never_stepped_is_remarked():
    saved = optim.SGD(params(), momentum=0.9, nesterov=True).state_dict()
    optimizer = presets.sgd().optimizer(params())
    with pytest.raises(ChainError, match="saved with nesterov=True"):
        optimizer.load_state_dict(saved, strict=True)
    with pytest.warns(ChainWarning, match="saved with nesterov=True"):
        optimizer.load_state_dict(saved)
    assert "nesterov" not in optimizer.param_groups[0]
    steps(optimizer, 2)
