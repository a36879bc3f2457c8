"""LAdam from a model: which parameter is what, and the groups that come of it."""

import pytest
import torch
from torch import nn

from gradchain.optim_wrapper.configure import analyze_model, auto_configure
from gradchain.optim_wrapper.schedulers import ChiAnnealScheduler
from gradchain.types import ChainError


class Block(nn.Module):
    """Attention with projections of its own."""

    def __init__(self):
        super().__init__()
        self.query, self.key, self.value = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)


class Everything(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(10, 4)
        self.conv = nn.Conv1d(4, 4, 3)
        self.norm = nn.LayerNorm((2, 4))
        self.mixer = nn.MultiheadAttention(4, 2)
        self.block = Block()
        self.attn = nn.ModuleDict({"inner": nn.Linear(4, 4), "conv": nn.Conv1d(4, 4, 1)})
        self.value = nn.Linear(4, 1)
        self.key = nn.utils.parametrizations.weight_norm(nn.Linear(4, 4))
        self.table = nn.Parameter(torch.zeros(3, 3))
        self.cube = nn.Parameter(torch.zeros(2, 2, 2))
        self.scale = nn.Parameter(torch.zeros(()))


def mlp():
    return nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1))


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("embed.weight", "embedding"),
        ("conv.weight", "conv"),
        ("conv.bias", "bias"),
        ("norm.weight", "norm"),
        ("mixer.in_proj_weight", "attention"),
        ("mixer.out_proj.weight", "attention"),
        ("block.query.weight", "attention"),
        ("block.value.weight", "attention"),
        ("attn.inner.weight", "attention"),
        ("attn.conv.weight", "conv"),
        ("value.weight", "linear"),  # an actor-critic's head, no attention
        ("key.parametrizations.weight.original1", "linear"),
        ("table", "linear"),
        ("cube", "conv"),
        ("scale", "bias"),
    ],
)
def test_a_parameter_has_the_kind_of_its_owner(name, kind):
    analysis = analyze_model(Everything())
    assert analysis.kinds[name] == kind
    assert analysis.c2[name] == (1e-5 if kind == "linear" else 0.0)


def test_every_parameter_stands_in_one_group_under_its_name():
    model = Everything()
    optimizer, _ = auto_configure(model)
    named = [pair for g in optimizer.param_groups for pair in zip(g["param_names"], g["params"], strict=True)]
    assert {name: id(p) for name, p in named} == {name: id(p) for name, p in model.named_parameters()}
    assert len(named) == len(dict(model.named_parameters()))
    c2 = analyze_model(model).c2
    assert all(group["c2"] == c2[name] for group in optimizer.param_groups for name in group["param_names"])
    assert sorted(group["c2"] for group in optimizer.param_groups) == [0.0, 1e-5]


def test_frozen_parameters_are_left_out():
    model = mlp()
    model[0].requires_grad_(False)
    optimizer, _ = auto_configure(model)
    assert [name for group in optimizer.param_groups for name in group["param_names"]] == ["2.weight", "2.bias"]
    assert (analyze_model(model).total, analyze_model(model).frozen) == (9, 32)


def test_tied_parameters_are_counted_once_as_their_first_owner_has_them():
    model = nn.ModuleDict({"embed": nn.Embedding(10, 4), "head": nn.Linear(4, 10, bias=False)})
    model["head"].weight = model["embed"].weight
    assert analyze_model(model).kinds == {"embed.weight": "embedding"}
    assert len(auto_configure(model)[0].param_groups) == 1


def test_the_analysis_reads_as_a_table():
    model = mlp()
    model[2].bias.requires_grad_(False)
    assert str(analyze_model(model)).splitlines() == [
        "kind       tensors       elements     c2",
        "linear           2             32  1e-05",
        "bias             1              8      0",
        "40 elements are trained, 1 are frozen",
    ]


def test_lr_and_decay_reach_every_group_and_it_trains():
    torch.manual_seed(0)
    model, x = mlp(), torch.randn(64, 3)
    optimizer, scheduler = auto_configure(model, lr=0.02, weight_decay=0.1, total_epochs=20, steps_per_epoch=10)
    assert isinstance(scheduler, ChiAnnealScheduler)
    assert scheduler.total_steps == 200
    assert [(g["initial_lr"], g["weight_decay"]) for g in optimizer.param_groups] == [(0.02, 0.1)] * 2
    losses = []
    for _ in range(200):
        loss = (model(x) - x.sum(1, keepdim=True).sin()).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 4


@pytest.mark.parametrize("arguments", [{}, {"total_steps": 10, "use_scheduler": False}])
def test_there_is_no_scheduler_without_a_number_of_steps_or_when_unwanted(arguments):
    assert auto_configure(mlp(), **arguments)[1] is None


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        ({"total_epochs": 3}, "total_steps=None, total_epochs=3, steps_per_epoch=None"),
        ({"steps_per_epoch": 3}, "total_steps=None, total_epochs=None, steps_per_epoch=3"),
        ({"total_steps": 9, "total_epochs": 3, "steps_per_epoch": 3}, "total_steps=9, total_epochs=3, steps_per_epoch=3"),
    ],
)
def test_a_number_of_steps_half_given_or_given_twice_is_refused(arguments, found):
    with pytest.raises(ChainError, match=f"must be given once; found {found}. Pass total_steps, or total_epochs"):
        auto_configure(mlp(), **arguments)


def test_a_model_with_nothing_to_train_is_refused():
    with pytest.raises(
        ChainError, match=r"Sequential has no parameter that needs a gradient; found 41 frozen .* Set requires_grad"
    ):
        auto_configure(mlp().requires_grad_(False))


def test_a_lazy_layer_without_a_shape_is_refused():
    with pytest.raises(
        ChainError, match=r"'0\.weight' belongs to a lazy layer and has no shape yet\. Run the model on one batch"
    ):
        analyze_model(nn.Sequential(nn.LazyLinear(3)))
