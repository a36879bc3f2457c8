"""Small parameters of several shapes in one buffer: generated code does what the links do, whatever they keep and return."""

import math
import weakref
from dataclasses import dataclass
from typing import NamedTuple

import pytest
import torch
from torch import Tensor
from training import param, python_calls

from gradchain import Carry, Context, SharedTransform, Transform, chain, presets
from gradchain import transforms as t
from gradchain.optim_wrapper.execution import functions
from gradchain.optim_wrapper.execution.bucket import FlatBucket
from gradchain.optim_wrapper.execution.scalars import FORMULAS

SHAPES = [(4, 6), (5,), (4, 6), (3, 2, 2), (4, 6), (5,), (), (1,), (1, 7), (4, 6), (4, 6), (2, 2), (2, 2)]


class Two(NamedTuple):
    a: Tensor
    b: Tensor


class One(NamedTuple):
    a: Tensor


@dataclass(frozen=True, kw_only=True)
class Pair(Transform[Two]):
    """Keeps two tensors like the parameter."""

    State = Two

    def init(self, param):
        return Two(torch.zeros_like(param), torch.ones_like(param))


class Swaps(Pair):
    """Each state becomes the other one."""

    def update(self, carry, state, ctx):
        return carry._replace(update=state.a + 0.1 * carry.update), Two(state.b, state.a + carry.grad)


class Shifts(Pair):
    """A history: each state is the one that another was."""

    def update(self, carry, state, ctx):
        return carry._replace(update=carry.update + 0.1 * state.b), Two(carry.grad, state.a)


class KeepsParam(Pair):
    """The parameter before the step is a state, and so is what it was before that."""

    def update(self, carry, state, ctx):
        return carry._replace(update=carry.update - 0.1 * state.b), Two(carry.param, state.a)


class Fills(Pair):
    """Numbers in place of tensors: zeros, ones, and a state that is filled with the count of steps."""

    def update(self, carry, state, ctx):
        zero = torch.zeros_like(carry.update)
        kept = torch.where(carry.grad > 0, carry.update, zero)
        return carry._replace(update=kept + state.b), Two(torch.full_like(state.a, 0.25), torch.ones_like(state.b) * ctx.step)


class Transposes(Transform[One]):
    """A state that becomes a view of itself."""

    State = One

    def init(self, param):
        return One(torch.arange(param.numel(), dtype=param.dtype).reshape(param.shape))

    def update(self, carry, state, ctx):
        return carry, One(state.a.T)


class SameTwice(Pair):
    """Both states become the same tensor, which is the update as well."""

    def update(self, carry, state, ctx):
        new = 0.5 * state.a + carry.grad
        return carry._replace(update=new), Two(new, new)


class Sums(Transform[One]):
    """One number per parameter in double precision, made of means, norms and sizes."""

    State = One

    def init(self, param):
        return One(torch.zeros((), dtype=torch.float64))

    def update(self, carry, state, ctx):
        layout, x = ctx.layout, carry.update
        root = layout.norm(x) / math.sqrt(x.numel())
        ratio = (root + layout.mean(x.abs())) / x.numel()
        new = 0.9 * state.a + root.to(torch.float64)
        x = torch.where(new > 1, x / (ratio + 1e-3), x * new.to(x.dtype))
        return carry._replace(update=x.clamp(-2, 2)), One(new)


class Rows(Transform[One]):
    """Statistics of rows where there are any; a state of another shape than the parameter."""

    State = One

    def init(self, param):
        return One(torch.zeros_like(param[..., :1]))

    def update(self, carry, state, ctx):
        x = carry.update
        new = 0.5 * state.a + ctx.layout.mean(x.square(), x.dim() - 1)
        return carry._replace(update=x / (new.sqrt() + 0.1)), One(new)


class Looks(Pair):
    """Views of a state go on to be used after the state has changed; neighbors, transposes, sorted values, constants."""

    def update(self, carry, state, ctx):
        x, old = carry.update, state.a.flip(0)
        ordered, places = state.a.flatten().sort()
        weights = torch.arange(x.shape[0], dtype=x.dtype).reshape(-1, *[1] * (x.dim() - 1))
        new = 0.5 * state.a + x
        x = x + 0.1 * old + 0.01 * weights * new.flip(-1)
        x = x + 0.1 * ordered.gather(0, places.argsort()).reshape(x.shape) + ctx.layout.mean(old * new)
        return carry._replace(update=x), Two(new, state.b.flip(0) * 0.5)


