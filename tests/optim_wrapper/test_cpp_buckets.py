"""C++ functions take the steps of the reference with small parameters, whatever is exchanged between steps."""

import copy
import weakref

import pytest
import torch
from training import param, steps

from gradchain import chain, presets
from gradchain import transforms as t
from gradchain.optim_wrapper.drivers import parts, planned
from gradchain.optim_wrapper.execution import cpp_call, cpp_functions, cpp_library
from gradchain.optim_wrapper.execution.bucket import FlatBucket
from gradchain.optim_wrapper.execution.cpp_bucket import LargeBucket, NativeBucket

pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("as_shipped"),
    pytest.mark.skipif(cpp_library.compiler() is None, reason="needs g++ or clang++"),
]
SHAPES = [(12, 20), (20, 12), (12, 20), (9,), (20, 12), (9,), (12, 20), (9,)]
RECIPES = {
    "lion": presets.lion,
    "ladam": presets.ladam,
    "c_adamw": presets.c_adamw,
    "came": presets.came,
    "muon": presets.muon,
    "cameamp": presets.cameamp,
    "prodigy": presets.prodigy,
    "sums and states without dimensions": lambda: chain(
        t.Moments(), t.Normalize(), t.Cautious(), t.LearningRate(lr=0.1), t.SpeedLimit(speed_limit=1.0)
    ),
}


def native(optimizer):
    """Of each bucket, whether its last step went through C++ functions."""
    return [isinstance(home, NativeBucket) and home.direct is not None for home in optimizer._drive.plan.homes]


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


def negate_gradients_by_a_view(optimizer, params, i):
    """The imaginary part of a conjugate has the memory of the number, and a mark that it is to be negated."""
    if i > 3:
        for p in params:
            p.grad = torch.complex(p.grad, -p.grad).conj().imag
            assert p.grad.is_neg()


class Marked(torch.Tensor):
    """Of a distributed library, say."""


def make_gradients_of_a_subclass(optimizer, params, i):
    if i > 3:
        for p in params:
            p.grad = p.grad.as_subclass(Marked)


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
    negate_gradients_by_a_view,
    make_gradients_of_a_subclass,
    miss_a_gradient,
]


def trained(recipe, driver, edit, dtype=torch.float64):
    params = [param(*shape, seed=i, dtype=dtype) for i, shape in enumerate(SHAPES)]
    for p in params:
        p.grad = torch.zeros_like(p)
    optimizer = recipe.optimizer(params, driver=driver)
    random, went = torch.Generator().manual_seed(3), []
    for i in range(8):
        for p in params:
            grad = torch.randn(p.shape, generator=random, dtype=dtype)
            p.grad = grad if p.grad is None else p.grad.copy_(grad)
        edit(optimizer, params, i)
        optimizer.step()
        if driver != "reference":
            went.append(all(native(optimizer)))
    return (params, [optimizer.state[p] for p in params]), went


@pytest.mark.parametrize("edit", EDITS, ids=[edit.__name__ for edit in EDITS])
@pytest.mark.parametrize("name", RECIPES)
def test_steps_are_those_of_the_reference(name, edit):
    (ours, went), (theirs, _) = (trained(RECIPES[name](), driver, edit) for driver in ("auto", "reference"))
    assert all(went) or edit is make_gradients_of_a_subclass
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_parameters_of_every_dtype_are_stepped(dtype):
    (ours, went), (theirs, _) = (trained(presets.ladam(), driver, replace_gradients, dtype) for driver in ("auto", "reference"))
    assert all(went)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("large", [0, 1 << 16])
@pytest.mark.parametrize("name", RECIPES)
def test_threads_share_out_the_parameters_or_their_elements(monkeypatch, name, large):
    monkeypatch.setattr(cpp_call, "PARALLEL", 0)
    monkeypatch.setattr(cpp_call, "LARGE", large)
    threads, found = torch.get_num_threads(), []
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            (ours, went), (theirs, _) = (
                trained(RECIPES[name](), driver, replace_gradients) for driver in ("auto", "reference")
            )
            assert all(went)
            torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-10)
            found.append(ours)
    finally:
        torch.set_num_threads(threads)
    torch.testing.assert_close(*found, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["muon", "cameamp", "prodigy"])
def test_parameters_go_through_the_stages_in_chunks_that_fit_into_memory(monkeypatch, name):
    monkeypatch.setattr(cpp_call, "CROSSING", 1 << 13)
    (ours, went), (theirs, _) = (trained(RECIPES[name](), driver, replace_gradients) for driver in ("auto", "reference"))
    assert all(went)
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-10)


LARGE = [(300, 200), (40000,), (300, 200), (12, 20)]


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("name", ["lion", "c_adamw", "came", "cameamp", "muon"])
def test_large_parameters_are_stepped_where_they_are(name, dtype):
    found = []
    for driver in ("auto", "reference"):
        params = [param(*shape, seed=i).detach().to(dtype).requires_grad_() for i, shape in enumerate(LARGE)]
        optimizer = RECIPES[name]().optimizer(params, driver=driver)
        for i in range(5):
            for k, p in enumerate(params):
                p.grad = torch.sin(p.detach() + i)
                if (i, k) in ((2, 0), (3, 2)):  # missing; transposed in memory
                    p.grad = None if k == 0 else p.grad.t().contiguous().t()
            optimizer.step()
        found.append((params, [optimizer.state[p] for p in params]))
        if driver == "auto":
            kinds = [type(home) for home in optimizer._drive.plan.homes]
            assert set(kinds) == {NativeBucket, LargeBucket} and all(
                home.direct is not None for home in optimizer._drive.plan.homes
            )
    close = {"rtol": 1e-9, "atol": 1e-10} if dtype == torch.float64 else {"rtol": 1e-2, "atol": 1e-2}
    torch.testing.assert_close(*found, **close)


