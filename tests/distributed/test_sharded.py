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

pytestmark = pytest.mark.slow
LR = {"ladam_wave_published": 1e-4}  # its denominator comes to nothing, and larger steps diverge


def build(name, sharded, layers=1):
    from torch.distributed.fsdp import fully_shard

    net = model(layers)
    if sharded:
        fully_shard(net)
    return net, PRESETS[name].optimizer(net.named_parameters(), lr=LR.get(name, 0.01))


def single(name):
    net, optimizer = build(name, sharded=False)
    train(net, optimizer, 0, 20)
    return full(net)


def twenty_steps(names):
    """Largest difference to the single process, by preset."""
    found = {}
    for name in names:
        net, optimizer = build(name, sharded=True)
        train(net, optimizer, 0, 20)
        found[name] = difference(single(name), full(net))
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
        found[name] = difference(single(name), full(net))
    return found


@pytest.fixture(scope="module")
def trained():
    return {ranks: on_ranks(ranks, twenty_steps, list(PRESETS)) for ranks in (2, 3)}


@pytest.fixture(scope="module", params=[False, True], ids=["by-name", "flat"])
def resumed(request, tmp_path_factory):
    folder, options = tmp_path_factory.mktemp("saved"), StateDictOptions(flatten_optimizer_state_dict=request.param)
    on_ranks(2, save_at_ten, list(PRESETS), folder, options)
    return {ranks: on_ranks(ranks, resume_at_ten, list(PRESETS), folder, options) for ranks in (1, 3)}


@pytest.mark.parametrize("ranks", [2, 3])
@pytest.mark.parametrize("name", PRESETS)
def test_twenty_steps_on_several_ranks_are_those_of_one_process(trained, name, ranks):
    assert all(found[name] <= 1e-6 for found in trained[ranks])


@pytest.mark.parametrize("ranks", [1, 3])
@pytest.mark.parametrize("name", PRESETS)
def test_a_run_saved_on_two_ranks_goes_on_elsewhere(resumed, name, ranks):
    assert all(found[name] <= 1e-6 for found in resumed[ranks])