class Counts(Transform):
    """Numbers of the host in every operation that the bucket works out in Python."""

    def update(self, carry, state, ctx):
        step = ctx.step
        decay = (1 - 0.9**step).sqrt().clamp(min=0.1) * (step + 1).reciprocal()
        early = torch.where(step < 3, 2 * decay, decay.maximum(step.floor() / 7))
        return carry._replace(update=(early - carry.update) * early + early / (2 + carry.update.abs())), state


class Meets(SharedTransform):
    """Gives results of all kinds: common, one per parameter, like the parameter, of a shape of their own."""

    def measure(self, carry: Carry, state, ctx: Context):
        return carry.update * 2

    def share(self, measured, infos):
        total = torch.stack([x.sum() for x in measured]).sum()
        return [(total, x.mean(), x.sign(), x.flatten()[:1].repeat(3), "same") for x in measured]

    def update(self, carry, state, ctx):
        total, mean, sign, three, word = ctx.shared
        assert word == "same"
        return carry._replace(update=carry.update + 0.01 * total + mean * sign + three.sum()), state


LINKS = [Swaps, Shifts, KeepsParam, Fills, SameTwice, Sums, Rows, Looks, Counts, Meets]
CLOSE = {torch.float64: 1e-12, torch.float32: 2e-5, torch.bfloat16: 2e-2}


def run(recipe, driver, dtype=torch.float64, count=9, shapes=SHAPES, absent=()):
    params = [param(*shape, seed=i).detach().to(dtype).requires_grad_() for i, shape in enumerate(shapes)]
    optimizer = recipe.optimizer(params, driver=driver)
    random = torch.Generator().manual_seed(1)
    for i in range(count):
        for at, p in enumerate(params):
            grad = torch.randn(p.shape, generator=random, dtype=torch.float64).to(dtype)
            p.grad = None if (i, at) in absent else grad
        optimizer.step()
    return params, optimizer


def by_hand(count=9):
    """The parameters and states of Shifts, worked out in a row of statements."""
    params = [param(*shape, seed=i).detach().double() for i, shape in enumerate(SHAPES)]
    a, b = [torch.zeros_like(p) for p in params], [torch.ones_like(p) for p in params]
    random = torch.Generator().manual_seed(1)
    for _ in range(count):
        for i, p in enumerate(params):
            grad = torch.randn(p.shape, generator=random, dtype=torch.float64)
            p -= 0.1 * (grad + 0.1 * b[i])
            a[i], b[i] = grad, a[i]
    return params, b


def agree(recipe, dtype=torch.float64, **rest):
    theirs, other = run(recipe, "reference", dtype, **rest)
    found = []
    for driver in ("auto", "eager"):
        ours, optimizer = run(recipe, driver, dtype, **rest)
        for p, q in zip(ours, theirs, strict=True):
            torch.testing.assert_close(p, q, rtol=CLOSE[dtype], atol=CLOSE[dtype], equal_nan=True)
            for key, value in other.state[q].items():
                torch.testing.assert_close(optimizer.state[p][key], value, rtol=CLOSE[dtype], atol=CLOSE[dtype], equal_nan=True)
        found.append(optimizer)
    return found


@pytest.mark.filterwarnings("error::RuntimeWarning")
class TestLinks:
    @pytest.mark.parametrize("dtype", CLOSE, ids=str)
    @pytest.mark.parametrize("kind", LINKS)
    def test_a_bucket_gives_the_reference_s_numbers(self, kind, dtype):
        for optimizer in agree(chain(t.Momentum(), kind(), t.LearningRate(lr=0.1)), dtype):
            assert optimizer._drive.plan.odd == []

    @pytest.mark.parametrize("kind", LINKS)
    def test_a_link_ahead_of_others_gives_the_reference_s_numbers(self, kind):
        agree(chain(kind(), t.Moments(), t.Normalize(eps=1e-2), t.WeightDecay(weight_decay=0.1), t.LearningRate(lr=0.1)))

    @pytest.mark.parametrize("kind", LINKS)
    def test_parameters_may_miss_their_gradient(self, kind):
        agree(chain(kind(), t.Moments(), t.LearningRate(lr=0.1)), absent={(3, 0), (3, 5), (6, 1), (6, 2)})


@pytest.mark.parametrize("driver", ["reference", "eager", "auto"])
def test_a_state_may_become_another_one(driver):
    """The old value of a state is written into the other one before it is written itself."""
    params, optimizer = run(chain(Shifts(), t.LearningRate(lr=0.1)), driver)
    right, states = by_hand()
    torch.testing.assert_close([p.detach() for p in params], right)
    for p, state in zip(params, states, strict=True):
        torch.testing.assert_close(optimizer.state[p]["shifts/b"].reshape(p.shape), state)


