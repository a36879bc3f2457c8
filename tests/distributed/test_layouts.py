"""Chains on DTensors of every kind, what a step sends, and what belongs to data-parallel training besides."""

from dataclasses import dataclass
from typing import ClassVar
from unittest import mock

import pytest
import torch
import torch.distributed as dist
from distributed.ranks import batch, counted, difference, full, model, on_ranks, train
from torch import nn

from gradchain import ChainError, Transform, chain, presets
from gradchain import transforms as t
from gradchain.optim_wrapper.drivers import graphs
from gradchain.optim_wrapper.drivers.fused import Fused
from gradchain.optim_wrapper.execution.kernels import KernelBucket

pytestmark = pytest.mark.slow
SHAPES = [(7, 5), (4, 6), (1, 9), (9,), (5, 3, 2, 2), (2, 2), ()]
EVERYTHING = chain(
    t.ClipUpdateRMS(),
    t.Moments(),
    t.Laplacian(c2=0.2, min_spatial_size=1),
    t.Normalize(),
    t.Cautious(),
    t.WeightDecay(weight_decay=0.1),
    t.LearningRate(lr=0.05),
    t.GlobalSpeedLimit(speed_limit=0.3),
    t.SPD(),
)


IN_A_PLAN = {
    "fused": (presets.adamw(lr=0.01), "eager"),
    "compiled": (presets.lion(lr=0.01), "compiled"),
    "asks": (presets.c_adamw(lr=0.01), "compiled"),
}


def tensors(seed, dtype=torch.float64):
    random = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=random, dtype=torch.float64).to(dtype) for shape in SHAPES]


def stepped(recipe, wrap, steps=6):
    """Parameters after a few steps on gradients that do not depend on them, whole."""
    params = [nn.Parameter(wrap(value)) for value in tensors(0)]
    optimizer = recipe.optimizer(params)
    for i in range(1, steps + 1):
        for p, grad in zip(params, tensors(i), strict=True):
            p.grad = wrap(grad)
        optimizer.step()
    return [p.full_tensor().detach() if hasattr(p, "full_tensor") else p.detach() for p in params]


def on_a_mesh(mesh_shape, kinds, recipe):
    """Largest difference to plain tensors, with every tensor cut in these ways where it has the dimensions."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor

    mesh = init_device_mesh("cpu", mesh_shape)

    def wrap(value):
        placements = [Shard(k) if k is not None and k < value.dim() else Replicate() for k in kinds]
        return distribute_tensor(value, mesh, placements)

    return difference(stepped(recipe, wrap), stepped(recipe, lambda value: value))


ADAFACTOR = presets.adafactor(lr=0.05)
SMOOTH = chain(t.Moments(), t.Laplacian(min_spatial_size=1), t.Normalize(), t.LearningRate())
MESHES = {  # name -> (shape of the mesh, the dimension of the tensor that each of its dimensions cuts)
    "rows": ((2,), (0,)),
    "columns": ((2,), (1,)),
    "third": ((2,), (2,)),
    "replicated": ((2,), (None,)),
    "columns-on-3": ((3,), (1,)),
    "hybrid": ((2, 2), (None, 0)),
    "rows-and-columns": ((2, 2), (0, 1)),
    "columns-and-rows": ((2, 2), (1, 0)),
    "rows-twice": ((2, 2), (0, 0)),
}


def strided():
    """Tensor parallel and fully sharded at once, which cuts rows in strides."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

    def build():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 4)).double()

    def run(net):
        optimizer = EVERYTHING.optimizer(net.named_parameters())
        for i in range(5):
            inputs = torch.randn(3, 6, generator=torch.Generator().manual_seed(i), dtype=torch.float64)
            optimizer.zero_grad()
            net(inputs).square().mean().backward()
            optimizer.step()
        return full(net)

    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("dp", "tp"))
    net = build()
    parallelize_module(net, mesh["tp"], {"0": ColwiseParallel(), "2": RowwiseParallel()})
    fully_shard(net, mesh=mesh["dp"])
    placements = {str(p) for param in net.parameters() for p in param.placements}
    return difference(run(net), run(build())), placements