def test_neighbors_of_large_parameters_are_left_to_compiled_tiles():
    params = [param(300, 200)]
    params[0].grad = torch.ones_like(params[0])
    for driver, kind in (("auto", LargeBucket), ("compiled", None)):
        (row,) = presets.ladam().optimizer(params, driver=driver).rows()
        assert parts._is_for_native(row, driver == "compiled", {}) == (kind is LargeBucket)


def test_old_gradients_are_not_kept():
    params = [param(12, 20, seed=i) for i in range(3)]
    optimizer = presets.ladam().optimizer(params)
    steps(optimizer, 4)
    assert native(optimizer) == [True]
    old = [weakref.ref(p.grad) for p in params]
    for p in params:
        p.grad = torch.ones_like(p)
    optimizer.step()
    assert [ref() for ref in old] == [None] * 3


def test_parameters_know_that_they_were_written():
    p = param(12, 20)
    optimizer = presets.ladam().optimizer([p])
    for _ in range(3):
        p.grad = torch.ones_like(p)
        before = p._version
        optimizer.step()
        assert p._version > before


def test_no_memory_is_taken_for_copies_where_parameters_are_read_in_place():
    params = [param(12, 20, seed=i) for i in range(3)]
    optimizer = presets.ladam().optimizer(params)
    steps(optimizer, 3)
    (home,) = optimizer._drive.plan.homes
    assert {"param", "grad", "params", "grads"}.isdisjoint(vars(home))


def test_without_a_compiler_the_bucket_runs_in_python(monkeypatch):
    monkeypatch.setattr(planned, "compiler", lambda: None)
    params = [param(12, 20, seed=i) for i in range(3)]
    optimizer = presets.ladam().optimizer(params)
    steps(optimizer, 3)
    assert [type(home) for home in optimizer._drive.plan.homes] == [FlatBucket]


def test_the_eager_driver_builds_nothing():
    params = [param(12, 20, seed=i) for i in range(3)]
    optimizer = presets.ladam().optimizer(params, driver="eager")
    steps(optimizer, 3)
    assert [type(home) for home in optimizer._drive.plan.homes] == [FlatBucket]


@pytest.mark.parametrize("what", ["compiler", "number"])
def test_where_functions_cannot_be_built_the_bucket_runs_in_python(monkeypatch, what):
    def fails(sources):
        raise OSError("no space left")

    cpp_functions.BUILT.clear()
    monkeypatch.setattr(*((cpp_functions, "kernels", fails) if what == "compiler" else (cpp_functions, "MOST", 0)))
    found = []
    for driver in ("auto", "reference"):
        params = [param(11, 21, seed=i, dtype=torch.float64) for i in range(3)]
        optimizer = presets.ladam().optimizer(params, driver=driver)
        steps(optimizer, 3)
        found.append(params)
        if driver == "auto":
            assert native(optimizer) == [False]
    torch.testing.assert_close(*found, rtol=1e-9, atol=1e-10)


def test_a_link_that_raises_changes_nothing():
    def fail(step):
        raise ValueError("no rate today")

    params = [param(12, 20, seed=i) for i in range(3)]
    optimizer = chain(t.Moments(), t.Normalize(), t.LearningRate(lr=lambda step: 0.1 if step < 3 else fail(step))).optimizer(
        params
    )
    steps(optimizer, 2)
    before = [p.detach().clone() for p in params]
    with pytest.raises(ValueError, match="no rate"):
        steps(optimizer, 1, start=2)
    assert all(map(torch.equal, params, before))


class TestCache:
    """Built functions are found again by the next process."""

    def test_a_function_is_built_once(self, monkeypatch, tmp_path):
        monkeypatch.setattr(cpp_library, "folder", lambda: tmp_path)
        body = f"    *reinterpret_cast<double*>(a[0]) = {torch.rand(()).item()!r};\n"
        builds = []
        real = cpp_library._build
        monkeypatch.setattr(cpp_library, "_build", lambda *args: builds.append(args) or real(*args))
        cpp_library.kernels([body])
        del cpp_library.KERNELS[body]
        assert cpp_library.kernels([body, body])[0] and len(builds) == 1
        assert [path.suffix for path in tmp_path.iterdir()] == [".so"]

    def test_functions_of_another_processor_are_not_taken(self, monkeypatch, tmp_path):
        monkeypatch.setattr(cpp_library, "folder", lambda: tmp_path)
        body = "    *reinterpret_cast<double*>(a[0]) = 3.0;\n"
        for cpu in ("flags: one", "flags: two"):
            monkeypatch.setattr(cpp_library, "_cpu", lambda cpu=cpu: cpu)
            cpp_library.KERNELS.pop(body, None)
            cpp_library.kernels([body])
        assert len(list(tmp_path.iterdir())) == 2

    def test_the_folder_is_the_user_s_own(self, monkeypatch, tmp_path):
        monkeypatch.setenv("GRADCHAIN_CACHE_DIR", str(tmp_path / "here"))
        found = cpp_library.folder.__wrapped__()
        assert found == tmp_path / "here" and found.stat().st_mode & 0o777 == 0o700

    def test_without_a_folder_to_write_to_there_is_one_for_the_process(self, monkeypatch, tmp_path):
        blocked = tmp_path / "file"
        blocked.write_text("")
        monkeypatch.setenv("GRADCHAIN_CACHE_DIR", str(blocked))
        found = cpp_library.folder.__wrapped__()
        assert found.is_dir() and found != blocked
