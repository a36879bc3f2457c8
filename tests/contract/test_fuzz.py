"""Random chains of random links: refused with a ChainError when built, or they train, save, load and survive surgery."""

import contextlib
import copy
import io
import warnings
from dataclasses import replace

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from table import TRANSFORMS
from torch import nn
from training import identical

from gradchain import ChainError, ChainWarning, chain
from gradchain import transforms as t

LINKS = {name: link for name, (link, _) in TRANSFORMS.items() if "eager" not in link.traits}
STARTS = {  # what random links are put into, so that many of them find the slots that they read
    "nothing": (),
    "moments": (t.Moments(),),
    "adam": (t.Moments(), t.Normalize()),
    "second": (t.SecondMoment(), t.ResidualMomentum()),
}
SHAPES = st.sampled_from([(), (1,), (3,), (0,), (2, 3), (3, 2), (2, 2, 2), (1, 2, 3, 3)])
DTYPES = st.sampled_from([torch.float32, torch.float32, torch.float64, torch.bfloat16])
NAMES = st.sampled_from(["layer.{}.weight", "a.{}.lora_A", "a.{}.lora_B", "norm.{}.bias"])
COUNT = {"built": 0, "refused": 0}


@st.composite
def recipes(draw):
    """Links in any order, each under a name of its own now and then, with a learning rate somewhere behind."""
    start = STARTS[draw(st.sampled_from(sorted(STARTS)))]
    chosen = draw(st.lists(st.sampled_from(sorted(LINKS)), min_size=0, max_size=4))
    links = [*start, *(LINKS[name] for name in chosen)]
    if draw(st.booleans()):
        links.append(t.LearningRate(lr=draw(st.sampled_from([1e-2, 1e-1]))))
    named = [replace(link, name=f"n{i}") if draw(st.integers(0, 3)) == 0 else link for i, link in enumerate(links)]
    window = draw(st.sampled_from([None, (2, None), (1, 3)]))
    if window and named:
        at = draw(st.integers(0, len(named) - 1))
        named[at] = replace(named[at], window=window)
    return named


@st.composite
def groups(draw):
    """Up to two groups of up to two parameters, with names or without, with values of their own."""
    with_names, made = draw(st.booleans()), []
    for g in range(draw(st.integers(1, 2))):
        random = torch.Generator().manual_seed(g)
        params = []
        for i in range(draw(st.integers(0, 2))):
            value = torch.randn(draw(SHAPES), generator=random).to(draw(DTYPES))
            name = draw(NAMES).format(2 * g + i)
            params.append((name, nn.Parameter(value)) if with_names else nn.Parameter(value))
        made.append({"params": params, **({"lr": 0.05} if draw(st.booleans()) else {})})
    return made


@contextlib.contextmanager
def only_the_warnings_that_belong():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", ChainWarning)
        yield


def loss(optimizer, i):
    total = torch.zeros(())
    for group in optimizer.param_groups:
        for p in group["params"]:
            total = total + (p.double().sin() * (i + 1)).sum()
    return total


def train(optimizer, count, start=0):
    for i in range(start, start + count):

        def closure(i=i):
            optimizer.zero_grad()
            value = loss(optimizer, i)
            if value.requires_grad:
                value.backward()
            return value

        optimizer.step(closure)
    for p in optimizer.state:
        assert p.isfinite().all() and all(v.isfinite().all() for v in optimizer.state[p].values() if v.is_floating_point())


def through_a_file(state):
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def reloaded(recipe, optimizer, clean):
    """The same parameters under another chain, with the state so far."""
    other = recipe.optimizer(copy.deepcopy([{k: g[k] for k in ("params", "param_names") if k in g} for g in named(optimizer)]))
    saved = through_a_file(optimizer.state_dict())
    report = other.load_state_dict(saved)
    assert report.clean or not clean
    if clean:
        assert identical(other.state_dict(), optimizer.state_dict())
    return other


def named(optimizer):
    for group in optimizer.param_groups:
        if "param_names" in group:
            yield {"params": list(zip(group["param_names"], group["params"], strict=True))}
        else:
            yield {"params": list(group["params"])}


@settings(max_examples=520, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
@given(recipes(), groups(), st.integers(0, 5), st.sampled_from(sorted(LINKS)))
def survives(links, params, at, extra):
    with only_the_warnings_that_belong():
        try:
            recipe = chain(*links)
            optimizer = recipe.optimizer(params)
        except ChainError as error:
            assert str(error)
            COUNT["refused"] += 1
            return
        COUNT["built"] += 1
        train(optimizer, 5)
        twin = reloaded(recipe, optimizer, clean=True)
        train(twin, 1, start=5)
        position = min(at, len(recipe.links))
        with contextlib.suppress(ChainError):
            longer = chain(*recipe.links[:position], replace(LINKS[extra], name="extra"), *recipe.links[position:])
            train(reloaded(longer, optimizer, clean=False), 2, start=5)
        for name in recipe.names[:1] + recipe.names[-1:]:
            with contextlib.suppress(ChainError):
                train(reloaded(recipe.without(name), optimizer, clean=False), 2, start=5)


def test_random_chains_are_refused_when_built_or_survive():
    COUNT.update(built=0, refused=0)
    survives()
    assert COUNT["built"] >= 200 and COUNT["built"] + COUNT["refused"] >= 500
