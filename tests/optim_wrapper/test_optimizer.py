"""The wrapper as a torch optimizer: groups, closures, failures, gates and shared links, classes, copies."""

import copy
import inspect
import pickle
from dataclasses import dataclass
from typing import Annotated, NamedTuple

import pytest
import torch
from torch import nn, optim
from torch.optim.lr_scheduler import StepLR
from training import identical, param, snapshot, steps

from gradchain import ChainError, ChainOptimizer, SharedTransform, Transform, chain, optim_wrapper, presets
from gradchain import transforms as t
from gradchain.types import Carry, Context, NoState


@dataclass(frozen=True, kw_only=True, repr=False)
class OddSteps(Transform):
    """Lets a parameter be written on its odd steps only."""

    writes = frozenset({"gate"})

    def update(self, carry: Carry, state: NoState, ctx: Context) -> tuple[Carry, NoState]:
        return carry._replace(gate=ctx.step % 2), state


@dataclass(frozen=True, kw_only=True, repr=False)
class ClipGlobalNorm(SharedTransform):
    """The rule of torch.nn.utils.clip_grad_norm_."""

    max_norm: Annotated[float, "(0, inf)"] = 1.0

    def measure(self, carry, state, ctx):
        return ctx.layout.norm(carry.update)

    def share(self, measured, infos):
        norm = torch.linalg.vector_norm(torch.stack(list(measured)))
        return [(self.max_norm / (norm + 1e-6)).clamp(max=1.0)] * len(infos)

    def update(self, carry, state, ctx):
        return carry._replace(update=carry.update * ctx.shared), state


@dataclass(frozen=True, kw_only=True, repr=False)
class Stumble(Transform):
    """Fails on matrices."""

    def update(self, carry: Carry, state: NoState, ctx: Context) -> tuple[Carry, NoState]:
        if ctx.layout.shape(carry.update)[0] == 7:
            raise ArithmeticError("stumbled")
        return carry, state


def test_groups_have_their_own_hyperparameters():
    a, b = param(3), param(3)
    optimizer = presets.adamw(lr=0.1).optimizer([{"params": [a]}, {"params": [b], "lr": 0.2, "betas": [0.5, 0.9], "eps": 1e-3}])
    alone = param(3)
    steps(optimizer, 5)
    steps(presets.adamw(lr=0.2, betas=(0.5, 0.9), eps=1e-3).optimizer([alone]), 5)
    assert torch.equal(b, alone) and not torch.equal(a, b)
    assert optimizer.param_groups[1]["betas"] == (0.5, 0.9)


def test_a_number_changed_in_a_group_counts_from_the_next_step_on():
    a, b = param(3), param(3)
    optimizer = presets.sgd(lr=0.1).optimizer([a])
    steps(optimizer)
    optimizer.param_groups[0]["lr"] = 0.0
    before = a.detach().clone()
    steps(optimizer)
    assert torch.equal(a, before)
    optimizer.param_groups[0]["lr"] = torch.tensor(0.1)
    steps(optimizer)
    assert not torch.equal(a, before) and torch.equal(b, param(3))


def test_names_of_parameters_appear_in_errors():
    model = nn.Sequential(nn.Linear(2, 7), nn.Linear(7, 2))
    optimizer = chain(Stumble(), t.LearningRate()).optimizer(model.named_parameters())
    assert optimizer.param_groups[0]["param_names"][0] == "0.weight" and optimizer.name_of(model[1].bias) == "1.bias"
    with pytest.raises(ArithmeticError) as error:
        steps(optimizer)
    assert error.value.__notes__ == ["in link 'stumble', parameter '0.weight' of shape (7, 2), torch.float32"]
    with pytest.raises(ChainError, match="not one of the optimizer's"):
        optimizer.name_of(param(1))


@pytest.mark.parametrize("driver", ["reference", "auto"])
def test_a_failing_link_leaves_all_parameters_and_states_as_they_were(driver):
    good, bad = param(3), param(7, 2)
    optimizer = chain(t.Moments(), Stumble(), t.Normalize(), t.LearningRate()).optimizer([good, bad], driver=driver)
    with pytest.raises(ArithmeticError):
        steps(optimizer)
    assert torch.equal(good, param(3)) and torch.equal(bad, param(7, 2))
    assert not any(value.any() for state in optimizer.state.values() for value in state.values())