def on_meshes_of_several_kinds():
    """Parameters on a mesh of one dimension, on one of two, and on none, in one optimizer."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor

    line, square = init_device_mesh("cpu", (4,)), init_device_mesh("cpu", (2, 2))
    ways = [(line, [Shard(0)]), (square, [Replicate(), Shard(0)]), (None, None)]

    def wrap(value):
        mesh, placements = ways[SHAPES.index(tuple(value.shape)) % 3 if value.dim() else 2]
        return value if mesh is None else distribute_tensor(value, mesh, placements)

    return difference(stepped(EVERYTHING, wrap), stepped(EVERYTHING, lambda value: value))


@dataclass(frozen=True, kw_only=True, repr=False)
class Halved(Transform):
    """Work on whole tensors; counts how often it is done."""

    done: ClassVar[list[torch.Size]] = []

    def update(self, carry, state, ctx):
        def work(x):
            if type(x) is torch.Tensor:  # not to find out its shape
                Halved.done.append(x.shape)
            return x / 2

        return carry._replace(update=ctx.layout.on_whole(work, carry.update)), state


def shared_out():
    """The shapes that this rank has worked on."""
    from torch.distributed.fsdp import fully_shard

    net = model(2)
    fully_shard(net)
    optimizer = chain(Halved(), t.LearningRate()).optimizer(net.named_parameters())
    train(net, optimizer, 0, 1)
    Halved.done.clear()
    calls = counted(lambda: train(net, optimizer, 1, 2))
    return sorted(map(tuple, Halved.done)), [tuple(p.shape) for p in net.parameters()], len(calls["all_to_all_single"])


def in_turn(cases):
    """What each of the cases (key, function, arguments) gives."""
    return {key: function(*arguments) for key, function, arguments in cases}


def traffic(recipe, layers):
    from torch.distributed.fsdp import fully_shard

    net = model(layers)
    fully_shard(net)
    optimizer = recipe.optimizer(net.named_parameters())
    train(net, optimizer, 0, 1)
    loss = net(batch(1)[0]).square().mean()
    loss.backward()
    return counted(optimizer.step), sum(p.numel() for p in net.parameters() if p.dim() > 1)


def data_parallel(preset):
    from torch.nn.parallel import DistributedDataParallel

    net, alone = DistributedDataParallel(model()), model()
    train(net, preset.optimizer(net.parameters()), 0, 10)
    train(alone, preset.optimizer(alone.parameters()), 0, 10)
    return difference(full(net), full(alone))


def zero_redundancy():
    from torch.distributed.optim import ZeroRedundancyOptimizer

    from gradchain.optim_wrapper import LAdam

    def build(net):
        return LAdam(net.parameters(), lr=0.01)

    net, alone = model(), model()
    optimizer = ZeroRedundancyOptimizer(net.parameters(), optimizer_class=LAdam, lr=0.01)
    train(net, optimizer, 0, 5)
    optimizer.consolidate_state_dict(to=0)
    if dist.get_rank() == 0:
        optimizer.load_state_dict(optimizer.state_dict())
    train(net, optimizer, 5, 8)
    train(alone, build(alone), 0, 8)
    return difference(full(net), full(alone))


def buckets():
    """The gradients are views of DDP's buckets, which a step must not put anything else in the place of."""
    from torch.nn.parallel import DistributedDataParallel

    net, alone = DistributedDataParallel(model(), gradient_as_bucket_view=True), model()
    optimizer = EVERYTHING.optimizer(net.parameters(), finite_gate=True)
    train(net, optimizer, 0, 5)
    held = [p.grad for p in net.parameters()]
    optimizer.step()
    assert all(p.grad is grad for p, grad in zip(net.parameters(), held, strict=True))
    train(alone, other := EVERYTHING.optimizer(alone.parameters()), 0, 5)
    other.step()
    return difference(full(net), full(alone))


