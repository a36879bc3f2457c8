"""Every preset class goes on from its own state: loaded directly, and by torch.distributed.checkpoint in all its forms."""

import copy
import inspect
import warnings

import pytest
import torch
from torch import nn, optim
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from training import identical, snapshot

from gradchain import ChainWarning
from gradchain.optim_wrapper import ChainOptimizer, presets

CLASSES = {cls.__name__: cls for cls in vars(presets).values() if inspect.isclass(cls) and issubclass(cls, ChainOptimizer)}
del CLASSES["ChainOptimizer"]
FORMS = {"plain": {}, "full": {"full_state_dict": True}, "flattened": {"flatten_optimizer_state_dict": True}}
SHAPES = [(), (1,), (0,), (3,), (1, 8), (8, 1), (1, 1), (3, 0), (2, 3, 1, 1), (4, 5)]


def odd():
    random = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(shape, generator=random)) for shape in SHAPES]


def train(params, optimizer, count, start=0):
    params = list(params)
    for step in range(start, start + count):
        for i, p in enumerate(params):
            p.grad = torch.sin(3 * p.detach() + step + i)
        optimizer.step()


def values(params):
    return [p.detach().clone() for p in params]


@pytest.fixture(autouse=True)
def _no_pairs():
    with warnings.catch_warnings():  # presets for adapters may say that they find none
        warnings.simplefilter("ignore", ChainWarning)
        yield


def test_there_are_54_classes():
    assert len(CLASSES) == 54


@pytest.mark.parametrize("cls", CLASSES.values(), ids=CLASSES)
def test_its_own_state_loads_for_parameters_of_any_shape(cls):
    straight, params = cls(a := odd()), cls(b := odd())
    train(a, straight, 2)
    train(b, params, 2)
    before = snapshot(params)
    assert params.load_state_dict(params.state_dict(), strict=True).clean and identical(snapshot(params), before)
    assert params.load_state_dict(copy.deepcopy(params.state_dict()), strict=True).clean
    assert identical(snapshot(params), before)
    fresh = cls(c := [nn.Parameter(value) for value in values(b)])
    assert fresh.load_state_dict(copy.deepcopy(params.state_dict()), strict=True).clean
    assert identical(fresh.state_dict(), params.state_dict())
    for one, tensors in ((straight, a), (params, b), (fresh, c)):
        train(tensors, one, 2, start=2)
    assert identical(values(b), values(a)) and identical(values(c), values(a))


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 1), nn.Conv2d(1, 2, 3))


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("cls", CLASSES.values(), ids=CLASSES)
def test_a_run_goes_on_from_a_distributed_checkpoint(cls, form):
    options = StateDictOptions(**form)
    first, second = net(), net()
    a, b = cls(first.parameters()), cls(second.parameters())
    train(first.parameters(), a, 4)
    weights, saved = copy.deepcopy(first.state_dict()), copy.deepcopy(get_optimizer_state_dict(first, a, options=options))
    train(first.parameters(), a, 3, start=4)
    second.load_state_dict(weights)
    if form == FORMS["full"] and all(value.dim() == 0 for own in a.state.values() for value in own.values()):
        torchs = optim.SGD((third := net()).parameters(), lr=0.1)
        for model, optimizer in ((third, torchs), (second, b)):  # torch asks for a state with dimensions, of its own SGD too
            with pytest.raises(AssertionError, match="Expected device to be set"):
                set_optimizer_state_dict(model, optimizer, copy.deepcopy(saved), options=options)
        return
    set_optimizer_state_dict(second, b, saved, options=options)
    train(second.parameters(), b, 3, start=4)
    assert identical(values(second.parameters()), values(first.parameters()))
    assert identical(b.state_dict(), a.state_dict())