def test_a_closure_runs_once_with_gradients_and_its_loss_comes_back():
    p, calls = param(3), []
    optimizer = presets.adam().optimizer([p])

    def closure():
        calls.append(torch.is_grad_enabled())
        optimizer.zero_grad()
        loss = p.square().sum()
        loss.backward()
        return loss

    with torch.no_grad():
        loss = optimizer.step(closure=closure)
    assert calls == [True] and loss == param(3).square().sum() and not torch.equal(p, param(3))
    assert optimizer.step(closure=None) is None and optimizer.step() is None
    assert list(inspect.signature(ChainOptimizer.step).parameters) == ["self", "closure"]
    optimizer.zero_grad()
    assert p.grad is None


def test_a_group_added_while_training_starts_at_step_one():
    a, b = param(3), param(3)
    optimizer = presets.adam(lr=0.1).optimizer([a])
    steps(optimizer, 3)
    optimizer.add_param_group({"params": [b], "lr": 0.5})
    steps(optimizer, 2, start=3)
    assert optimizer.state[a]["step"] == 5 and optimizer.state[b]["step"] == 2
    alone = param(3)
    steps(presets.adam(lr=0.5).optimizer([alone]), 2, start=3)
    assert torch.equal(b, alone)


def test_a_bad_group_is_refused_and_changes_nothing():
    optimizer = presets.adam().optimizer([param(3)])
    for group, error, message in [
        ({"params": [param(2)], "lr": -1.0}, ChainError, "lr must be a number"),
        ({"params": [param(2)], "betas": (0.9, 1.5)}, ChainError, "betas must be each a number"),
        ({"params": [param(2)], "lr": lambda step: 0.1}, ChainError, "a schedule is part of the chain"),
        ([param(2)], TypeError, "must be a dict"),
    ]:
        with pytest.raises(error, match=message):
            optimizer.add_param_group(group)
    assert len(optimizer.param_groups) == 1
    ladam = presets.ladam().optimizer([param(3)])
    with pytest.raises(ChainError, match="c2 must be in"):
        ladam.add_param_group({"params": [param(2)], "c2": 0.29, "stencil": "5point"})


def test_an_unknown_override_lists_the_keys_there_are():
    with pytest.raises(ChainError, match="no hyperparameter 'beta'; it has: weight_decay, betas, eps, lr"):
        presets.adam().optimizer([param(3)], beta=0.9)
    with pytest.raises(ChainError, match="no driver is named 'fast'; there are"):
        presets.adam().optimizer([param(3)], driver="fast")
    with pytest.raises(ChainError, match="chain must be a Chain; found 'adam'"):
        ChainOptimizer([param(3)], "adam")


def test_overrides_count_for_groups_that_set_nothing_themselves():
    optimizer = presets.adam().optimizer([{"params": [param(1)]}, {"params": [param(1)], "lr": 0.5}], lr=0.25, eps=1e-4)
    assert [g["lr"] for g in optimizer.param_groups] == [0.25, 0.5] and optimizer.defaults["eps"] == 1e-4
    assert optimizer.chain["learning_rate"].lr == 0.25


def test_foreign_keys_and_empty_groups_are_accepted():
    p = param(3)
    foreign = {"fused": None, "foreach": False, "initial_lr": 0.1, "lr_scale": 0.5, "swa_lr": 1.0, "param_group_name": "x"}
    optimizer = presets.sgd(lr=0.1).optimizer([{"params": [p], **foreign}, {"params": []}])
    steps(optimizer)
    assert optimizer.param_groups[0]["lr_scale"] == 0.5 and not torch.equal(p, param(3))
    with pytest.raises(ValueError, match="empty parameter list"):
        presets.sgd().optimizer([])


def test_a_chain_without_learning_rate_gets_one_of_one():
    p = param(3)
    optimizer = chain(t.Moments(), t.Normalize()).optimizer([p])
    assert optimizer.defaults["lr"] == 1.0 and optimizer.chain.names[-1] == "learning_rate"
    steps(optimizer)
    torch.testing.assert_close((p - param(3)).detach(), -torch.sin(param(3).detach()).sign(), rtol=1e-4, atol=1e-4)


def test_a_factor_that_no_link_writes_is_one():
    factored, plain = param(3), param(3)
    factored.grad = plain.grad = torch.tensor([1.0, 2.0, 3.0])
    chain(t.ApplyScale(), t.LearningRate(lr=0.1)).optimizer([factored]).step()
    chain(t.LearningRate(lr=0.1)).optimizer([plain]).step()
    assert torch.equal(factored, plain)


class Seen(NamedTuple):
    param: torch.Tensor


@dataclass(frozen=True, kw_only=True, repr=False)
class Remember(Transform[Seen]):
    """Keeps the parameter that it was shown."""

    State = Seen
    reads = frozenset({"param"})

    def init(self, param):
        return self.State(torch.zeros_like(param))

    def update(self, carry, state, ctx):
        return carry, self.State(carry.param)


