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


def build(name, sharded=True, driver="auto"):
    from torch.distributed.fsdp import fully_shard

    net = model(bias=False)  # two vectors less of a length that another has
    if sharded:
        fully_shard(net)
    # alone by the loop, which traces no chain: that every driver gives its numbers is shown in optim_wrapper/test_drivers.py
    driver = driver if sharded else "reference"
    if name == "muon_adamw":  # two chains, each with a learning rate
        return net, presets.muon_adamw().optimizer(net.named_parameters(), driver=driver)
    return net, PRESETS[name].optimizer(net.named_parameters(), lr=LR.get(name, 0.01), driver=driver)


def states(net, optimizer, options):
    return {"model": get_model_state_dict(net), "optimizer": get_optimizer_state_dict(net, optimizer, options=options)}


def trained(folder, options):
    """Parameters after twenty steps on shards, whole, by preset; what there is after ten goes into the folder."""
    found = {}
    for name in NAMES:
        net, optimizer = build(name)
        train(net, optimizer, 0, 10)
        dcp.save(states(net, optimizer, options), checkpoint_id=f"{folder}/{name}")
        train(net, optimizer, 10, 20)
        found[name] = full(net)
    return found


def by_the_reference(names):
    """Parameters after twenty steps of the reference, which gathers them for each step."""
    found = {}
    for name in names:
        net, optimizer = build(name, driver="reference")
        train(net, optimizer, 0, 20)
        found[name] = full(net)
    return found


def resumed(names, folder, options):
    """Parameters after steps ten to twenty, from what the folder has."""
    found = {}
    for name in names:
        net, optimizer = build(name)
        saved = states(net, optimizer, options)
        dcp.load(saved, checkpoint_id=f"{folder}/{name}")
        set_model_state_dict(net, saved["model"])
        set_optimizer_state_dict(net, optimizer, saved["optimizer"], options=options)
        train(net, optimizer, 10, 20)
        found[name] = full(net)
    return found


@pytest.fixture(scope="module")
def alone():
    found = {}
    for name in NAMES:
        net, optimizer = build(name, sharded=False)
        train(net, optimizer, 0, 20)
        found[name] = full(net)
    return found


FLAT = {2: False, 3: True}  # how a run on so many ranks is saved: by name or flattened
WAYS = [{2: 1, 3: 2}, {2: 3, 3: 1}]  # ranks before -> after; presets take one or the other in turn


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """By ranks: what the whole runs gave, and what those gave that went on from their checkpoints on other ranks."""
    whole, later = {}, {}
    for ranks, flat in FLAT.items():
        folder, options = tmp_path_factory.mktemp("saved"), StateDictOptions(flatten_optimizer_state_dict=flat)
        whole[ranks] = on_ranks(ranks, trained, folder, options)
        for turn, way in enumerate(WAYS):
            for found in on_ranks(way[ranks], resumed, NAMES[turn :: len(WAYS)], folder, options):
                for name, params in found.items():
                    later.setdefault((name, ranks), []).append(params)
    return whole, later


@pytest.mark.parametrize("ranks", FLAT)
@pytest.mark.parametrize("name", NAMES)
def test_twenty_steps_on_several_ranks_are_those_of_one_process(alone, runs, name, ranks):
    whole, _ = runs
    assert all(difference(alone[name], found[name]) <= 1e-6 for found in whole[ranks])


@pytest.mark.parametrize("before", FLAT)
@pytest.mark.parametrize("name", NAMES)
def test_a_run_saved_on_some_ranks_goes_on_with_more_or_fewer(alone, runs, name, before):
    _, later = runs
    found = later[name, before]
    assert len(found) == WAYS[NAMES.index(name) % len(WAYS)][before]
    assert all(difference(alone[name], params) <= 1e-6 for params in found)


def test_the_reference_takes_the_same_steps_on_shards(alone):
    names = ["ladam", "relational_gradient", "came", "muon_adamw"]
    for found in on_ranks(2, by_the_reference, names):
        assert all(difference(alone[name], found[name]) <= 1e-6 for name in names)