def flattened(recipe):
    """FullyShardedDataParallel: parameters end to end in one vector. How far it is from whole ones, or what is said."""
    from torch.distributed.fsdp import FullyShardedDataParallel

    net, alone = FullyShardedDataParallel(model(), device_id=torch.device("cpu")), model()
    optimizer, other = recipe.optimizer(net.parameters()), recipe.optimizer(alone.parameters())
    try:
        train(net, optimizer, 0, 5)
    except ChainError as error:
        return str(error), len(optimizer.state)
    train(alone, other, 0, 5)
    saved = FullyShardedDataParallel.optim_state_dict(net, optimizer)
    again = recipe.optimizer(net.parameters())
    report = again.load_state_dict(FullyShardedDataParallel.optim_state_dict_to_load(net, again, saved))
    states = [{key: value.clone() for key, value in next(iter(o.state.values())).items()} for o in (optimizer, again)]
    with FullyShardedDataParallel.summon_full_params(net):
        whole = torch.cat([p.detach().flatten() for p in alone.parameters()])
        far = difference([torch.cat([p.detach().flatten() for p in net.parameters()])[: len(whole)]], [whole])
    return far, report.clean and all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def from_rank_0(recipe):
    """A whole state, saved on one rank and handed out from there to a fresh optimizer: how far the two runs are apart."""
    from torch.distributed.checkpoint import state_dict as dcp
    from torch.distributed.fsdp import fully_shard

    runs = [model(), model()]
    for net in runs:
        fully_shard(net)
    first, second = (recipe.optimizer(net.named_parameters()) for net in runs)
    train(runs[0], first, 0, 3)
    whole = dcp.StateDictOptions(full_state_dict=True, cpu_offload=True)
    handed_out = dcp.StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)
    saved = dcp.get_model_state_dict(runs[0], options=whole), dcp.get_optimizer_state_dict(runs[0], first, options=whole)
    weights, state = saved if dist.get_rank() == 0 else ({}, {})
    dcp.set_model_state_dict(runs[1], weights, options=handed_out)
    dcp.set_optimizer_state_dict(runs[1], second, state, options=handed_out)
    for net, optimizer in zip(runs, (first, second), strict=True):
        train(net, optimizer, 3, 6)
    return difference(*map(full, runs))


def scaled():
    """Of four scaled losses, the third has a gradient that is not finite, on one rank: which of them made a step."""
    from torch.distributed.fsdp import fully_shard

    net = model(dtype=torch.float32)
    fully_shard(net)
    optimizer = presets.ladam(lr=0.01, c2=0.1).optimizer(net.named_parameters())
    scaler, moved = torch.amp.GradScaler("cpu", init_scale=4.0), []
    for i in range(4):
        tokens, targets = batch(i, torch.float32)
        optimizer.zero_grad()
        scaler.scale((net(tokens) - targets).square().mean()).backward()
        if i == 2 and dist.get_rank() == 0:
            net.blocks[0].out.weight.grad.to_local()[0, 0] = torch.inf
        before = full(net)
        scaler.step(optimizer)
        scaler.update()
        moved.append(difference(before, full(net)) > 0)
    return moved, scaler.get_scale(), {int(state["step"]) for state in optimizer.state.values()}


def one_bad_gradient():
    """Steps 0 to 5; in step 2 one element of one gradient is NaN, which one rank has."""
    from torch.distributed.fsdp import fully_shard

    def run(net, spoil):
        optimizer = presets.ladam(lr=0.01, c2=0.1).optimizer(net.named_parameters(), finite_gate=True)
        for i in range(6):
            tokens, targets = batch(i)
            optimizer.zero_grad()
            (net(tokens) - targets).square().mean().backward()
            if i == 2:
                spoil(net.blocks[0].out.weight.grad)
            optimizer.step()
        return full(net), {int(state["step"]) for state in optimizer.state.values()}

    def first_element(grad):
        grad[0, 0] = torch.nan

    def first_of_rank_0(grad):
        if dist.get_rank() == 0:
            first_element(grad.to_local())

    net = model()
    fully_shard(net)
    (values, steps), (alone, _) = run(net, first_of_rank_0), run(model(), first_element)
    return difference(values, alone), steps, all(value.isfinite().all() for value in values)


def by_driver(driver):
    from torch.distributed.fsdp import fully_shard

    net, alone = model(2), model(2)
    fully_shard(net)
    for one, how in ((net, driver), (alone, "reference")):
        train(one, EVERYTHING.optimizer(one.named_parameters(), driver=how), 0, 5)
    return difference(full(net), full(alone))