@pytest.mark.parametrize("driver", ["reference", "eager", "auto"])
def test_a_state_may_become_its_own_transpose(driver):
    params, optimizer = run(chain(Transposes(), t.LearningRate(lr=0.1)), driver, count=3, shapes=[(3, 3), (3, 3), (2, 2)])
    for p in params:
        start = torch.arange(p.numel(), dtype=p.dtype).reshape(p.shape)
        assert torch.equal(optimizer.state[p]["transposes/a"], start.T)


def test_all_shapes_of_an_elementwise_chain_run_as_one():
    _, optimizer = run(presets.lion(), "eager")
    (home,) = optimizer._drive.plan.homes
    assert isinstance(home, FlatBucket)
    ((one,),) = home.functions.values()
    calls = one.stretch.code.text.count("\n") - 1
    assert calls < 15  # for 13 parameters


def test_sums_run_once_for_each_shape():
    _, optimizer = run(presets.c_adamw(), "eager")
    ((one,),) = optimizer._drive.plan.homes[0].functions.values()
    assert one.stretch.code.text.count("sum_") == len({shape or (1,) for shape in SHAPES})


def test_state_of_a_bucket_has_the_shape_of_its_parameter():
    params, optimizer = run(presets.lion(), "auto")
    for p in params:
        for key, value in optimizer.state[p].items():
            assert key == "step" or value.shape == (p.shape or (1,))


@pytest.mark.parametrize("driver", ["auto", "eager"])
def test_a_dropped_optimizer_is_gone_with_its_functions(driver):
    _, optimizer = run(presets.c_adamw(), driver)
    (home,) = optimizer._drive.plan.homes
    gone = [weakref.ref(one) for one in (home, *home.buffers.values())]
    gone += [weakref.ref(home.param.untyped_storage())] if driver == "eager" else []
    del optimizer, home, _
    assert all(one() is None for one in gone)


NUMBERS = [0.0, -0.0, 1.0, -1.0, 2.0, 0.5, 3.0, -3.0, 1e300, -1e300, 1e-300, math.inf, -math.inf, math.nan]
UNARY = ("reciprocal", "sqrt", "exp", "expm1", "log", "neg", "abs", "floor")
BINARY = {"add": "Tensor", "sub": "Tensor", "mul": "Tensor", "div": "Tensor", "pow": "Tensor_Tensor", "maximum": "default"}
BINARY |= {"minimum": "default"} | dict.fromkeys(("lt", "le", "eq", "ne", "gt", "ge"), "Tensor")


class TestCodeOfOtherOptimizers:
    def test_an_optimizer_of_the_same_chain_traces_nothing(self, monkeypatch):
        first, _ = run(presets.c_adamw(lr=0.1), "eager")
        monkeypatch.setattr(functions, "trace", lambda *args: pytest.fail("traced again"))
        second, _ = run(presets.c_adamw(lr=0.1), "eager")
        assert all(map(torch.equal, first, second))

    def test_other_numbers_are_other_numbers(self):
        agree(presets.c_adamw(lr=0.1))
        agree(presets.c_adamw(lr=0.3, betas=(0.5, 0.6)))

    def test_a_method_that_was_replaced_is_traced(self, monkeypatch):
        before, _ = run(chain(t.Lion(), t.LearningRate(lr=0.1)), "eager")
        monkeypatch.setattr(t.Lion, "update", lambda self, carry, state, ctx: (carry, state))
        after, _ = run(chain(t.Lion(), t.LearningRate(lr=0.1)), "eager")
        assert not torch.equal(before[0], after[0])


def test_shapes_with_functions_of_their_own_are_measured_before_the_next_one_runs():
    """All functions of a bucket use the same memory; a Laplacian needs one for each number of dimensions."""
    limits = [t.LearningRate(lr=0.1), t.GlobalSpeedLimit(speed_limit=0.1)]
    agree(chain(t.Moments(), t.Laplacian(c2=0.2, min_spatial_size=1), t.Normalize(), *limits))


@pytest.mark.parametrize("driver", ["auto", "eager"])
def test_a_choice_that_is_taken_back_runs_the_function_of_the_first(driver):
    """A hyperparameter that is no number asks for a function of its own; the repeated steps use that of the present choice."""
    recipe, found = chain(t.Moments(), t.Normalize(), t.LearningRate(lr=0.1), t.SpeedLimit(speed_limit=0.01)), []
    for name in (driver, "reference"):
        params = [param(*shape, seed=i, dtype=torch.float64) for i, shape in enumerate([(6, 6), (6, 6), (5,)])]
        optimizer = recipe.optimizer(params, driver=name)
        for step, profile in enumerate(["lorentz", "tanh", *["lorentz"] * 4, "tanh", "tanh", "lorentz", "lorentz"]):
            optimizer.param_groups[0]["speed_profile"] = profile
            for p in params:
                p.grad = torch.sin(3.0 * torch.arange(p.numel(), dtype=p.dtype) + step).reshape(p.shape)
            optimizer.step()
        found.append(params)
    torch.testing.assert_close(*found, rtol=1e-12, atol=1e-12)


