"""What every preset promises as an optimizer."""

import contextlib
import copy
import io
import pickle
import re

import pytest
import torch
from table import PRESETS

import gradchain
from gradchain import ChainWarning, presets, transforms
from gradchain.transforms import UpdateLaplacian

ROWS = pytest.mark.parametrize("recipe", list(PRESETS.values()), ids=PRESETS)
SHAPES = [(4, 6), (5,), (3, 2, 2, 2), (), (0,)]


def parameters(dtype=torch.float32, seed=0):
    random = torch.Generator().manual_seed(seed)
    return [torch.nn.Parameter(torch.randn(shape, generator=random).to(dtype)) for shape in SHAPES]


def advance(optimizer, params, steps, start=0):
    for t in range(start, start + steps):
        random = torch.Generator().manual_seed(t)
        for p in params:
            p.grad = torch.randn(p.shape, generator=random).to(p.dtype)
        optimizer.step()
    return params


def keys_of(recipe):
    """What the state of each parameter holds; a masked link has none for those that it leaves alone."""
    params = parameters()
    optimizer = recipe.optimizer(params)
    advance(optimizer, params, 1)
    return [set(optimizer.state[p]) for p in params]


def same(first, second):
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_every_preset_has_a_row():
    assert (
        set(presets.__all__) - {"suggest_c2", "muon_adamw"} <= PRESETS.keys()
    )  # a partition is tested in chains/test_matrix.py


@ROWS
def test_a_step_at_learning_rate_zero_changes_no_parameter(recipe):
    params = parameters()
    optimizer, before = recipe.optimizer(params, lr=0.0), copy.deepcopy(params)
    assert same(advance(optimizer, params, 3), before)
    for p in params:
        p.grad = torch.zeros_like(p)
    optimizer.step()
    assert same(params, before)


@ROWS
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.complex64], ids=str)
def test_it_trains_in_every_dtype_with_state_in_full_precision(recipe, dtype):
    params = parameters(dtype)
    optimizer, before = recipe.optimizer(params, lr=0.1), copy.deepcopy(params)
    advance(optimizer, params, 3)
    for p, old in zip(params, before, strict=True):
        assert p.dtype == dtype and p.isfinite().all()
        wide = torch.float64 if dtype == torch.float64 else torch.float32
        assert old.dim() < 2 or not torch.equal(p, old)
        state = {key: value.dtype for key, value in optimizer.state[p].items() if value.is_floating_point()}
        assert all(kept == (torch.float32 if key == "step" else wide) for key, kept in state.items())


@ROWS
def test_state_is_flat_tensors_under_names_without_dots(recipe):
    params = parameters()
    optimizer = recipe.optimizer(params)
    advance(optimizer, params, 1)
    for state in optimizer.state_dict()["state"].values():
        assert all(isinstance(value, torch.Tensor) and "." not in key for key, value in state.items())
        assert "step" in state and all(key == "step" or "/" in key for key in state)


@ROWS
def test_resuming_at_step_50_gives_the_bits_of_the_run_that_goes_on(recipe):
    straight = parameters()
    optimizer, file = recipe.optimizer(straight), io.BytesIO()
    advance(optimizer, straight, 50)
    torch.save({"optimizer": optimizer.state_dict(), "params": [p.detach() for p in straight]}, file)
    advance(optimizer, straight, 20, start=50)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    second = [torch.nn.Parameter(p) for p in saved["params"]]
    resumed = recipe.optimizer(second)
    resumed.load_state_dict(saved["optimizer"])
    assert same(advance(resumed, second, 20, start=50), straight)


def keeping(recipe):
    """The links that keep a state, those that rest with their values left out."""
    rests = [link for link in recipe.links if link.idle and all(getattr(link, key) == v for key, v in link.idle.items())]
    return [link for link in recipe.links if link.State._fields and link not in rests]


@ROWS
def test_inserting_or_removing_a_link_keeps_the_state_of_the_others(recipe):
    params = parameters()
    optimizer = recipe.optimizer(params)
    advance(optimizer, params, 3)
    saved = optimizer.state_dict()
    longer = recipe.insert_before(recipe.names[-1], transforms.FirstMoment(name="extra"))
    for changed in (longer, *recipe.ablations().values()):
        other = changed.optimizer(params)
        lost = {link.label for link in keeping(recipe) if link.label not in changed.names}
        if lost or changed is longer:
            with pytest.warns(ChainWarning, match="saved by another chain"):
                other.load_state_dict(saved)
        else:
            other.load_state_dict(saved)
        for p, keys in zip(params, keys_of(changed), strict=True):
            for key, value in other.state[p].items():
                if key in optimizer.state[p]:
                    assert torch.equal(value, optimizer.state[p][key])
            assert keys <= other.state[p].keys()


