"""Ablations: which weights are measured, links that need a closure, partitions, runs that fail."""

import json
import math

import pytest
import torch
from torch import nn

from gradchain import ChainError, chain, from_torch, partition, presets
from gradchain import transforms as t
from gradchain.chains import matrices
from gradchain.studies import TASKS, Task, ablate
from gradchain.studies.ablation import FULL, measured, train, variants
from gradchain.studies.catalogue import PRESETS
from gradchain.studies.report import table, write_runs

SAM = chain(t.SAM(rho=0.05), presets.sgd(lr=0.1))


class Line:
    """x^2 from 1, whose evaluation and batches are looked at."""

    def __init__(self, seed=0):
        self.x = nn.Parameter(torch.ones(()))
        self.seen = []
        self.calls = []

    def named_parameters(self):
        return [("x", self.x)]

    def loss(self):
        self.calls.append("loss")
        return self.x.square()

    def again(self):
        self.calls.append("again")
        return self.x.square()

    def metric(self):
        self.seen.append(self.x.item())
        return self.seen[-1] ** 2


def lines(kind=Line):
    """A task, and the problems that were made of it."""
    made = []

    def make(seed):
        made.append(kind(seed))
        return made[-1]

    return Task("line", "", "square", 10, make), made


@pytest.mark.parametrize("recipe", [chain(presets.sgd(lr=0.1), t.WeightEMA(ema_decay=0.9)), presets.schedule_free_sgd(lr=0.1)])
def test_averages_are_measured_at_the_average_and_training_goes_on_as_without(recipe):
    task, (made) = lines()
    run = train(recipe, task, 0, 5)
    optimizer = recipe.optimizer([("x", twin := nn.Parameter(torch.ones(())))])
    wanted = [1.0]
    for _ in range(5):
        optimizer.zero_grad()
        twin.square().backward()
        optimizer.step()
        optimizer.eval()
        wanted.append(twin.item())
        optimizer.train()
    assert made[0].seen == wanted and [value for _, value in run.curve] == [x**2 for x in wanted]
    assert made[0].x.item() == twin.item() != wanted[-1]


def test_leaving_an_average_out_changes_the_metric():
    study = ablate(chain(presets.sgd(lr=0.1), t.WeightEMA(ema_decay=0.95)), lines()[0], range(1), 20)
    assert abs(study.metrics("weight_ema")[0] - study.metrics(FULL)[0]) > 1e-3


def test_the_training_weights_are_back_when_an_evaluation_raises():
    problem = Line()
    optimizer = chain(presets.sgd(lr=0.1), t.WeightEMA(ema_decay=0.9)).optimizer(problem.named_parameters())
    for _ in range(3):
        problem.x.grad = torch.ones(())
        optimizer.step()
    before = problem.x.item()

    def broken():
        assert problem.x.item() != before
        raise RuntimeError("no data")

    problem.metric = broken
    with pytest.raises(RuntimeError, match="no data"):
        measured(problem, optimizer)
    assert problem.x.item() == before and optimizer.param_groups[0]["train_mode"]


def test_a_link_that_climbs_gets_its_second_gradient_on_the_same_batch():
    task, made = lines()
    study = ablate(SAM, task, range(1), 2)
    assert not any(run.error for run in study.runs)
    assert [problem.calls for problem in made] == [["loss", "again"] * 2, ["loss"] * 2]
    digits = TASKS["digits"].make(0)
    assert torch.equal(digits.loss(), digits.again()) and not torch.equal(digits.again(), digits.loss())


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("recipe", [SAM, chain(from_torch(torch.optim.LBFGS, lr=0.1, max_iter=3))], ids=["sam", "lbfgs"])
def test_chains_that_need_a_closure_train_on_every_task(recipe, task):
    run = train(recipe, TASKS[task], 0, 2)
    assert math.isfinite(run.metric) and run.metric != run.curve[0][1]


def test_the_batches_of_a_chain_that_climbs_are_those_of_the_others():
    still = (chain(t.SAM(rho=0.0), presets.sgd(lr=0.0)), presets.sgd(lr=0.0))
    found = []
    for recipe in still:
        problem = TASKS["digits"].make(3)
        train(recipe, Task("digits", "", "", 3, lambda seed, problem=problem: problem), 3, 3)
        found.append(problem.batch)
    assert torch.equal(*found)


def test_a_problem_without_a_second_loss_is_told_what_it_lacks():
    class Once(Line):
        again = property()  # no such attribute

    with pytest.raises(ChainError, match=r"found no again\(\) in Once. Give the problem a method again\(\)"):
        train(SAM, lines(Once)[0], 0, 2)


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.filterwarnings("ignore:.*no parameter falls to 'muon'")
def test_every_preset_that_is_listed_can_be_ablated(name, tmp_path):
    study = ablate(getattr(presets, name)(), TASKS["quadratic"], range(1), steps=2, preset=name)
    assert not [run.error for run in study.runs if run.error]
    assert table(study).startswith("link removed")
    write_runs(study, tmp_path / "runs.jsonl")
    assert len((tmp_path / "runs.jsonl").read_text().splitlines()) == len(study.runs) == len(study.chains)


def test_a_partition_is_ablated_link_by_link_of_each_label(tmp_path):
    recipe = partition({"big": presets.adam(), "small": presets.sgd(momentum=0.9)}, by={"big": matrices})
    chains, kept = variants(recipe)
    assert list(chains) == [FULL, "big/moments", "big/normalize", "small/momentum"]
    assert kept["big/l2"] == "off: weight_decay=0" and kept["small/learning_rate"] == "not removable"
    study = ablate(recipe, TASKS["digits"], range(2), 3)
    assert "big/moments (+ big/normalize)" in table(study)
    write_runs(study, tmp_path / "runs.jsonl")
    first = json.loads((tmp_path / "runs.jsonl").read_text().splitlines()[0])
    assert first["hyperparameters"]["small/momentum"] == 0.9 and "big/betas" in first["hyperparameters"]
    assert "small/momentum" in first["links"]


class Fails(Line):
    """Raises where the chain has no momentum, which shows in the second step."""

    def __init__(self, seed):
        super().__init__()
        self.seed = seed

    def loss(self):
        if self.seed == 1 and len(self.calls) > 1:
            raise RuntimeError("out of memory")
        return super().loss()


def test_a_run_that_raises_does_not_lose_the_others():
    kept = []
    study = ablate(presets.sgd(momentum=0.9), lines(Fails)[0], range(3), 4, on_run=lambda run, trained: kept.append(run))
    assert [run.error for run in study.runs] == ["", "RuntimeError: out of memory", ""] * 2
    assert tuple(kept) == study.runs and study.runs[1].diverged
    assert "  momentum, seed 1: RuntimeError: out of memory" in table(study).splitlines()
    assert "1/3" in table(study)


def test_where_every_run_raises_so_does_the_study():
    with pytest.raises(RuntimeError, match="out of memory"):
        ablate(presets.sgd(momentum=0.9), lines(Fails)[0], [1, 1], 4)
