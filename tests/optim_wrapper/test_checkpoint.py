"""Saving and loading: dtypes, aliasing, changed chains, refusals that change nothing."""

import copy
import io
import pickle
import warnings

import pytest
import torch
from torch import nn, optim
from training import identical, param, snapshot, steps

from gradchain import ChainError, ChainWarning, chain, presets
from gradchain import transforms as t


def trained(recipe, *params, count=3):
    optimizer = recipe.optimizer(params)
    steps(optimizer, count)
    return optimizer


def from_file(optimizer):
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize("stepped", [False, True], ids=["fresh", "stepped"])
def test_loading_restores_everything(stepped):
    saved = from_file(trained(presets.ladam(lr=0.1, c2=0.1), param(4, 5), param()))
    optimizer = presets.ladam(lr=0.2, c2=0.2).optimizer([param(4, 5), param()])
    if stepped:
        steps(optimizer, 2, start=9)
    optimizer.load_state_dict(copy.deepcopy(saved))
    assert identical(optimizer.state_dict(), saved)
    assert optimizer.param_groups[0]["c2"] == 0.1


@pytest.mark.parametrize("stepped", [False, True], ids=["fresh", "stepped"])
def test_states_of_bfloat16_parameters_stay_in_float32(stepped):
    first = param(4, 5, dtype=torch.bfloat16)
    saved = from_file(trained(presets.adam(lr=0.1), first))
    second = nn.Parameter(first.detach().clone())
    optimizer = presets.adam(lr=0.1).optimizer([second])
    if stepped:
        steps(optimizer)
    optimizer.load_state_dict(saved)
    state = optimizer.state[second]
    assert state["step"].dtype == torch.int64 and state["step"].device.type == "cpu"
    assert all(value.dtype == torch.float32 for key, value in state.items() if key != "step")
    assert torch.equal(state["moments/second"], saved["state"][0]["moments/second"])
    assert not torch.equal(state["moments/second"], state["moments/second"].bfloat16().float())


@pytest.mark.parametrize("stepped", [False, True], ids=["fresh", "stepped"])
def test_loading_never_shares_tensors_with_what_was_loaded(stepped):
    source = presets.adam().optimizer([param(4, 5)], lr=torch.tensor(0.1))
    steps(source, 3)
    saved = source.state_dict()
    before = copy.deepcopy(saved)
    other = presets.adam().optimizer([param(4, 5)], lr=torch.tensor(0.1))
    if stepped:
        steps(other)
    other.load_state_dict(saved)
    theirs = [*saved["state"][0].values(), saved["param_groups"][0]["lr"]]
    mine = [*other.state_dict()["state"][0].values(), other.param_groups[0]["lr"]]
    assert not {a.data_ptr() for a in theirs} & {a.data_ptr() for a in mine}
    steps(other, 3)
    assert identical(saved, before)


def test_loading_its_own_state_changes_nothing():
    optimizer = trained(presets.ladam(c2=0.1), param(4, 5), param())
    before = snapshot(optimizer)
    optimizer.load_state_dict(optimizer.state_dict())
    assert identical(snapshot(optimizer), before)


def test_a_copy_moved_elsewhere_and_back_loads_as_it_was():
    optimizer = trained(presets.nadam(), param(4, 5))
    before = snapshot(optimizer)
    saved = copy.deepcopy(optimizer.state_dict())
    saved["state"][0] = {key: value.double().float() for key, value in saved["state"][0].items()}
    optimizer.load_state_dict(saved)
    assert identical(snapshot(optimizer), before)


ADAM, LONGER = presets.adam(), presets.adam().insert_before("moments", t.FirstMoment(name="extra"))


@pytest.mark.parametrize(
    ("saver", "loader", "report"),
    [
        (ADAM, LONGER, "kept: moments; dropped: none; fresh: extra"),
        (LONGER, ADAM, "kept: moments; dropped: extra; fresh: none"),
        (presets.adam(amsgrad=True), LONGER, "kept: none; dropped: ams_grad_moments; fresh: extra, moments"),
    ],
    ids=["link added", "link removed", "link exchanged"],
)
def test_another_chain_keeps_what_fits_and_says_so(saver, loader, report):
    source = trained(saver, param(4, 5))
    saved, p = from_file(source), param(4, 5)
    optimizer = loader.optimizer([p])
    before = snapshot(optimizer)
    with pytest.raises(ChainError, match=f"saved by another chain \\({report}\\). Pass strict=False"):
        optimizer.load_state_dict(saved, strict=True)
    assert identical(snapshot(optimizer), before)
    with pytest.warns(ChainWarning, match=report):
        optimizer.load_state_dict(saved)
    state = optimizer.state[p]
    assert state["step"] == 3 and {key.partition("/")[0] for key in state} <= {"step", *loader.names}
    assert all(torch.equal(value, saved["state"][0][key]) for key, value in state.items() if key in saved["state"][0])
    steps(optimizer)