@ROWS
def test_a_link_put_in_later_starts_afresh_beside_the_state_of_the_others(recipe):
    whole = keys_of(recipe)
    for gone, shorter in recipe.ablations().items():
        params = parameters()
        optimizer = shorter.optimizer(params)
        advance(optimizer, params, 2)
        longer = recipe.optimizer(params)
        added = {link.label for link in keeping(recipe) if link.label not in shorter.names}
        with pytest.warns(ChainWarning, match=f"fresh: .*{gone}") if gone in added else contextlib.nullcontext():
            longer.load_state_dict(optimizer.state_dict())
        for p, keys in zip(params, whole, strict=True):
            old, new = optimizer.state[p], longer.state[p]
            assert all(torch.equal(new[key], value) for key, value in old.items())
            assert {key.partition("/")[0] for key in new.keys() - old.keys()} == added & {key.partition("/")[0] for key in keys}
        assert all(p.isfinite().all() for p in advance(longer, params, 1, start=2))


@ROWS
def test_a_schedule_in_the_chain_is_the_learning_rate_set_by_hand(recipe):
    scheduled, by_hand = parameters(), parameters()
    advance(recipe.optimizer(scheduled, lr=lambda step: 0.1 / step), scheduled, 5)
    optimizer = recipe.optimizer(by_hand)
    for t in range(5):
        optimizer.param_groups[0]["lr"] = 0.1 / (t + 1)
        advance(optimizer, by_hand, 1, start=t)
    assert same(scheduled, by_hand)


@ROWS
def test_a_scheduler_of_torch_works_on_it(recipe):
    scheduled, by_hand = parameters(), parameters()
    optimizer = recipe.optimizer(scheduled, lr=0.1)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    for t in range(4):
        advance(optimizer, scheduled, 1, start=t)
        scheduler.step()
    other = recipe.optimizer(by_hand)
    for t in range(4):
        other.param_groups[0]["lr"] = 0.1 * 0.5**t
        advance(other, by_hand, 1, start=t)
    assert same(scheduled, by_hand)


@ROWS
def test_a_copy_goes_on_as_the_original_would(recipe):
    params = parameters()
    optimizer = recipe.optimizer(params)
    advance(optimizer, params, 3)
    twin, (pickled, theirs) = copy.deepcopy((optimizer, params)), pickle.loads(pickle.dumps((optimizer, params)))
    advance(optimizer, params, 3, start=3)
    assert same(advance(twin[0], twin[1], 3, start=3), params)
    assert same(advance(pickled, theirs, 3, start=3), params)


@ROWS
def test_the_chain_can_be_pickled_and_written_down(recipe):
    assert pickle.loads(pickle.dumps(recipe)) == recipe
    assert (
        eval(repr(recipe), {**vars(transforms), **vars(gradchain.chains), "chain": gradchain.chain, "inf": torch.inf}) == recipe
    )


@ROWS
def test_it_runs_on_the_meta_device(recipe):
    """Where a host read raises; 15 steps of a matrix see every phase, as a row's warm-up is 7 steps at most."""
    params = [torch.nn.Parameter(torch.empty(shape, device="meta")) for shape in SHAPES]
    for p in params:
        p.grad = torch.empty_like(p)
    optimizer = recipe.optimizer(params)
    optimizer.step()
    for p in params[1:]:
        p.grad = None
    for _ in range(14):
        optimizer.step()


@ROWS
def test_removing_any_one_link_builds_or_says_why_not(recipe):
    for name in recipe.names:
        try:
            shorter = recipe.without(name)
        except gradchain.ChainError as error:
            slot = re.fullmatch(
                r"'\w+' reads (\w+), but no link before it writes it; links before it: .+\. Put .+ earlier\.", str(error)
            )
            assert slot and slot[1] in recipe[name].writes
        else:
            params = parameters()
            advance(shorter.optimizer(params, lr=1e-3), params, 2)
            assert all(p.isfinite().all() for p in params)


@ROWS
def test_channels_last_parameters_give_the_same_numbers_and_keep_their_strides(recipe):
    plain = [torch.nn.Parameter(torch.randn(4, 3, 3, 3, generator=torch.Generator().manual_seed(0)))]
    strided = [torch.nn.Parameter(plain[0].detach().clone().to(memory_format=torch.channels_last))]
    strides = strided[0].stride()
    advance(recipe.optimizer(plain), plain, 3)
    advance(recipe.optimizer(strided), strided, 3)
    assert strided[0].stride() == strides
    torch.testing.assert_close(strided[0], plain[0], rtol=1e-5, atol=1e-6)


def test_a_link_that_smooths_can_be_added_to_any_preset():
    params = parameters()
    longer = presets.adam().insert_after("normalize", UpdateLaplacian(c2=0.1))
    assert all(p.isfinite().all() for p in advance(longer.optimizer(params), params, 3))
