"""What an optimizer tells of itself: figures by link and parameter, findings, the printed table, and nothing read in a step."""

import dataclasses
import json
from dataclasses import dataclass

import pytest
import torch
from table import TRANSFORMS
from torch.utils._python_dispatch import TorchDispatchMode
from training import identical, param, snapshot, steps

from gradchain import SharedTransform, chain, presets
from gradchain import transforms as t


@dataclass(frozen=True, kw_only=True, repr=False)
class Census(SharedTransform):
    """Counts what it is shown."""

    def measure(self, carry, state, ctx):
        return ctx.layout.sum(carry.update)

    def share(self, measured, infos):
        return list(measured)

    def update(self, carry, state, ctx):
        return carry, state

    def findings(self, infos):
        return {"matrices": [i.name for i in infos if i.param.dim() == 2], "vectors": sum(i.param.dim() == 1 for i in infos)}


RECIPE = chain(t.TAM(), t.Moments(), t.Normalize(), t.Cautious(), t.LearningRate(lr=0.1), t.SPD(), t.SpeedLimit(), Census())


def trained(count=3, recipe=RECIPE):
    optimizer = recipe.optimizer([("w", param(4, 5)), ("b", param(5, seed=1))])
    steps(optimizer, count)
    return optimizer


def test_figures_are_those_of_the_state_by_parameter_and_plain():
    optimizer = trained()
    report = optimizer.report()
    states = dict(zip("wb", optimizer.state.values(), strict=True))
    assert report.steps == (3, 3) and list(report.figures) == ["tam", "cautious", "spd", "speed_limit"]
    for name, state in states.items():
        assert report.figures["tam"]["similarity"][name] == state["tam/similarity"].item()
        assert report.figures["cautious"]["masked"][name] == 1 - state["cautious/kept"].item()
        assert report.figures["spd"]["pull"][name] == 0.5 * state["spd/pull"].item()
        assert report.figures["speed_limit"]["factor"][name] == state["speed_limit/factor"].item()
    assert report.findings == {"census": {"matrices": ["w"], "vectors": 1}}
    assert json.loads(json.dumps(dataclasses.asdict(report)))["findings"] == report.findings


def test_the_table_says_it_in_words():
    lines = str(trained().report()).splitlines()
    assert lines[0] == "after 3 steps" and lines[1].split() == ["link", "figure", "mean", "least", "most", "parameters"]
    assert [line.split()[:2] for line in lines[3:9]] == [
        ["tam", "similarity"],
        ["tam", "damping"],
        ["cautious", "masked"],
        ["spd", "active"],
        ["spd", "pull"],
        ["speed_limit", "factor"],
    ]
    assert all(line.split()[-1] == "2" for line in lines[3:9])
    assert lines[9:] == ["census: matrices: 1", "  w", "census: vectors: 1"]


def test_it_works_before_the_first_step_after_a_load_and_on_a_chain_that_has_nothing_to_tell():
    early = RECIPE.optimizer([("w", param(4, 5)), ("b", param(5))])
    assert early.report().figures == {} and early.report().findings["census"]["vectors"] == 1
    assert not early.state
    optimizer = trained()
    early.load_state_dict(optimizer.state_dict())
    assert early.report() == optimizer.report()
    silent = presets.sgd().optimizer([param(3)])
    assert str(silent.report()) == "after 0 steps\nno link of this chain has figures or findings yet"


def test_parameters_that_joined_later_and_links_that_joined_later_are_told_of():
    optimizer = trained()
    optimizer.add_param_group({"params": [("late", param(2))]})
    assert "late" not in optimizer.report().figures["tam"]["similarity"]
    steps(optimizer)
    assert optimizer.report().figures["tam"]["similarity"].keys() == {"w", "b", "late"}
    assert str(optimizer.report()).startswith("after 1 to 4 steps\n")


def test_asking_changes_nothing():
    optimizer = trained()
    before = snapshot(optimizer)
    optimizer.report()
    assert identical(snapshot(optimizer), before)


def test_a_long_finding_is_cut_in_print_and_whole_in_the_data():
    optimizer = RECIPE.optimizer([(f"w{i}", param(2, 2)) for i in range(20)])
    assert len(optimizer.report().findings["census"]["matrices"]) == 20
    assert str(optimizer.report()).splitlines()[-2] == "  ... and 8 more"


