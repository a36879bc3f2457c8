"""Chains as functions: the optimizer's numbers, gradients through steps, many members at once."""

import copy

import pytest
import torch
from table import PRESETS
from torch import nn
from torch.func import functional_call, grad, vmap
from training import identical, param

from gradchain import ChainError, chain, masked, partition, presets
from gradchain import transforms as t

SHAPES = ((4, 3), (3,), (2, 3, 2), ())


def tensors(seed=0, dtype=torch.float64):
    return {f"p{i}": param(*shape, seed=seed + i, dtype=dtype).detach() for i, shape in enumerate(SHAPES)}


def gradients(params, i):
    return {name: torch.sin(3 * p + i) for name, p in params.items()}


def run(recipe, params, count=4, **hyperparameters):
    state = recipe.init(params)
    for i in range(count):
        updates, state = recipe.update(gradients(params, i), state, params, **hyperparameters)
        params = {name: p - updates[name] for name, p in params.items()}
    return params, state


PURE = {key: one for key, one in PRESETS.items() if not any({"perturbs", "eager"} & link.traits for link in one.links)}


@pytest.mark.parametrize("recipe", PURE.values(), ids=PURE)
def test_it_gives_the_optimizer_s_numbers_and_edits_nothing(recipe):
    before = tensors()
    given = copy.deepcopy(before)
    params, state = run(recipe, given)
    assert identical(given, before)
    live = {name: nn.Parameter(p.clone()) for name, p in before.items()}
    optimizer = recipe.optimizer(live.items(), driver="reference")
    for i in range(4):
        for name, g in gradients({name: p.detach() for name, p in live.items()}, i).items():
            live[name].grad = g
        optimizer.step()
    for name, p in live.items():
        assert torch.equal(p, params[name]) and identical(dict(optimizer.state[p]), state[name])


@pytest.mark.parametrize("recipe", PURE.values(), ids=PURE)
def test_an_ensemble_in_one_call_is_a_loop_over_its_members(recipe):
    members = [tensors(seed=10 * i) for i in range(3)]
    alone = [run(recipe, one, 3) for one in members]
    stacked = {name: torch.stack([one[name] for one in members]) for name in members[0]}
    state = vmap(recipe.init)(stacked)
    for i in range(3):
        updates, state = vmap(recipe.update)(gradients(stacked, i), state, stacked)
        stacked = {name: p - updates[name] for name, p in stacked.items()}
    for i, (params, states) in enumerate(alone):
        for name, p in params.items():
            torch.testing.assert_close(stacked[name][i], p, rtol=1e-9, atol=1e-10)
            for key, value in states[name].items():
                torch.testing.assert_close(state[name][key][i], value, rtol=1e-8, atol=1e-9)


SMOOTH = {
    "adamw": presets.adamw(weight_decay=0.1),
    "ladam": presets.ladam(c2=0.1),
    "nadam": presets.nadam(),
    "sgd": presets.sgd(momentum=0.9, nesterov=True),
    "rmsprop": presets.rmsprop(),
    "relativistic_adam": presets.relativistic_adam(),
    "clipped": chain(t.ClipGlobalNorm(max_norm=0.5), t.Moments(), t.Normalize(), t.LearningRate(lr=0.1)),
}


@pytest.mark.parametrize("recipe", SMOOTH.values(), ids=SMOOTH)
def test_gradients_flow_through_five_steps(recipe):
    """Into the parameters, what the loss depends on, and the learning rate, as a difference quotient has it."""

    def trained(a, b, target, lr):
        params = {"a": a, "b": b}
        state = recipe.init(params)
        for _ in range(5):
            grads = grad(lambda ps: ((torch.tanh(ps["a"] @ ps["b"]) - target) ** 2).sum() + ps["a"].pow(4).sum())(params)
            updates, state = recipe.update(grads, state, params, lr=lr)
            params = {name: p - updates[name] for name, p in params.items()}
        return params["a"], params["b"]

    inputs = [param(4, 3, dtype=torch.float64), param(3, seed=1, dtype=torch.float64), param(4, seed=2, dtype=torch.float64)]
    assert torch.autograd.gradcheck(trained, (*inputs, torch.tensor(0.02, dtype=torch.float64, requires_grad=True)))