def test_a_link_without_state_comes_and_goes_in_silence():
    saved = from_file(trained(presets.ladam(c2=0.1), param(4, 5)))
    for shorter in (presets.ladam().without("laplacian"), presets.ladam().insert_after("moments", t.VarianceFloor())):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            shorter.optimizer([param(4, 5)]).load_state_dict(saved, strict=True)


def test_a_hyperparameter_that_was_not_saved_keeps_the_optimizer_s_value():
    saved = from_file(trained(presets.adam(lr=0.1), param(4, 5)))
    optimizer = presets.ladam(lr=0.2, c2=0.1).optimizer([param(4, 5)])
    optimizer.load_state_dict(saved)
    assert optimizer.param_groups[0]["c2"] == 0.1 and optimizer.param_groups[0]["lr"] == 0.1
    steps(optimizer)


def test_groups_saved_without_a_rate_take_the_tensor_of_the_optimizer():
    saved = presets.sgd().optimizer([{"params": [param(2)]}, {"params": [param(2)]}]).state_dict()
    for group in saved["param_groups"]:
        del group["lr"]
    given = torch.tensor(0.1)
    optimizer = presets.sgd().optimizer([{"params": [param(2)]}, {"params": [param(2)]}], lr=given)
    optimizer.load_state_dict(saved)
    assert all(group["lr"] is given for group in optimizer.param_groups)


def shape(saved):
    saved["state"][1]["moments/second"] = torch.zeros(4)


def transposed(saved):
    saved["state"][0]["moments/first"] = torch.zeros(5, 4)


def text(saved):
    saved["state"][1]["moments/first"] = "zeros"


def count(saved):
    saved["state"][1]["step"] = torch.zeros(3)


def beta(saved):
    saved["param_groups"][0]["betas"] = (0.9, 1.5)


def rate(saved):
    saved["param_groups"][0]["lr"] = "fast"


def stencil(saved):
    saved["param_groups"][0].update(stencil="5point", c2=0.29)


def groups(saved):
    saved["param_groups"].append(saved["param_groups"][0])


def fewer(saved):
    saved["param_groups"][0]["params"] = [0]


def torn(saved):
    del saved["param_groups"]


def model(saved):
    saved.clear()
    saved["0.weight"] = torch.zeros(2)


@pytest.mark.parametrize("stepped", [False, True], ids=["fresh", "stepped"])
@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (shape, r"'moments/second' of parameter 'bias' has shape \(4,\), the optimizer needs \(3,\). Load a checkpoint"),
        (transposed, r"'moments/first' of parameter 'weight' has shape \(5, 4\)"),
        (text, "'moments/first' of parameter 'bias' is of type str, not a tensor. Load a checkpoint"),
        (count, r"'step' of parameter 'bias' has shape \(3,\)"),
        (beta, r"betas must be each a number in \[0, 1\)"),
        (rate, "lr must be a number"),
        (stencil, "c2 must be in .* for the 5point stencil"),
        (groups, "different number of parameter groups"),
        (fewer, "doesn't match the size of optimizer's group"),
        (torn, "no optimizer state: it has 'state', not 'param_groups'. Pass what state_dict"),
        (model, "no optimizer state: it has '0.weight', not 'state'"),
    ],
)
def test_a_state_that_cannot_be_loaded_changes_nothing(damage, complaint, stepped):
    named = [("weight", param(4, 5)), ("bias", param(3))]
    source = presets.ladam(c2=0.1).optimizer([("weight", param(4, 5)), ("bias", param(3))])
    steps(source, 3)
    saved = copy.deepcopy(source.state_dict())
    damage(saved)
    optimizer = presets.ladam(lr=0.5, c2=0.1).optimizer(named)
    if stepped:
        steps(optimizer, 2)
    before = snapshot(optimizer)
    with pytest.raises(ValueError, match=complaint):
        optimizer.load_state_dict(saved)
    assert identical(snapshot(optimizer), before)
    optimizer.load_state_dict(source.state_dict())  # and no hook is left behind
    assert identical(optimizer.state_dict(), source.state_dict())


@pytest.mark.parametrize("thing", [None, 42, "adam.pt", [1, 2]])
def test_what_is_no_state_dict_is_refused(thing):
    with pytest.raises(ChainError, match="no optimizer state"):
        presets.adam().optimizer([param(2)]).load_state_dict(thing)