class TestNumbersOfTheHost:
    @pytest.mark.parametrize("name", UNARY)
    def test_a_function_gives_torch_s_result(self, name):
        for x in NUMBERS:
            right = getattr(torch, name)(torch.tensor(x, dtype=torch.float64)).item()
            assert FORMULAS[f"{name}.default"](x) == pytest.approx(right, rel=1e-15, nan_ok=True)

    @pytest.mark.parametrize("name", BINARY)
    def test_a_function_of_two_gives_torch_s_result(self, name):
        for x in NUMBERS:
            for y in NUMBERS:
                right = getattr(torch, name)(torch.tensor(x, dtype=torch.float64), torch.tensor(y, dtype=torch.float64)).item()
                assert FORMULAS[f"{name}.{BINARY[name]}"](x, y) == pytest.approx(right, rel=1e-15, nan_ok=True), (x, y)

    def test_a_clamp_gives_torch_s_result(self):
        for x in NUMBERS:
            right = torch.tensor(x, dtype=torch.float64).clamp(-1.0, 2.0).item()
            assert FORMULAS["clamp.default"](x, -1.0, 2.0) == pytest.approx(right, nan_ok=True)


def test_a_step_of_adamw_on_four_tensors_makes_few_calls():
    params = [param(*shape, seed=i) for i, shape in enumerate([(64, 64), (64,), (10, 64), (10,)])]
    optimizer = presets.adamw().optimizer(params)
    for p in params:
        p.grad = torch.ones_like(p)
    for _ in range(4):
        optimizer.step()
    assert len(python_calls(optimizer.step)) <= 60


class TestStepsLikeTheLast:
    """What differs from the step before is seen, however the steps before it were taken."""

    def both(self, edit, recipe=None):
        """Parameters after an edit ahead of the sixth step, by the default driver and by the loop."""
        found = []
        for driver in ("auto", "reference"):
            params = [param(*shape, seed=i, dtype=torch.float64) for i, shape in enumerate(SHAPES)]
            optimizer = (recipe or presets.c_adamw(lr=0.1)).optimizer(
                [{"params": params[:4]}, {"params": params[4:]}], driver=driver
            )
            for i in range(10):
                for p in params:
                    p.grad = torch.sin(p.detach() + i)
                if i == 5:
                    assert driver == "reference" or optimizer._drive.ready is not None
                    edit(optimizer, params)
                optimizer.step()
            found.append(params)
        torch.testing.assert_close(*found, rtol=1e-12, atol=1e-12)

    def test_a_new_learning_rate(self):
        self.both(lambda optimizer, params: optimizer.param_groups[1].update(lr=0.5))

    def test_new_betas(self):
        self.both(lambda optimizer, params: optimizer.param_groups[0].update(betas=(0.5, 0.6)))

    def test_a_learning_rate_of_zero(self):
        self.both(lambda optimizer, params: optimizer.param_groups[1].update(lr=0.0))

    def test_a_learning_rate_that_is_a_tensor(self):
        self.both(lambda optimizer, params: optimizer.param_groups[1].update(lr=torch.tensor(0.3)))

    def test_uphill(self):
        self.both(lambda optimizer, params: optimizer.param_groups[0].update(maximize=True))

    def test_a_parameter_with_other_numbers(self):
        self.both(lambda optimizer, params: params[0].data.fill_(2.0))

    def test_a_state_with_other_numbers(self):
        self.both(lambda optimizer, params: optimizer.state[params[1]]["step_corrected_moments/first"].fill_(2.0))

    def test_a_state_with_other_memory(self):
        def edit(optimizer, params):
            state = optimizer.state[params[1]]["step_corrected_moments/first"]
            state.data = torch.full_like(state, 2.0)

        self.both(edit)

    def test_a_count_of_steps_written_through_data(self):
        self.both(lambda optimizer, params: optimizer.state[params[2]]["step"].data.fill_(100))

    def test_a_parameter_that_no_longer_trains(self):
        self.both(lambda optimizer, params: params[2].requires_grad_(False))

    def test_a_parameter_without_a_gradient(self):
        self.both(lambda optimizer, params: setattr(params[2], "grad", None))

    def test_a_parameter_that_left_its_group(self):
        self.both(lambda optimizer, params: optimizer.param_groups[1]["params"].pop())

    def test_a_cleared_state(self):
        self.both(lambda optimizer, params: optimizer.state.clear())