def in_a_plan(recipe, driver):
    """How far pieces are from whole tensors, the kinds of homes that they have, the shapes left to the loop, the plans made.

    The gradient of the first is whole on every rank, that of the second in one step. Graphs are traced, and run uncompiled.
    """
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor

    mesh = dist.device_mesh.init_device_mesh("cpu", (2,))
    params = [nn.Parameter(distribute_tensor(x, mesh, [Shard(0) if x.dim() else Replicate()])) for x in tensors(0)]
    optimizer, plans = recipe.optimizer(params, driver=driver), set()
    with mock.patch.object(graphs, "_through_inductor", lambda body, options: body.forward):
        for i in range(1, 7):
            for at, (p, grad) in enumerate(zip(params, tensors(i), strict=True)):
                whole = at == 0 or (at, i) == (1, 4)
                p.grad = distribute_tensor(grad, mesh, [Replicate()] if whole else p.placements)
            optimizer.step()
            plans.add(optimizer._drive.plan)
    plan = optimizer._drive.plan
    far = difference([p.full_tensor() for p in params], stepped(recipe, lambda x: x))
    return far, {type(home) for home in plan.homes}, [tuple(row.info.param.shape) for row in plan.odd], len(plans)


def reports():
    """What is reported of a sharded and of a plain model."""
    from torch.distributed.fsdp import fully_shard

    texts = []
    for sharded in (True, False):
        net = model()
        if sharded:
            fully_shard(net)
        optimizer = presets.cameamp(lr=0.01).optimizer(net.named_parameters())
        train(net, optimizer, 0, 3)
        texts.append(str(optimizer.report()))
    return texts


def first_step_of_nothing():
    from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict
    from torch.distributed.fsdp import fully_shard

    net, untouched = model(), model()
    fully_shard(net)
    optimizer = EVERYTHING.optimizer(net.named_parameters(), weight_decay=0.3)
    saved = get_optimizer_state_dict(net, optimizer)
    steps = {float(state["step"]) for state in saved["state"].values()}
    return difference(full(net), full(untouched)), steps, optimizer.param_groups[0]["lr"]


@pytest.fixture(scope="module")
def results():
    """What each case gives, on each rank that ran it; all cases of a number of ranks share the processes."""
    cases = {ranks: [] for ranks in (2, 3, 4)}
    for name, (shape, kinds) in MESHES.items():
        for recipe in (EVERYTHING, ADAFACTOR):
            key = (name, "everything" if recipe is EVERYTHING else "adafactor")
            cases[torch.Size(shape).numel()].append((key, on_a_mesh, (shape, kinds, recipe)))
    cases[4] += [("strided", strided, ()), ("several meshes", on_meshes_of_several_kinds, ())]
    cases[2] += [
        (("traffic", 1), traffic, (EVERYTHING, 1)),
        (("traffic", 4), traffic, (EVERYTHING, 4)),
        ("rows only", traffic, (SMOOTH, 1)),
        ("elementwise", traffic, (presets.adamw(), 1)),
        ("data parallel", data_parallel, (EVERYTHING,)),
        ("zero redundancy", zero_redundancy, ()),
        ("buckets", buckets, ()),
        ("flattened", flattened, (presets.adamw(lr=0.01),)),
        ("flattened smooth", flattened, (SMOOTH,)),
        ("from rank 0", from_rank_0, (presets.cameamp(lr=1e-4),)),
        ("scaled", scaled, ()),
        ("bad gradient", one_bad_gradient, ()),
        ("eager", by_driver, ("eager",)),
        ("compiled", by_driver, ("compiled",)),
        *((("planned", name), in_a_plan, case) for name, case in IN_A_PLAN.items()),
        ("reports", reports, ()),
        ("shared out", shared_out, ()),
        ("first step", first_step_of_nothing, ()),
    ]
    found = {}
    for ranks, listed in cases.items():
        for rank in on_ranks(ranks, in_turn, listed):
            for key, value in rank.items():
                found.setdefault(key, []).append(value)
    return found


@pytest.mark.parametrize("recipe", ["everything", "adafactor"])
@pytest.mark.parametrize("mesh", MESHES)
def test_every_way_of_cutting_gives_the_numbers_of_whole_tensors(results, mesh, recipe):
    assert max(results[mesh, recipe]) <= 1e-12