def test_members_may_have_their_own_learning_rates():
    rates = torch.tensor([0.1, 0.01])
    one = tensors()
    stacked = {name: torch.stack([p, p]) for name, p in one.items()}
    recipe, grads = presets.adamw(), gradients(stacked, 0)
    update = vmap(lambda g, s, p, lr: recipe.update(g, s, p, lr=lr))
    updates, _ = update(grads, vmap(recipe.init)(stacked), stacked, rates)
    for i, rate in enumerate(rates):
        alone, _ = presets.adamw(lr=rate).update(gradients(one, 0), recipe.init(one), one)
        torch.testing.assert_close({name: u[i] for name, u in updates.items()}, alone)


def test_a_whole_training_of_an_ensemble():
    model, recipe = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)), presets.ladam(lr=0.05)
    x, y = torch.randn(8, 3, generator=torch.Generator().manual_seed(0)), torch.linspace(-1, 1, 8).unsqueeze(1)
    params = {name: torch.stack([p.detach() * (1 + i) for i in range(4)]) for name, p in model.named_parameters()}

    def loss(ps):
        return (functional_call(model, ps, (x,)) - y).square().mean()

    def step(ps, state):
        updates, state = recipe.update(grad(loss)(ps), state, ps)
        return {name: p - updates[name] for name, p in ps.items()}, state

    state, first = vmap(recipe.init)(params), vmap(loss)(params)
    for _ in range(60):
        params, state = vmap(step)(params, state)
    assert (vmap(loss)(params) < 0.5 * first).all()


@pytest.mark.parametrize("kind", [list, tuple])
def test_lists_and_tuples_come_back_as_they_were(kind):
    params = kind(tensors().values())
    recipe = presets.adamw()
    updates, state = recipe.update(kind(torch.ones_like(p) for p in params), recipe.init(params), params)
    assert type(updates) is type(state) is kind and [u.shape for u in updates] == [p.shape for p in params]
    named, _ = recipe.update({n: torch.ones_like(p) for n, p in tensors().items()}, recipe.init(tensors()), tensors())
    assert all(map(torch.equal, updates, named.values()))


def test_a_parameter_without_gradient_rests():
    recipe, params = presets.adamw(), tensors()
    state = recipe.init(params)
    updates, after = recipe.update({**gradients(params, 0), "p1": None}, state, params)
    assert not updates["p1"].any() and after["p1"] is state["p1"] and after["p0"]["step"] == 1


def test_complex_parameters_are_pairs_of_real_ones():
    recipe, z = presets.adamw(), torch.randn(3, dtype=torch.complex128, generator=torch.Generator().manual_seed(0))
    updates, state = recipe.update([z.conj().resolve_conj()], recipe.init([z]), [z])
    pairs = torch.view_as_real(z)
    wanted, _ = recipe.update([torch.view_as_real(z.conj().resolve_conj())], recipe.init([pairs]), [pairs])
    assert torch.equal(torch.view_as_real(updates[0]), wanted[0]) and state[0]["moments/first"].shape == (3, 2)


def test_schedules_and_windows_go_by_the_step():
    windowed = chain(t.Phase(t.L2(weight_decay=0.5), start=3), t.LearningRate(lr=lambda n: 1.0 / n))
    params, zero = {"a": torch.ones(2)}, {"a": torch.zeros(2)}
    state, seen = windowed.init(params), []
    both, states = {"a": torch.ones(3, 2)}, vmap(windowed.init)({"a": torch.ones(3, 2)})
    for _ in range(4):
        updates, state = windowed.update(zero, state, params)
        seen.append(updates["a"][0].item())
        mapped, states = vmap(windowed.update, in_dims=(None, 0, 0))(zero, states, both)
        torch.testing.assert_close(mapped["a"], updates["a"].expand(3, 2))
    assert seen == pytest.approx([0, 0, 0.5 / 3, 0.5 / 4])


def test_masks_and_partitions_go_by_the_names():
    decayed = chain(masked(t.L2(weight_decay=1.0), by="w*"), t.LearningRate(lr=1.0))
    recipe = partition({"decayed": decayed, "rest": chain(t.LearningRate(lr=0.5))}, by={"rest": "free"})
    params = {name: torch.ones(2) for name in ("free", "w", "b")}
    updates, state = recipe.update({name: torch.ones(2) for name in params}, recipe.init(params), params)
    assert {name: u[0].item() for name, u in updates.items()} == {"free": 0.5, "w": 2.0, "b": 1.0}
    assert list(updates) == list(state) == list(params)


