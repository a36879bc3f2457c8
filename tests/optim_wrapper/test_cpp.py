"""C++ functions of chains make what torch makes of the same operations, in every form in which values can stand."""

import math
from array import array

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

from gradchain.optim_wrapper.execution.cpp_code import SUMS, KernelWriter
from gradchain.optim_wrapper.execution.cpp_library import compiler, kernels, library
from gradchain.optim_wrapper.execution.loopable import is_flat
from gradchain.optim_wrapper.execution.stages import Cut
from gradchain.optim_wrapper.execution.trace import Trace

pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("as_shipped"),
    pytest.mark.skipif(compiler() is None, reason="needs g++ or clang++"),
]
aten = torch.ops.aten
NAN, INF = math.nan, math.inf
NUMBERS = [0.0, -0.0, 1.0, -1.0, 0.5, -0.5, 2.0, 3.7, -3.7, 1e-20, -1e-20, 1e20, 12.0, -0.1, 0.9, NAN, INF, -INF]


def traced(function, given):
    module = make_fx(function, tracing_mode="fake")(*given)
    module.graph.eliminate_dead_code()
    *nodes, output = module.graph.nodes
    for node in nodes:
        if node.op == "get_attr":
            node.meta["val"] = getattr(module, node.target)
    return Trace(module, nodes, list(output.args[0]), ())


def stages(function, given, targets=None):
    """The stages of a function that returns a tuple; 0-d float64 tensors among what it is given are numbers of the host."""
    trace = traced(function, given)
    host = [x for x in given if x.dim() == 0 and x.dtype == torch.float64]
    tensors = [x for x in given if not (x.dim() == 0 and x.dtype == torch.float64)]
    columns, numbers, places = [], iter(range(len(host))), iter(range(len(tensors)))
    for x in given:
        columns.append(-1 - next(numbers) if x.dim() == 0 and x.dtype == torch.float64 else next(places))
    return Cut(trace, columns, targets or [-1] * len(trace.outputs)), tensors, host


def made(function, given, targets=None, threads=1):
    """What the C++ functions make of copies: the columns after all stages."""
    cut, tensors, host = stages(function, given, targets)
    columns = [x.clone(memory_format=torch.contiguous_format) for x in tensors]
    columns += [torch.full(shape, 7, dtype=dtype) for shape, dtype in cut.forms[len(columns) :]]
    numbers = array("d", [float(x) for x in host])
    for level, stage in enumerate(cut.stages):
        if level % 2:
            for column, value in zip(stage.outputs, stage.trace.module(*[columns[c] for c in stage.columns]), strict=True):
                columns[column].copy_(value)
            continue
        kernel = KernelWriter(stage, cut.forms).written()
        scratch = torch.empty(kernel.slots * kernel.width + 8 * threads * (SUMS + kernel.kept), dtype=torch.uint8)
        facts = [threads > 1, 0, kernel.width, kernel.slots]
        row = array("Q", [*kernels([kernel.text]), *facts, *(x.data_ptr() for x in columns)])
        place = (1, len(row), row.buffer_info()[0], 5, 0, numbers.buffer_info()[0], scratch.data_ptr(), 0, threads)
        library().run(*place)
    return columns, cut


def results(function, given, threads=1):
    """The results of a function, by C++."""
    columns, cut = made(function, given, threads=threads)
    taken = sum(not (x.dim() == 0 and x.dtype == torch.float64) for x in given)
    return columns[taken : taken + len(cut.stages[-1].outputs)]


