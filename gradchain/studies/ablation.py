"""Training a chain, and the same chain without each of its links, on matched seeds."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from gradchain.chains import Chain
from gradchain.chains.lints import is_off
from gradchain.studies.tasks import Task

FULL = ""  # the key of the chain with every link
POINTS = 50  # of a learning curve


@dataclass(frozen=True)
class Run:
    """One training run."""

    removed: str  # the link left out, FULL for none
    seed: int
    metric: float  # after the last step; inf where the run diverged
    curve: tuple[tuple[int, float], ...]  # (steps done, metric)

    @property
    def diverged(self) -> bool:
        return not math.isfinite(self.metric)


@dataclass(frozen=True)
class Study:
    """All runs of an ablation."""

    preset: str
    task: Task
    steps: int
    seeds: tuple[int, ...]
    chains: Mapping[str, Chain]  # by the link left out; FULL for the whole
    skipped: Mapping[str, str]  # links that were not left out, and why
    runs: tuple[Run, ...]

    def metrics(self, removed: str) -> list[float]:
        """Final metrics in the order of the seeds."""
        return [run.metric for run in self.runs if run.removed == removed]


def train(chain: Chain, task: Task, seed: int, steps: int, removed: str = FULL) -> Run:
    """One run; it ends early where a point of its learning curve is no longer finite."""
    problem = task.make(seed)
    optimizer = chain.optimizer(problem.named_parameters())
    curve = [(0, problem.metric())]
    every = max(1, steps // POINTS)
    for step in range(1, steps + 1):
        optimizer.zero_grad()
        loss = problem.loss()
        loss.backward()
        optimizer.step()
        if step % every == 0 or step == steps:
            curve.append((step, problem.metric()))
            if not math.isfinite(curve[-1][1]):
                return Run(removed, seed, math.inf, tuple(curve[:-1]))
    return Run(removed, seed, curve[-1][1], tuple(curve))


def variants(chain: Chain) -> tuple[dict[str, Chain], dict[str, str]]:
    """The chains to train, by the link left out, and the links that are kept, with the reason."""
    shorter = chain.ablations()
    kept: dict[str, str] = {}
    for link in chain.links:
        if is_off(link):
            shorter.pop(link.label, None)
            kept[link.label] = "off: " + ", ".join(f"{field}={value:g}" for field, value in link.off.items())
        elif link.label not in shorter:
            kept[link.label] = "not removable"
    return {FULL: chain, **shorter}, kept


def ablate(
    chain: Chain,
    task: Task,
    seeds: Iterable[int],
    steps: int | None = None,
    preset: str = "chain",
    progress: Callable[[Iterable[Any]], Iterable[Any]] = iter,
) -> Study:
    """Train the chain and each of its ablations from the same starts.

    ``progress`` wraps the iteration over runs, as ``tqdm.tqdm`` does. Runs use torch's own random state only where a task
    draws from it, seeded by the task.
    """
    chains, skipped = variants(chain)
    numbers, length = tuple(seeds), steps or task.steps
    plan = [(removed, seed) for removed in chains for seed in numbers]
    with torch.random.fork_rng(devices=[]):
        runs = tuple(train(chains[removed], task, seed, length, removed) for removed, seed in progress(plan))
    return Study(preset, task, length, numbers, chains, skipped, runs)