def test_tensor_parallel_and_fully_sharded_at_once(results):
    for far, placements in results["strided"]:
        assert far <= 1e-12
        assert any("_S" in placement for placement in placements)  # strided shards are among them


def test_parameters_of_different_meshes_in_one_optimizer(results):
    assert max(results["several meshes"]) <= 1e-12


def test_whole_tensors_are_shared_out_and_each_is_worked_on_once(results):
    (first, shapes, calls), (second, _, others) = results["shared out"]
    assert sorted([*first, *second]) == sorted(shapes) and calls == others == 2
    assert max(sum(torch.Size(shape).numel() for shape in one) for one in (first, second)) < 0.6 * sum(
        torch.Size(shape).numel() for shape in shapes
    )


def test_the_number_of_collectives_does_not_grow_with_the_number_of_parameters(results):
    (few, _), (many, _) = (results["traffic", layers][0] for layers in (1, 4))
    # boundary rows; update clipping, mask mean, global length, and what SPD asks: three norms and a product
    counts = {"all_gather_single": 1, "all_reduce": 7, "all_to_all_single": 0}
    assert {name: len(calls) for name, calls in few.items()} == counts
    assert {name: len(calls) for name, calls in many.items()} == counts


def test_the_laplacian_sends_rows_and_not_tensors(results):
    calls, elements = results["rows only"][0]
    rows = 8 + 24 // 3 + 8 * 3 + 7 + 8  # the second extent of each matrix: embedding, qkv, mix, out, head
    assert len(calls["all_reduce"]) == len(calls["all_to_all_single"]) == 0
    assert sum(calls["all_gather_single"]) <= 8 * 2 * (rows + 2 * 5 + 8 + 24 + 7 + 8 + 8 + 1)
    assert sum(calls["all_gather_single"]) < 8 * elements / 2


def test_an_elementwise_chain_asks_nothing(results):
    calls, _ = results["elementwise"][0]
    assert not any(calls.values())


def test_data_parallel_training_needs_nothing(results):
    assert max(results["data parallel"]) <= 1e-12


def test_gradients_that_are_views_of_buckets_stay_where_they_are(results):
    assert max(results["buckets"]) <= 1e-12


def test_flattened_parameters_are_taken_elementwise_and_refused_to_links_that_need_shapes(results):
    assert all(far <= 1e-12 and clean for far, clean in results["flattened"])
    for complaint, states in results["flattened smooth"]:
        assert states == 0
        assert complaint.startswith("'laplacian' needs each parameter in its shape; found a piece of 272 elements")


def test_a_whole_state_is_handed_out_from_one_rank(results):
    assert results["from rank 0"] == [0.0, 0.0]


def test_a_scaler_skips_the_step_on_every_rank(results):
    assert results["scaled"] == [([True, True, False, True], 2.0, {3})] * 2


def test_zero_redundancy_optimizer_works(results):
    assert max(results["zero redundancy"]) <= 1e-12


def test_the_initialising_step_of_a_checkpoint_leaves_no_trace(results):
    assert results["first step"] == [(0.0, {0.0}, 0.05)] * 2


def test_a_gradient_that_is_not_finite_on_one_rank_makes_every_rank_skip_the_step(results):
    for far, steps, finite in results["bad gradient"]:
        assert far <= 1e-12 and steps == {5} and finite


@pytest.mark.parametrize("driver", ["eager", "compiled"])
def test_every_driver_takes_shards(results, driver):
    assert max(results[driver]) <= 1e-12


@pytest.mark.parametrize("name", IN_A_PLAN)
def test_pieces_run_as_other_tensors_do_where_the_chain_asks_nothing_of_other_ranks(results, name):
    everywhere = [shape for shape in SHAPES if shape]
    for (far, homes, odd, plans), empty in zip(
        results["planned", name], ([(7, 5), (4, 6)], [(7, 5), (4, 6), (1, 9)]), strict=True
    ):
        assert far <= 1e-12 and plans == (1 if name == "asks" else 2)
        assert homes == {Fused if name == "fused" else KernelBucket}
        assert odd == (everywhere if name == "asks" else empty)


def test_a_report_of_shards_is_that_of_the_whole(results):
    for sharded, plain in results["reports"]:
        assert sharded == plain