MODERATE = [0.0, -0.0, 1.0, -1.0, 0.5, -0.5, 2.0, 3.7, -3.7, 0.1, NAN, INF, -INF]
UNARY = {
    **{name: getattr(torch, name) for name in ("abs", "neg", "sqrt", "rsqrt", "exp", "expm1", "log", "log1p", "tanh", "sin")},
    **{name: getattr(torch, name) for name in ("cos", "atan", "erf", "floor", "ceil", "trunc", "sign", "square", "reciprocal")},
    **{name: getattr(torch, name) for name in ("sigmoid", "isnan", "isinf", "isfinite", "nan_to_num", "log2", "sinh", "cosh")},
    "nan_to_num_to": lambda x: torch.nan_to_num(x, nan=1.5, posinf=2.5, neginf=-3.5),
    "clamp": lambda x: x.clamp(-1.0, 2.0),
    "clamp_from": lambda x: x.clamp(min=0.25),
    "clamp_to": lambda x: x.clamp(max=0.25),
    **{f"pow {e}": lambda x, e=e: x**e for e in (2, 3, 0.5, -1, 1.7, 0)},
    "number_pow": lambda x: 1.3**x,
    "rsub": lambda x: 1 - x,
    "rsub_alpha": lambda x: torch.rsub(x, 3.0, alpha=2.0),
    "eq": lambda x: x == 1,
    "compare": lambda x: (x > 0.1) & ~(x >= 2) | (x != x),
    "where": lambda x: torch.where(x > 0, x, 0.0),
    "to_bool_and_back": lambda x: (x > 0).to(x.dtype) * x,
    "to_double": lambda x: (x.to(torch.float64) * 3).to(x.dtype),
    "ones": lambda x: torch.ones_like(x) + x * torch.zeros_like(x),
}
BINARY = {
    **{name: getattr(torch, name) for name in ("add", "sub", "mul", "div", "maximum", "minimum", "hypot", "atan2", "copysign")},
    **{name: getattr(torch, name) for name in ("pow", "remainder", "fmod", "gt", "le", "lt", "ge", "eq", "ne")},
    "alpha": lambda x, y: torch.add(x, y, alpha=0.3),
    "sub_alpha": lambda x, y: torch.sub(x, y, alpha=0.3),
    "addcmul": lambda x, y: torch.addcmul(x, y, y, value=0.3),
    "addcdiv": lambda x, y: torch.addcdiv(x, y, x, value=0.3),
    "lerp": lambda x, y: torch.lerp(x, y, 0.3),
    "clamp": lambda x, y: torch.clamp(x, y, y + 1),
    "where": lambda x, y: torch.where(x > y, x, y),
    "logic": lambda x, y: ((x > 0) ^ (y > 0)) | torch.logical_not(torch.logical_and(x > 1, torch.logical_or(y > 1, x > y))),
}


JOINED = ("alpha", "sub_alpha", "addcmul", "addcdiv", "lerp", "remainder", "fmod", "pow")  # of several roundings


def close(found, right, joined=False):
    """Equal, or to a few units in the last place where both sides call a library of functions."""
    assert found.dtype == right.dtype and found.shape == right.shape
    if not right.is_floating_point():
        return torch.equal(found, right)
    unit = torch.finfo(right.dtype).eps
    exact = {"rtol": 4 * unit, "atol": torch.finfo(right.dtype).tiny}
    return torch.allclose(found, right, equal_nan=True, **({"rtol": 64 * unit, "atol": 64 * unit} if joined else exact))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", UNARY)
def test_an_operation_gives_torch_s_result(name, dtype):
    x = torch.tensor(NUMBERS, dtype=dtype)
    assert close(results(lambda x: (UNARY[name](x),), [x])[0], UNARY[name](x), joined="pow" in name)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", BINARY)
def test_an_operation_of_two_gives_torch_s_result(name, dtype):
    numbers = torch.tensor(MODERATE if name in JOINED else NUMBERS, dtype=dtype)
    x, y = (part.flatten() for part in torch.meshgrid(numbers, numbers, indexing="ij"))
    assert close(results(lambda x, y: (BINARY[name](x, y),), [x, y])[0], BINARY[name](x, y), joined=name in JOINED)


@pytest.mark.parametrize("name", ["add", "mul", "div", "gt", "maximum", "pow"])
def test_a_number_of_the_host_is_taken_in_the_dtype_of_the_tensor(name):
    x, number = torch.tensor(NUMBERS), torch.tensor(0.1, dtype=torch.float64)
    assert close(results(lambda x, a: (BINARY[name](x, a),), [x, number])[0], BINARY[name](x, number), joined=name == "pow")