def test_parameters_that_had_no_gradient_when_saved_start_afresh():
    used, unused = param(3), param(3)
    unused.requires_grad_(False)
    saved = from_file(trained(presets.adam(), used, unused))
    assert list(saved["state"]) == [0]
    a, b = param(3), param(3)
    optimizer = presets.adam().optimizer([a, b])
    optimizer.load_state_dict(saved, strict=True)
    assert list(optimizer.state) == [a]
    steps(optimizer)
    assert optimizer.state[a]["step"] == 4 and optimizer.state[b]["step"] == 1


def test_hooks_of_users_run_around_loading():
    source = trained(presets.adam(), param(3))
    optimizer, calls = presets.adam().optimizer([param(3)]), []

    def double(_, saved):
        calls.append("pre")
        saved = copy.deepcopy(saved)
        saved["state"][0]["moments/first"] *= 2
        return saved

    def look(o):
        calls.append(float(o.state_dict()["state"][0]["step"]))

    optimizer.register_load_state_dict_pre_hook(double)
    optimizer.register_load_state_dict_post_hook(look)
    optimizer.load_state_dict(source.state_dict())
    assert calls == ["pre", 3.0]
    assert torch.equal(
        optimizer.state_dict()["state"][0]["moments/first"], 2 * source.state_dict()["state"][0]["moments/first"]
    )


def test_a_torch_scheduler_resumes_with_the_optimizer():
    straight, p = param(3), param(3)
    optimizer = presets.adam(lr=0.1).optimizer([straight])
    schedule = optim.lr_scheduler.StepLR(optimizer, 2, gamma=0.5)
    for i in range(3):
        steps(optimizer, start=i)
        schedule.step()
    p.data.copy_(straight.detach())
    saved, place = from_file(optimizer), schedule.state_dict()
    resumed = presets.adam(lr=0.7).optimizer([p])
    again = optim.lr_scheduler.StepLR(resumed, 2, gamma=0.5)
    resumed.load_state_dict(saved)
    again.load_state_dict(place)
    for i in range(3, 6):
        for one, scheduler in ((optimizer, schedule), (resumed, again)):
            steps(one, start=i)
            scheduler.step()
    assert torch.equal(p, straight) and resumed.param_groups[0]["lr"] == optimizer.param_groups[0]["lr"]


def test_complex_and_strided_states_survive():
    params = [
        param(4, 5, dtype=torch.complex64),
        nn.Parameter(param(2, 3, 4, 4).detach().to(memory_format=torch.channels_last)),
    ]
    source = trained(presets.adam(), *params)
    optimizer = presets.adam().optimizer(copy.deepcopy(params))
    optimizer.load_state_dict(from_file(source))
    assert identical(optimizer.state_dict(), source.state_dict())
    mine, theirs = (o.state_dict()["state"][1]["moments/first"].stride() for o in (optimizer, source))
    assert mine == theirs


def test_state_dict_holds_only_what_weights_only_loading_takes():
    optimizer = chain(t.Moments(), t.Normalize(), t.LearningRate(lr=lambda step: 0.1)).optimizer([("w", param(3))])
    steps(optimizer)
    saved = from_file(optimizer)
    assert set(saved) == {"state", "param_groups"} and identical(saved, optimizer.state_dict())


def test_a_link_that_joins_a_saved_run_counts_its_steps_from_there():
    p = nn.Parameter(torch.zeros(32))
    first = chain(t.FirstMoment(), t.LearningRate(lr=1e-3)).optimizer([p])
    for _ in range(200):
        p.grad = torch.ones_like(p)
        first.step()
    recipe = presets.adam(lr=1e-3)
    second = recipe.optimizer([p])
    with pytest.warns(ChainWarning, match="fresh: moments"):
        second.load_state_dict(first.state_dict())
    third = recipe.optimizer([p])
    third.load_state_dict(copy.deepcopy(second.state_dict()))
    for optimizer in (second, third):
        before = p.detach().clone()
        p.grad = torch.ones_like(p)
        optimizer.step()
        torch.testing.assert_close(before - p.detach(), torch.full((32,), 1e-3), rtol=1e-3, atol=0)


def test_pickle_does_not_write_a_stack_for_each_of_its_rows():
    params = [param(1000, seed=i) for i in range(50)]
    optimizer = presets.nadam().optimizer(params)
    steps(optimizer, 2)
    size = 3 * 4 * 1000 * 50  # parameters and two moments
    assert size < len(pickle.dumps(optimizer)) < 2 * size
    twin = pickle.loads(pickle.dumps(optimizer))
    for one in (optimizer, twin):
        steps(one, 2, 2)
    assert identical(snapshot(optimizer), snapshot(twin))
