"""Training a chain, and the same chain without each of its links, on matched seeds."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gradchain.chains.lints import is_off
from gradchain.chains.partition import Recipe
from gradchain.chains.runnable import RecipeOptimizer
from gradchain.studies.tasks import Problem, Task
from gradchain.types import ChainError, Transform

FULL = ""  # the key of the chain with every link
POINTS = 50  # of a learning curve


@dataclass(frozen=True)
class Run:
    """One training run."""

    removed: str  # the link left out, FULL for none; of a partition "<label>/<link>"
    seed: int
    metric: float  # after the last step, at the weights to evaluate with; inf where the run diverged or failed
    curve: tuple[tuple[int, float], ...]  # (steps done, metric)
    error: str = ""  # why the run failed

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
    chains: Mapping[str, Recipe]  # by the link left out; FULL for the whole
    skipped: Mapping[str, str]  # links that were not left out, and why
    runs: tuple[Run, ...]

    def metrics(self, removed: str) -> list[float]:
        """Final metrics in the order of the seeds."""
        return [run.metric for run in self.runs if run.removed == removed]


def train(chain: Recipe, task: Task, seed: int, steps: int, removed: str = FULL) -> Run:
    """One run; it ends early where a point of its learning curve is no longer finite."""
    problem = task.make(seed)
    optimizer = chain.optimizer(problem.named_parameters())
    curve = [(0, measured(problem, optimizer))]
    every = max(1, steps // POINTS)
    for step in range(1, steps + 1):
        _step(problem, optimizer)
        if step % every == 0 or step == steps:
            curve.append((step, measured(problem, optimizer)))
            if not math.isfinite(curve[-1][1]):
                return Run(removed, seed, math.inf, tuple(curve[:-1]))
    return Run(removed, seed, curve[-1][1], tuple(curve))


def measured(problem: Problem, optimizer: RecipeOptimizer[Any]) -> float:
    """The metric at the weights to evaluate with; the training weights are back afterwards, whatever happens."""
    if not hasattr(optimizer, "eval"):  # no link keeps an average
        return problem.metric()
    try:
        optimizer.eval()
        return problem.metric()
    finally:
        optimizer.train()


def _step(problem: Problem, optimizer: RecipeOptimizer[Any]) -> None:
    """A training step. A link that evaluates the loss again in it (SAM, L-BFGS) does so on the same batch."""
    evaluate: Callable[[], Tensor] = problem.loss

    def closure() -> Tensor:
        nonlocal evaluate
        optimizer.zero_grad()
        loss = evaluate()
        evaluate = getattr(problem, "again", problem.loss)
        loss.backward()
        return loss

    if not any(link.traits & {"perturbs", "solves"} for link in optimizer.chain.links):
        closure()
        optimizer.step()
    elif hasattr(problem, "again"):
        optimizer.step(closure)
    else:
        raise ChainError(
            f"the chain evaluates the loss several times in a step; found no again() in {type(problem).__name__}. "
            "Give the problem a method again() that computes the loss on the batch of the last loss()."
        )


def links_by_name(chain: Recipe) -> Iterator[tuple[str, Transform[Any]]]:
    """The links by the names under which ``ablations()`` has them; in a partition the label stands ahead."""
    for label, part in chain.parts.items():
        yield from ((f"{label}/{link.label}" if label else link.label, link) for link in part.links)


def variants(chain: Recipe) -> tuple[dict[str, Recipe], dict[str, str]]:
    """The chains to train, by the link left out, and the links that are kept, with the reason."""
    shorter: dict[str, Recipe] = dict(chain.ablations())
    kept: dict[str, str] = {}
    for name, link in links_by_name(chain):
        if is_off(link):
            shorter.pop(name, None)
            kept[name] = "off: " + ", ".join(f"{field}={value:g}" for field, value in link.off.items())
        elif name not in shorter:
            kept[name] = "not removable"
    return {FULL: chain, **shorter}, kept


def ablate(
    chain: Recipe,
    task: Task,
    seeds: Iterable[int],
    steps: int | None = None,
    preset: str = "chain",
    progress: Callable[[Iterable[Any]], Iterable[Any]] = iter,
    on_run: Callable[[Run, Recipe], None] = lambda run, chain: None,
) -> Study:
    """Train the chain and each of its ablations from the same starts.

    ``progress`` wraps the iteration over runs, as ``tqdm.tqdm`` does; ``on_run`` is called with every run as it ends and with
    the chain it trained. A run that raises counts as diverged and says why in ``Run.error``, so that the other runs are not
    lost; where all runs raise, so does this. Runs use torch's own random state only where a task draws from it, seeded by the
    task.
    """
    chains, skipped = variants(chain)
    numbers, length = tuple(seeds), steps or task.steps
    plan = [(removed, seed) for removed in chains for seed in numbers]
    runs: list[Run] = []
    first: Exception | None = None
    with torch.random.fork_rng(devices=[]):
        for removed, seed in progress(plan):
            try:
                run = train(chains[removed], task, seed, length, removed)
            except Exception as error:  # a link or a task may raise anything
                run, first = Run(removed, seed, math.inf, (), f"{type(error).__name__}: {error}"), first or error
            runs.append(run)
            on_run(run, chains[removed])
    if first is not None and all(run.error for run in runs):
        raise first
    return Study(preset, task, length, numbers, chains, skipped, tuple(runs))
