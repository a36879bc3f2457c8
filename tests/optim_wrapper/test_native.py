"""The native loop over small parameters takes the steps of the reference, whatever is exchanged between steps."""

import copy
import weakref

import pytest
import torch
from training import param

from gradchain import chain, presets
from gradchain import transforms as t
from gradchain.optim_wrapper.execution.kernels import KernelBucket
from gradchain.optim_wrapper.execution.native import ARGUMENT, PLAIN

pytestmark = pytest.mark.slow
SHAPES = [(12, 20), (20, 12), (12, 20), (9,), (20, 12), (9,), (12, 20), (9,)]
RECIPES = {
    "lion": presets.lion,
    "ladam": presets.ladam,
    "c_adamw": presets.c_adamw,
    "came": presets.came,
    "sums and states without dimensions": lambda: chain(
        t.Moments(), t.Normalize(), t.Cautious(), t.LearningRate(lr=0.1), t.SpeedLimit(speed_limit=1.0)
    ),
}


def loops(optimizer):
    """Of each bucket, whether its last step went through a native loop."""
    return [home.native is not None and home.native[1] is not None for home in optimizer._drive.plan.homes]


def replace_gradients(optimizer, params, i):
    for p in params:
        p.grad = p.grad.clone()


def write_gradients_in_place(optimizer, params, i):
    """The gradients of this step were written before; nothing is exchanged."""


def transpose_gradients(optimizer, params, i):
    if i == 4:
        for p in params[:2]:
            p.grad = p.grad.t().contiguous().t()


def change_the_learning_rate(optimizer, params, i):
    optimizer.param_groups[0]["lr"] = 0.1 / (i + 1)


def load(optimizer, params, i):
    if i == 4:
        optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))


def move_a_parameter(optimizer, params, i):
    if i == 4:
        params[0].data = params[0].detach().clone()


def exchange_a_state(optimizer, params, i):
    if i == 4:
        state = optimizer.state[params[1]]
        key = next(key for key in state if key != "step")
        state[key] = state[key] * 0.5


def take_parameters_for_gradients(optimizer, params, i):
    """Of a penalty on squares, say: for some steps a gradient has the memory of its parameter."""
    if i < 5:
        for p in params:
            p.grad = p.detach()


def miss_a_gradient(optimizer, params, i):
    if i == 4:
        params[2].grad = None


EDITS = [
    replace_gradients,
    write_gradients_in_place,
    transpose_gradients,
    change_the_learning_rate,
    load,
    move_a_parameter,
    exchange_a_state,
    take_parameters_for_gradients,
    miss_a_gradient,
]


def trained(recipe, driver, edit, dtype=torch.float64):
    params = [param(*shape, seed=i, dtype=dtype) for i, shape in enumerate(SHAPES)]
    for p in params:
        p.grad = torch.zeros_like(p)
    optimizer = recipe.optimizer(params, driver=driver)
    random, native = torch.Generator().manual_seed(3), []
    for i in range(8):
        for p in params:
            grad = torch.randn(p.shape, generator=random, dtype=dtype)
            p.grad = grad if p.grad is None else p.grad.copy_(grad)
        edit(optimizer, params, i)
        optimizer.step()
        if driver == "compiled":
            native.append(any(loops(optimizer)))  # not all: one parameter alone needs none
    return (params, [optimizer.state[p] for p in params]), native


@pytest.mark.parametrize("edit", EDITS, ids=[edit.__name__ for edit in EDITS])
@pytest.mark.parametrize("name", RECIPES)
def test_steps_are_those_of_the_reference(name, edit):
    (ours, native), (theirs, _) = (trained(RECIPES[name](), driver, edit) for driver in ("compiled", "reference"))
    assert native[3] and native[-1]  # once a step has been like the one before
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-10)


def test_threads_share_out_the_parameters():
    threads, found = torch.get_num_threads(), []
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            (ours, native), (theirs, _) = (
                trained(presets.ladam(), driver, replace_gradients) for driver in ("compiled", "reference")
            )
            assert native[-1]
            torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-10)
            found.append(ours)
    finally:
        torch.set_num_threads(threads)
    torch.testing.assert_close(*found, rtol=0, atol=0)


def test_a_graph_that_calls_a_library_runs_one_by_one():
    found = []
    for driver in ("compiled", "reference"):
        params = [param(12, 20, seed=i, dtype=torch.float64) for i in range(3)]
        optimizer = presets.muon().optimizer(params, driver=driver)
        for i in range(5):
            for p in params:
                p.grad = torch.sin(p.detach() + i)
            optimizer.step()
        found.append(params)
        if driver == "compiled":
            assert loops(optimizer) == [False]  # matrix products are calls of a library
    torch.testing.assert_close(*found, rtol=1e-6, atol=1e-8)


def test_old_gradients_are_not_kept():
    params = [param(12, 20, seed=i) for i in range(3)]
    optimizer = presets.ladam().optimizer(params, driver="compiled")
    for _ in range(4):
        for p in params:
            p.grad = torch.ones_like(p)
        optimizer.step()
    assert loops(optimizer) == [True]
    old = [weakref.ref(p.grad) for p in params]
    for p in params:
        p.grad = torch.ones_like(p)
    optimizer.step()
    assert [ref() for ref in old] == [None] * 3


def test_one_parameter_needs_no_loop():
    p = param(12, 20)
    optimizer = presets.ladam().optimizer([p], driver="compiled")
    for _ in range(4):
        p.grad = torch.ones_like(p)
        optimizer.step()
    assert [type(home) for home in optimizer._drive.plan.homes] == [KernelBucket] and loops(optimizer) == [False]


@pytest.mark.parametrize(
    ("line", "plain"),
    [
        ("buf0 = empty_strided_cpu((s75, s96), (s96, 1), torch.float32)", True),
        ("buf1 = reinterpret_tensor(buf0, (s75, ), (1, ), 0)", True),
        ("cpp_fused_add_0(arg0_1, buf0, s75)", True),
        ("buf14 = buf1; del buf1", True),
        ("extern_kernels.mm(arg0_1, buf0, out=buf1)", False),
        ("buf3 = torch.ops.aten.sort.default(arg0_1)", False),
        ("return (buf0, )", False),
        ("s3 = u0 + 1", False),
    ],
)
def test_lines_that_do_more_than_call_kernels_are_known(line, plain):
    assert bool(PLAIN.fullmatch(line)) is plain


def test_kernels_take_addresses_and_sizes():
    assert [bool(ARGUMENT.fullmatch(kind)) for kind in ("'float*'", "'const double*'", "'const int64_t'", "'const float'")] == [
        *(True, True, True),
        False,
    ]