def test_a_state_that_is_the_parameter_is_the_one_before_the_step():
    p = torch.nn.Parameter(torch.tensor([3.0]))
    p.grad = torch.ones(1)
    optimizer = chain(Remember(), t.LearningRate(lr=0.5)).optimizer([p])
    optimizer.step()
    assert (p.item(), optimizer.state[p]["remember/param"].item()) == (2.5, 3.0)


def test_a_closed_gate_keeps_the_parameter_untouched_and_the_state_running():
    p = param(3)
    optimizer = chain(t.Moments(), t.Normalize(), OddSteps(), t.LearningRate(lr=0.1)).optimizer([p])
    steps(optimizer)
    before = p.detach().clone()
    steps(optimizer, start=1)
    assert torch.equal(p, before) and optimizer.state[p]["step"] == 2
    steps(optimizer, start=2)
    assert not torch.equal(p, before)


def test_a_shared_link_sees_all_parameters_with_a_gradient():
    recipe = chain(ClipGlobalNorm(max_norm=0.5), t.Momentum(), t.LearningRate(lr=0.1))
    ours, theirs = ([param(4, 3, seed=1), param(5, seed=2), param(2, seed=3)] for _ in range(2))
    mine = recipe.optimizer([{"params": ours[:1]}, {"params": ours[1:], "lr": 0.2}])
    torchs = optim.SGD([{"params": theirs[:1]}, {"params": theirs[1:], "lr": 0.2}], lr=0.1, momentum=0.9)
    for i in range(5):
        for p, q in zip(ours[:2], theirs[:2], strict=True):  # the third has no gradient
            p.grad, q.grad = (torch.sin(r.detach() + i) for r in (p, q))
        mine.step()
        nn.utils.clip_grad_norm_(theirs, 0.5)
        torchs.step()
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-7)


def test_step_hooks_fire_once_also_for_preset_classes():
    for optimizer in (presets.adam().optimizer([param(2)]), optim_wrapper.Adam([param(2)])):
        calls = []
        optimizer.register_step_pre_hook(lambda o, args, kwargs, calls=calls: calls.append("pre"))
        optimizer.register_step_post_hook(lambda o, args, kwargs, calls=calls: calls.append("post"))
        steps(optimizer)
        assert calls == ["pre", "post"]


CLASSES = [name for name in optim_wrapper.__all__ if isinstance(getattr(optim_wrapper, name), type)]
CLASSES = [name for name in CLASSES if issubclass(getattr(optim_wrapper, name), ChainOptimizer) and name != "ChainOptimizer"]


@pytest.mark.parametrize("name", CLASSES)
def test_a_preset_class_is_a_torch_optimizer_that_tools_can_inspect_and_pickle(name):
    cls = getattr(optim_wrapper, name)
    assert issubclass(cls, optim.Optimizer) and cls.__module__.startswith("gradchain.optim_wrapper")
    signature = inspect.signature(cls)
    assert list(signature.parameters)[:2] == ["params", "lr"] and list(signature.parameters)[-1] == "maximize"
    assert all(
        p.default is not p.empty and not isinstance(p.annotation, str) for k, p in signature.parameters.items() if k != "params"
    )
    p = param(4, 5)
    optimizer = cls([p], lr=0.01)
    assert optimizer.param_groups[0]["lr"] == 0.01
    steps(optimizer, 2)
    again, q = pickle.loads(pickle.dumps((optimizer, p)))
    assert type(again) is cls and again.chain == optimizer.chain
    steps(optimizer, 2, start=2)
    steps(again, 2, start=2)
    assert torch.equal(p, q)


def test_wave_adam_is_an_alias_and_classes_take_what_presets_take():
    assert optim_wrapper.WaveAdam is optim_wrapper.LAdam
    optimizer = optim_wrapper.LAdam([param(2)], 1e-2, c2=1e-5, driver="reference")
    assert optimizer.chain == presets.ladam(1e-2, c2=1e-5) and optimizer.driver == "reference"
    with pytest.raises(TypeError, match="momentum"):
        optim_wrapper.Adam([param(2)], momentum=0.9)


def test_a_deep_copy_is_independent():
    p = param(3)
    optimizer = presets.adam(lr=0.1).optimizer([p])
    steps(optimizer, 2)
    StepLR(optimizer, 1)
    before = snapshot(optimizer)
    steps(copy.deepcopy(optimizer), 3, start=2)
    assert identical(snapshot(optimizer), before)
