"""What every transform promises, whatever it computes."""

import copy
import pickle
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from links import advance as apply
from table import TRANSFORMS

from gradchain import transforms
from gradchain._fields import is_dynamic
from gradchain.optim_wrapper.layouts import WHOLE
from gradchain.types import Carry, Context

SOURCES = Path(transforms.__file__).parent
ROWS = pytest.mark.parametrize("link", [row[0] for row in TRANSFORMS.values()], ids=TRANSFORMS)
SHAPES = pytest.mark.parametrize("shape", [(1,), (7,), (0,), (5, 6), (2, 9), (4, 3, 3, 3)], ids=str)
SLOTS = Carry._fields


def f64(value):
    return torch.tensor(value, dtype=torch.float64)


def context(step=1, lr=0.1):
    return Context(step=f64(float(step)), lr=f64(lr), shared=None, layout=WHOLE)


def carry(shape, dtype=torch.float64, seed=0, scale=1.0, kind=Carry):
    random = torch.Generator().manual_seed(seed)
    grad, param, second, signal, residual = (torch.randn(shape, generator=random, dtype=dtype) * scale for _ in range(5))
    moment, one = second.square(), f64(1.0)
    slots = {"processed": signal, "residual": residual, "regularized": moment}
    slots |= {slot: one.clone() for slot in ("scale", "bump_scale", "eps_scale")}
    return kind(grad, param, grad.clone(), moment, gate=one, **slots, branches=one.clone())


def state_of(link, flow, steps=2):
    """A state that has seen some gradients, and the step that comes next."""
    state = link.init(flow.param)
    for step in range(1, steps + 1):
        _, state = apply(link, carry(flow.param.shape, flow.param.dtype, seed=step), state, context(step))
    return state, context(steps + 1)


def test_every_transform_has_a_row():
    assert set(TRANSFORMS) == set(transforms.__all__) - {"Phase"}


def scaled(flow, out):
    """The flow that was given; a scale may have become one like the parameter."""
    return flow._replace(**{slot: flow.update for slot in ("scale", "bump_scale") if getattr(out, slot).dim()})


@ROWS
@SHAPES
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["f32", "f64"])
def test_shapes_and_dtypes_are_kept_and_nothing_given_is_edited(link, shape, dtype):
    flow = carry(shape, dtype)
    state, ctx = state_of(link, flow)
    before = copy.deepcopy((flow, state))
    new_flow, new_state = apply(link, flow, state, ctx)
    for old, given in zip((*before[0], *before[1]), (*flow, *state), strict=True):
        assert torch.equal(old, given)
    for given, new in zip((*scaled(flow, new_flow), *state), (*new_flow, *new_state), strict=True):
        assert (new.shape, new.dtype) == (given.shape, given.dtype)
        assert new.isfinite().all()


@ROWS
def test_the_same_inputs_give_the_same_outputs_bit_for_bit(link):
    flow = carry((5, 6))
    state, ctx = state_of(link, flow)
    once, again = apply(link, flow, state, ctx), apply(link, flow, state, ctx)
    assert all(torch.equal(a, b) for a, b in zip((*once[0], *once[1]), (*again[0], *again[1]), strict=True))


def spying():
    seen = set()

    class Spy(Carry):
        pass

    for i, slot in enumerate(SLOTS):
        setattr(Spy, slot, property(lambda self, i=i, slot=slot: (seen.add(slot), tuple.__getitem__(self, i))[1]))
    return Spy, seen


@ROWS
def test_it_reads_and_writes_what_it_says(link):
    kind, seen = spying()
    changed = set()
    for shape in [(7,), (5, 6)]:  # some links have nothing to do with one or the other
        flow = carry(shape, kind=kind)
        out, _ = apply(link, flow, link.init(carry(shape).param), context())
        slots = enumerate(SLOTS)
        changed |= {slot for i, slot in slots if tuple.__getitem__(out, i) is not tuple.__getitem__(flow, i)}
    assert (seen, changed) == (link.reads, link.writes)


@ROWS
@SHAPES
def test_zero_gradients_stay_finite(link, shape):
    flow = carry(shape)
    flow = flow._replace(grad=flow.grad * 0, update=flow.update * 0, second_moment=flow.second_moment * 0)
    state = link.init(flow.param)
    for step in (1, 2, 3):
        out, state = apply(link, flow, state, context(step))
        assert out.update.isfinite().all() and out.second_moment.isfinite().all()