@pytest.mark.parametrize(
    ("call", "complaint"),
    [
        (lambda c, p: c.init(p["p0"]), r"params must be a dict or a list of tensors; found Tensor\. Put it into one"),
        (lambda c, p: c.update({}, c.init(p), p), r"grads must have an entry for each of p0, p1.*; found: none"),
        (lambda c, p: c.update(p, [], p), r"state must have an entry for each of p0"),
        (lambda c, p: c.update(p, c.init(p), p, rate=1.0), r"no hyperparameter 'rate'; it has: betas"),
        (lambda c, p: chain(t.SAM(), *c.links).init(p), r"'sam' takes the gradients twice in a step.*Leave it out"),
    ],
)
def test_what_does_not_fit_is_refused(call, complaint):
    with pytest.raises(ChainError, match=complaint):
        call(presets.adamw(), tensors())


ADAM = presets.adamw()
TWO = {"a": torch.ones(2, 3), "b": torch.ones(3)}


def without(tree, name, key):
    return {**tree, name: {k: v for k, v in tree[name].items() if k != key}}


@pytest.mark.parametrize(
    ("spoiled", "complaint"),
    [
        (lambda g, s, p: ({**g, "a": torch.ones(3)}, s, p), r"gradient of 'a' has shape \(3,\), the parameter \(2, 3\)"),
        (lambda g, s, p: ({**g, "b": torch.ones(())}, s, p), r"gradient of 'b' has shape \(\), the parameter \(3,\)"),
        (lambda g, s, p: ({**g, "b": 1.0}, s, p), r"gradient of 'b' must be a tensor or None; found float"),
        (lambda g, s, p: ({**g, "b": torch.ones(3).to_sparse()}, s, p), r"gradient of 'b' is torch\.sparse_coo"),
        (lambda g, s, p: ({**g, "b": torch.ones(3) * 1j}, s, p), r"gradient of 'b' is torch\.complex64, the parameter"),
        (lambda g, s, p: (g, {**s, "a": {}}, p), r"state of 'a' has no 'step'; it has nothing"),
        (lambda g, s, p: (g, {**s, "a": None}, p), r"state of 'a' must be a dict of tensors; found NoneType"),
        (lambda g, s, p: (g, presets.sgd().init(p), p), r"state of 'a' has no 'moments/first'; it has step"),
        (lambda g, s, p: (g, without(s, "b", "moments/second"), p), r"state of 'b' has no 'moments/second'"),
        (lambda g, s, p: (g, {**s, "a": s["b"]}, p), r"'moments/first' of 'a' has shape \(3,\), .* \(2, 3\) needs \(2, 3\)"),
        (lambda g, s, p: (g, {**s, "a": {**s["a"], "step": torch.ones(2)}}, p), r"'step' of 'a' has shape \(2,\)"),
        (lambda g, s, p: (g, {**s, "a": {**s["a"], "step": 3}}, p), r"'step' of 'a' must be a tensor; found 3"),
        (lambda g, s, p: (g, s, {**p, "b": [1.0]}), r"parameter 'b' must be a tensor; found list"),
        (lambda g, s, p: (g, s, {**p, "b": torch.ones(3, dtype=torch.int64)}), r"parameter 'b' must hold real or complex"),
    ],
)
def test_what_does_not_fit_its_parameter_is_refused_by_name_and_shape(spoiled, complaint):
    grads = {name: torch.ones_like(p) for name, p in TWO.items()}
    args = spoiled(grads, ADAM.init(TWO), TWO)
    with pytest.raises(ChainError, match=complaint):
        ADAM.update(*args)


def test_parameters_that_are_no_tensors_have_no_state():
    with pytest.raises(ChainError, match="parameter 'b' must be a tensor; found float"):
        ADAM.init({"a": torch.ones(2), "b": 1.0})


def test_state_with_more_in_it_than_the_chain_needs_is_taken():
    longer = chain(t.ZClip(), *ADAM.links)
    grads = {name: torch.ones_like(p) for name, p in TWO.items()}
    _, state = ADAM.update(grads, longer.init(TWO), TWO)
    assert "z_clip/mean" in state["a"]


def test_masked_links_need_no_state_where_they_do_not_work():
    recipe = chain(masked(t.Moments(), by=lambda name, p: p.dim() > 1), t.LearningRate(lr=0.1))
    _, state = recipe.update({name: torch.ones_like(p) for name, p in TWO.items()}, recipe.init(TWO), TWO)
    assert "moments/first" in state["a"] and "moments/first" not in state["b"]
