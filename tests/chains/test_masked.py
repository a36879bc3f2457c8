"""A part of a chain for some parameters only."""

import copy
import pickle

import pytest
import torch
from torch import nn
from training import identical, param, snapshot, steps

from gradchain import ChainError, ChainWarning, chain, masked, presets
from gradchain import transforms as t
from gradchain.chains import biases_and_norms, matrices

DECAYED = presets.adamw(lr=0.1, weight_decay=0.5).replace(
    weight_decay=masked(t.WeightDecay(weight_decay=0.5), by=~biases_and_norms)
)


def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2))


def test_no_decay_on_biases_and_norms_is_two_groups_in_one():
    ours, theirs = model(), model()
    optimizer = DECAYED.optimizer(ours.named_parameters())
    decayed = [theirs[0].weight, theirs[2].weight]
    rest = [p for p in theirs.parameters() if all(p is not q for q in decayed)]
    groups = [{"params": decayed, "weight_decay": 0.5}, {"params": rest, "weight_decay": 0.0}]
    other = presets.adamw(lr=0.1).optimizer(groups)
    steps(optimizer, 5)
    steps(other, 5)
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))
    assert optimizer.param_groups[0]["weight_decay"] == 0.5 and len(optimizer.param_groups) == 1


def test_an_absent_link_keeps_no_state_and_its_readers_are_absent_with_it():
    recipe = chain(masked(chain(t.Moments(), t.Normalize()), by=matrices), t.LearningRate(lr=0.1))
    a, b, plain = param(3, 2), param(3), param(3)
    optimizer = recipe.optimizer([a, b])
    steps(optimizer, 3)
    steps(presets.sgd(lr=0.1).optimizer([plain]), 3)
    assert torch.equal(b, plain)
    assert set(optimizer.state[a]) == {"step", "moments/first", "moments/second"} and set(optimizer.state[b]) == {"step"}
    with pytest.raises(ChainError, match="'normalize' reads second_moment, but no link before it writes it"):
        chain(masked(t.Moments(), by=matrices), t.Normalize(), t.LearningRate())
    with pytest.raises(ChainError, match="'normalize' reads second_moment"):
        chain(masked(t.Moments(), by=matrices), masked(t.Normalize(), by="*.weight"), t.LearningRate())


@pytest.mark.parametrize("first", [True, False], ids=["met first", "met later"])
def test_absent_parameters_do_not_meet_in_a_shared_link(first):
    limit = t.GlobalSpeedLimit(speed_limit=0.1)
    recipe = chain(t.LearningRate(lr=1.0), masked(limit, by=matrices if first else ~matrices))
    a, b, alone, free = param(3, 2), param(4), param(3, 2), param(4)
    steps(recipe.optimizer([a, b]), 2)
    met, left = (alone, free) if first else (free, alone)
    steps(chain(t.LearningRate(lr=1.0), limit).optimizer([met]), 2)
    steps(presets.sgd(lr=1.0).optimizer([left]), 2)
    assert torch.equal(a, alone) and torch.equal(b, free)


def test_masks_follow_names_that_come_later_and_groups_that_are_added():
    recipe = chain(masked(t.Momentum(), by="*.weight"), t.LearningRate(lr=0.1))
    net = model()
    optimizer = recipe.optimizer(net.parameters())
    optimizer.bind_names(net.named_parameters())
    new = param(2)
    optimizer.add_param_group({"params": [("new.weight", new)]})
    steps(optimizer)
    having = [name for name, p in net.named_parameters() if "momentum/buffer" in optimizer.state[p]]
    assert having == ["0.weight", "1.weight", "2.weight"] and "momentum/buffer" in optimizer.state[new]


def test_masks_within_masks_must_both_hold():
    link = masked(masked(t.L2(weight_decay=0.1), by=matrices), by="*a")
    assert link.only("a", param(2, 2)) and not link.only("b", param(2, 2)) and not link.only("a", param(2))


def test_saving_loading_and_copies():
    net = model()
    recipe = chain(masked(chain(t.Moments(), t.Normalize()), by=matrices), t.LearningRate(lr=0.1))
    optimizer = recipe.optimizer(net.named_parameters())
    steps(optimizer, 2)
    other = copy.deepcopy(net)
    resumed = recipe.optimizer(other.named_parameters())
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()), strict=True)
    pickled, third = pickle.loads(pickle.dumps((optimizer, net)))
    for one in (optimizer, resumed, pickled):
        steps(one, 2, start=2)
    assert identical(snapshot(resumed), snapshot(optimizer)) and identical(snapshot(pickled), snapshot(optimizer))
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), third.parameters(), strict=True))
    wider = chain(t.Moments(), t.Normalize(), t.LearningRate(lr=0.1)).optimizer(net.named_parameters())
    with pytest.warns(ChainWarning, match="fresh: moments"):
        wider.load_state_dict(optimizer.state_dict())
    assert torch.equal(wider.state[net[0].weight]["moments/first"], optimizer.state[net[0].weight]["moments/first"])


def test_it_is_written_down_as_it_was_made():
    text = repr(DECAYED["weight_decay"])
    assert text == "masked(WeightDecay(weight_decay=0.5), by=~biases_and_norms)"
    assert eval(text, {**vars(t), "masked": masked, "biases_and_norms": biases_and_norms}) == DECAYED["weight_decay"]
    assert pickle.loads(pickle.dumps(DECAYED)) == DECAYED
    assert "for ~biases_and_norms" in DECAYED.describe()


@pytest.mark.slow
def test_the_step_is_still_one_graph():
    torch._dynamo.reset()
    ours, theirs = model(), model()
    eager, compiled = (DECAYED.optimizer(m.named_parameters()) for m in (ours, theirs))
    compiled.step = torch.compile(compiled.step, fullgraph=True, backend="eager")
    for optimizer in (eager, compiled):
        steps(optimizer, 3)
    torch.testing.assert_close(list(theirs.parameters()), list(ours.parameters()))