@ROWS
@pytest.mark.parametrize("shape", [(7,), (5, 6), (4, 3, 3, 3)], ids=str)
def test_a_stack_under_vmap_equals_one_by_one(link, shape):
    flows = [carry(shape, seed=seed) for seed in range(3)]
    states = [state_of(link, flow)[0] for flow in flows]
    ctx = context(3)
    one_by_one = [apply(link, flow, state, ctx) for flow, state in zip(flows, states, strict=True)]
    stack = [type(flows[0])(*map(torch.stack, zip(*flows, strict=True)))]
    stack.append(link.State(*map(torch.stack, zip(*states, strict=True))))
    out = torch.func.vmap(lambda flow, state: apply(link, flow, state, ctx))(*stack)
    for i, single in enumerate(one_by_one):
        for whole, part in zip((*out[0], *out[1]), (*single[0], *single[1]), strict=True):
            torch.testing.assert_close(whole[i], part, rtol=1e-12, atol=1e-14)


@ROWS
def test_numbers_and_tensors_for_hyperparameters_are_the_same(link):
    changes = {}
    for field in link.hyperparameters():
        value = getattr(link, field)
        if is_dynamic(type(link), field) and value is not None:
            changes[field] = tuple(map(f64, value)) if isinstance(value, tuple) else f64(value)
    flow = carry((5, 6))
    state, ctx = state_of(link, flow)
    plain, tensors = apply(link, flow, state, ctx), apply(replace(link, **changes), flow, state, ctx)
    for a, b in zip((*plain[0], *plain[1]), (*tensors[0], *tensors[1]), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-13, atol=1e-15)


@ROWS
@SHAPES
def test_it_runs_on_the_meta_device(link, shape):
    flow = Carry(*(x.to("meta") for x in carry(shape)))
    state = link.init(flow.param)
    out, new_state = apply(link, flow, state, context())
    for given, new in zip((*scaled(flow, out), *state), (*out, *new_state), strict=True):
        assert new.is_meta and (new.shape, new.dtype) == (given.shape, given.dtype)


@ROWS
def test_channels_last_tensors_give_the_numbers_of_contiguous_ones(link):
    def strided(x):
        return x.to(memory_format=torch.channels_last) if x.dim() == 4 else x

    flow = carry((4, 3, 3, 3))
    state, ctx = state_of(link, flow)
    plain = apply(link, flow, state, ctx)
    other = apply(link, Carry(*map(strided, flow)), link.State(*map(strided, state)), ctx)
    for a, b in zip((*plain[0], *plain[1]), (*other[0], *other[1]), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)
    kept = link.init(strided(flow.param))
    assert all(x.is_contiguous(memory_format=torch.channels_last) for x in kept if x.shape == flow.param.shape)


@pytest.mark.parametrize("link", [row[0] for row in TRANSFORMS.values() if row[0].off], ids=lambda link: link.label)
def test_off_is_off(link):
    flow = carry((5, 6))
    out, _ = apply(replace(link, **link.off), flow, link.init(flow.param), context())
    assert all(torch.equal(a, b) for a, b in zip(flow, out, strict=True))


@ROWS
def test_it_can_be_pickled_copied_and_written_down(link):
    assert pickle.loads(pickle.dumps(link)) == link
    assert copy.deepcopy(link) == link
    assert eval(repr(link), {**vars(transforms), "inf": torch.inf}) == link


@pytest.mark.parametrize("path", [p for p in SOURCES.glob("*.py") if not p.name.startswith("_")], ids=lambda path: path.stem)
def test_the_source_keeps_the_rules(path):
    text = path.read_text()
    header, code = text.split('"""', 2)[1:]
    for word in ("Reads", "Writes", "State", "Cost", "Shapes", "Units", "Place", "Fields", "Raises", "Source", "Differs"):
        assert re.search(rf"(^|   ){word} +\S", header, re.MULTILINE), f"{path.name} says nothing of {word}"
    for banned in (
        r"\.item\(",
        r"\bfloat\(",
        r"\.tolist\(",
        r"\.cpu\(",
        r"_foreach_",
        r"\.[a-z]\w*(?<!_)_\(",
        r"torch\.roll",
        r"conv[12]d",
    ):
        assert not re.search(banned, code), f"{path.name} has {banned}"