FORMS = {
    "row sums": lambda x: (x / (1 + x.abs().sum(1, keepdim=True)),),
    "column means": lambda x: (x - x.mean(0, keepdim=True),),
    "sums without the dimension": lambda x: (x * x.sum(1).unsqueeze(1) + x.mean(0),),
    "all in one": lambda x: (x / x.norm() + x.mean() - x.abs().amax() * x.amin(),),
    "largest norm": lambda x: (x / torch.linalg.vector_norm(x, math.inf), x / torch.linalg.vector_norm(x, 1)),
    "transposed": lambda x: (x.t() * 2 + 1,),
    "slices": lambda x: (x[1:, ::2] - x[:-1, ::2], x[2] * 3),
    "neighbors": lambda x: (torch.cat((x[-1:], x, x[:1]), 0)[2:] + torch.cat((x[:, -1:], x, x[:, :1]), 1)[:, :-2],),
    "neighbors of what is made": lambda x: (torch.cat((x.exp()[-1:], x.exp()), 0)[1:] - x,),
    "stacked": lambda x: (torch.stack((x, x * 2), 1).sum(1), torch.stack((x[0], x[1])).mean(0)),
    "expanded": lambda x: (x[:, :1].expand(5, 7) + x, x.sum().expand(3) * 2),
    "reshaped": lambda x: (x.reshape(7, 5) * 2, (x + 1).reshape(-1).cumsum(0)),
    "used by a later loop": lambda x: ((x * 3).tanh() * (x * 3).tanh().mean(),),
    "made again": lambda x: (x * 3 / (x * 3).mean() + (x + 1),),
    "truth of all": lambda x: (torch.where((x > -9).all(), x, -x), torch.where((x > 9).any(), x, -x)),
    "constant": lambda x: (x * torch.tensor([1.0, 2, 3, 4, 5, 6, 7]),),
    "a product of matrices between": lambda x: ((x * 2) @ (x.t() + 1) - 1, x.sum() * 2),
    "a decomposition between": lambda x: (torch.linalg.qr(x * 2).Q * 3 + x[:, :5], x * 2),
    "two products": lambda x: ((x @ x.t()).tanh() @ x + x,),
}


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("name", FORMS)
def test_values_of_every_form_are_read_where_they_are(name, threads):
    x = torch.randn(5, 7, generator=torch.Generator().manual_seed(0))
    for found, right in zip(results(FORMS[name], [x], threads), FORMS[name](x), strict=False):
        torch.testing.assert_close(found, right, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("dims", [(0,), (1,), (2,), (0, 1), (0, 2), (1, 2), (0, 1, 2)])
@pytest.mark.parametrize("kind", ["sum", "mean", "norm"])
def test_a_reduction_runs_along_any_dimensions(dims, kind):
    x = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(0))
    act = {"sum": torch.sum, "mean": torch.mean, "norm": lambda x, dims, keepdim: torch.linalg.vector_norm(x, 2, dims, keepdim)}
    for keep in (True, False):
        for threads in (1, 2):
            (found,) = results(lambda x: (act[kind](x, dims, keep) * 1,), [x], threads)  # noqa: B023
            torch.testing.assert_close(found, act[kind](x, dims, keep), rtol=2e-6, atol=2e-6)


def test_a_sum_of_many_numbers_is_added_up_in_double_precision():
    x = torch.full((1 << 20,), 0.1)
    (found,) = results(lambda x: (x.sum(),), [x])
    assert found.item() == pytest.approx(0.1 * (1 << 20), rel=1e-7)


def test_nan_in_an_extreme_is_handed_on():
    for x in (torch.tensor([1.0, NAN, 3.0]), torch.tensor([NAN, 1.0]), torch.tensor([1.0, NAN])):
        for threads in (1, 2):
            assert all(found.isnan() for found in results(lambda x: (x.amax(), x.amin()), [x], threads))


WRITES = {
    "in place": (lambda p, s: (p - s, s * 0.9 + p), [0, 1]),
    "swapped": (lambda p, s: (s, p), [0, 1]),
    "shifted": (lambda p, s: (p + s, p), [0, 1]),
    "the old value is needed after the new one": (lambda p, s: (p - (s * 2 - s.mean()) + s, s * 2 - s.mean()), [0, 1]),
    "one value in two places": (lambda p, s: (p * 2 + s, p * 2 + s), [0, 1]),
    "a view of itself": (lambda p, s: (p + 1, s.t()), [0, 1]),
    "a number": (lambda p, s: (p + 1, torch.full_like(s, 0.5)), [0, 1]),
    "a row of another": (lambda p, s: (p * 2, p[:1].expand_as(s)), [0, 1]),
    "after a library": (lambda p, s: (p - s @ p, s * 0.5 + p), [0, 1]),
    "old values after a library": (lambda p, s: ((p @ s).tanh() * p, s + p), [0, 1]),
}


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("name", WRITES)
def test_results_take_the_place_of_inputs(name, threads):
    function, targets = WRITES[name]
    g = torch.Generator().manual_seed(1)
    given = [torch.randn(6, 6, generator=g), torch.randn(6, 6, generator=g)]
    columns, _ = made(function, given, targets, threads)
    for column, right in zip(columns, function(*given), strict=False):
        torch.testing.assert_close(column, right.expand(6, 6), rtol=2e-6, atol=2e-6)


def test_nothing_is_written_before_a_call_that_may_fail():
    cut, _, _ = stages(lambda p, s: (p - torch.linalg.qr(s * 2).Q, s * 0.9), [torch.ones(4, 4), torch.ones(4, 4)], [0, 1])
    assert [sorted(set(stage.outputs) & {0, 1}) for stage in cut.stages] == [[], [], [0, 1]]


@pytest.mark.parametrize(
    ("function", "flat"),
    [
        (lambda x: (x * 2 / x.sum(),), True),
        (lambda x: (x.clone().view(6, 6) + torch.ones_like(x),), True),
        (lambda x: (x.t() + x,), False),
        (lambda x: (x.sum(0) + x,), False),
        (lambda x: (torch.cat((x[3:], x[:3])) + x,), False),
    ],
)
def test_one_loop_serves_all_shapes_where_elements_stay_in_place(function, flat):
    assert is_flat(traced(function, [torch.ones(6, 6)])) is flat