def test_parameters_without_numbers_are_nan():
    p = torch.nn.Parameter(torch.empty(3, device="meta"))
    optimizer = RECIPE.optimizer([p])
    p.grad = torch.empty_like(p)
    optimizer.step()
    assert str(optimizer.report().figures["tam"]["similarity"]["0.0"]) == "nan"


class Reads(TorchDispatchMode):
    """Counts reads of tensors by the host."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


def test_the_numbers_of_all_parameters_are_read_together():
    optimizer = RECIPE.optimizer([param(2, seed=i) for i in range(30)])
    steps(optimizer)
    with Reads() as reads:
        optimizer.report()
    assert reads.count <= 30  # the step counts, which live on the host


@pytest.mark.parametrize("link", [row[0] for row in TRANSFORMS.values()], ids=TRANSFORMS)
def test_figures_of_every_transform_are_0d_and_finite_from_the_start(link):
    for p in (param(4, 5), param(1)):
        figures = link.figures(link.init(p.detach()))
        assert all(value.dim() == 0 and value.isfinite() for value in figures.values())


ADAPTIVE = [  # links whose figures or findings tell a user what they are doing
    *("Cautious", "TAM", "SPD", "OriginSPD", "LaggedSPD", "PullToStart"),
    *("SpeedLimit", "GlobalSpeedLimit", "LRMask", "PublishedLRMask", "TensorLRMask", "ElementLRMask"),
    *("Importance", "AbsoluteImportance", "Relations", "LastPartnerRelations"),
    *("AlignmentDamping", "TorqueDamping", "ALoRA", "PublishedALoRA", "LoKrScale", "PublishedLoKrScale", "RelationalGuide"),
]


@pytest.mark.parametrize("name", ADAPTIVE)
def test_every_adaptive_link_tells_something_after_steps(name):
    link, recipe = TRANSFORMS[name]
    named = {"a.lora_A": (2, 4), "a.lora_B": (5, 2), "c.lokr_w1": (2, 3), "c.lokr_w2": (3, 2)}
    optimizer = recipe.optimizer([(key, param(*shape, seed=i)) for i, (key, shape) in enumerate(named.items())])
    steps(optimizer, 3)
    report = optimizer.report()
    assert report.figures.get(link.label) or report.findings.get(link.label)
    assert link.label in str(report)


FIGURES = {  # link -> (its chain, the figure, what it is in terms of the state after steps)
    "ADOPT": (presets.adopt(), "size", lambda s: s["first"].square().mean().sqrt()),
    "AMSGradMoments": (
        presets.amsgrad(betas=(0.9, 0.5)),
        "held",
        lambda s: (s["largest"] > s["second"]).double().mean(),
    ),
    "AdEMAMix": (
        presets.ademamix(alpha=3.0),
        "slow share",
        lambda s: 3 * s["slow"].norm() / (s["first"].norm() + 3 * s["slow"].norm()),
    ),
    "EightBitMomentum": (
        presets.cameamp_original_8bit(),
        "zeros",
        lambda s: (s["average"] == 0).double().mean(),
    ),
    "Kahan": (presets.kahan_adamw(), "carried", lambda s: s["compensation"].norm()),
}


@pytest.mark.parametrize("name", FIGURES)
def test_what_averages_tell(name):
    recipe, figure, wanted = FIGURES[name]
    p = torch.nn.Parameter(torch.linspace(-1, 1, 40).bfloat16())
    optimizer = recipe.optimizer([("p", p)])
    for i in range(6):
        p.grad = torch.where(torch.arange(40) < 10, 0, torch.sin(p.detach().float() * 3 + i)).bfloat16()
        optimizer.step()
    ((label, figures),) = [(label, f) for label, f in optimizer.report().figures.items() if figure in f]
    assert isinstance(recipe[label], getattr(t, name))
    mine = {key.removeprefix(f"{label}/"): value for key, value in optimizer.state[p].items()}
    assert figures[figure]["p"] == pytest.approx(wanted(mine).item(), rel=1e-6) and wanted(mine) > 0
