"""Every preset under fully_shard gives the numbers of a single process, also through a checkpoint in the middle."""

import pytest
import torch.distributed.checkpoint as dcp
from distributed.ranks import difference, full, model, on_ranks, train
from table import PRESETS
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)

from gradchain import presets

NAMES = [*PRESETS, "muon_adamw"]
pytestmark = pytest.mark.slow
LR = {"ladam_wave_published": 1e-4}  # its denominator comes to nothing, and larger steps diverge


def build(name, sharded, layers=1):
    from torch.distributed.fsdp import fully_shard

    net = model(layers)
    if sharded:
        fully_shard(net)
    if name == "muon_adamw":  # two chains, each with a learning rate
        return net, presets.muon_adamw().optimizer(net.named_parameters())
    return net, PRESETS[name].optimizer(net.named_parameters(), lr=LR.get(name, 0.01))


def trained(names, sharded=True):
    """Parameters after twenty steps, whole, by preset."""
    found = {}
    for name in names:
        net, optimizer = build(name, sharded)
        train(net, optimizer, 0, 20)
        found[name] = full(net)
    return found


def states(net, optimizer, options):
    return {"model": get_model_state_dict(net), "optimizer": get_optimizer_state_dict(net, optimizer, options=options)}


def save_at_ten(names, folder, options):
    for name in names:
        net, optimizer = build(name, sharded=True)
        train(net, optimizer, 0, 10)
        dcp.save(states(net, optimizer, options), checkpoint_id=f"{folder}/{name}")


def resume_at_ten(names, folder, options):
    found = {}
    for name in names:
        net, optimizer = build(name, sharded=True)
        saved = states(net, optimizer, options)
        dcp.load(saved, checkpoint_id=f"{folder}/{name}")
        set_model_state_dict(net, saved["model"])
        set_optimizer_state_dict(net, optimizer, saved["optimizer"], options=options)
        train(net, optimizer, 10, 20)
        found[name] = full(net)
    return found


@pytest.fixture(scope="module")
def alone():
    return trained(NAMES, sharded=False)


@pytest.fixture(scope="module")
def together():
    return {ranks: on_ranks(ranks, trained, NAMES) for ranks in (2, 3)}


@pytest.fixture(scope="module", params=[(False, 2, (1, 3)), (True, 3, (1, 2))], ids=["by-name-from-2", "flat-from-3"])
def resumed(request, tmp_path_factory):
    flat, before, after = request.param
    folder, options = tmp_path_factory.mktemp("saved"), StateDictOptions(flatten_optimizer_state_dict=flat)
    on_ranks(before, save_at_ten, NAMES, folder, options)
    return [on_ranks(ranks, resume_at_ten, NAMES, folder, options) for ranks in after]


@pytest.mark.parametrize("ranks", [2, 3])
@pytest.mark.parametrize("name", NAMES)
def test_twenty_steps_on_several_ranks_are_those_of_one_process(alone, together, name, ranks):
    assert all(difference(alone[name], found[name]) <= 1e-6 for found in together[ranks])


@pytest.mark.parametrize("name", NAMES)
def test_a_run_saved_on_some_ranks_goes_on_with_more_or_fewer(alone, resumed, name):
    assert all(difference(alone[name], found[name]) <= 1e-6 for ranks in resumed for found in ranks)
