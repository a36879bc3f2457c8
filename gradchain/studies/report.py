"""A study as a table, as learning curves, as raw numbers."""

from __future__ import annotations

import json
import math
import statistics
from pathlib import Path
from typing import Any

import torch

from gradchain.chains.partition import Recipe
from gradchain.studies.ablation import FULL, Run, Study, links_by_name
from gradchain.studies.extras import needs
from gradchain.studies.statistics import estimate, paired_difference
from gradchain.studies.tasks import Task


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3g}"


def _names(chain: Recipe) -> list[str]:
    return [name for name, _ in links_by_name(chain)]


def _title(study: Study, removed: str) -> str:
    """The link left out, and what had to go with it."""
    if removed == FULL:
        return "none (full chain)"
    left = _names(study.chains[removed])
    also = [name for name in _names(study.chains[FULL]) if name not in left and name != removed]
    return f"{removed} (+ {', '.join(also)})" if also else removed


def _row(study: Study, removed: str, plus_minus: str) -> list[str]:
    metrics = study.metrics(removed)
    mean, error = estimate(metrics)
    diverged = sum(not math.isfinite(metric) for metric in metrics)
    cells = [_title(study, removed), f"{_number(mean)} {plus_minus} {_number(error)}"]
    if removed == FULL:
        cells.append("")
    else:
        change, low, high = paired_difference(metrics, study.metrics(FULL))
        cells.append(f"{change:+.3g} [{_number(low)}, {_number(high)}]" if not math.isnan(change) else "-")
    return [*cells, f"{diverged}/{len(metrics)}" if diverged else ""]


def table(study: Study, plus_minus: str = "±") -> str:
    """One row per link left out; ``plus_minus`` stands before standard errors, "+-" where a terminal has ASCII alone."""
    head = ["link removed", f"{study.task.metric} ({plus_minus} s.e.)", "difference to full [95 % interval]", "diverged"]
    rows = [head, *(_row(study, removed, plus_minus) for removed in study.chains)]
    if not any(row[3] for row in rows[1:]):
        rows = [row[:3] for row in rows]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    lines.insert(1, "  ".join("-" * width for width in widths))
    lines.append(f"{study.preset} on {study.task.name}: {study.steps} steps, seeds {', '.join(map(str, study.seeds))}.")
    if any(run.diverged for run in study.runs):
        lines.append("Means leave out the runs that diverged, differences the seeds in which either run did.")
    if failed := [run for run in study.runs if run.error]:
        lines.append("Runs that failed count as diverged:")
        lines += [f"  {_title(study, run.removed)}, seed {run.seed}: {run.error}" for run in failed]
    if study.skipped:
        lines.append("Not removed: " + ", ".join(f"{name} ({why})" for name, why in study.skipped.items()) + ".")
    return "\n".join(lines)


def _hyperparameters(chain: Recipe) -> dict[str, Any]:
    """By their keys in parameter groups; in a partition the label stands ahead."""
    return {
        f"{label}/{key}" if label else key: getattr(link, field)
        for label, part in chain.parts.items()
        for key, (link, field) in part.hyperparameters.items()
    }


def run_line(run: Run, chain: Recipe, preset: str, task: Task, steps: int) -> str:
    """A run as a line of JSON, with the chain that it trained."""
    line = {
        "preset": preset,
        "task": task.name,
        "metric_name": task.metric,
        "removed": run.removed or None,
        "links": _names(chain),
        "chain": repr(chain),
        "hyperparameters": _hyperparameters(chain),
        "seed": run.seed,
        "steps": steps,
        "metric": None if run.diverged else run.metric,  # JSON has no infinity
        "curve": run.curve,
        "error": run.error or None,
        "torch": torch.__version__,
    }
    return json.dumps(line, default=repr)  # a schedule or a tensor as its repr


def write_runs(study: Study, path: Path) -> None:
    """One JSON line per run."""
    lines = [run_line(run, study.chains[run.removed], study.preset, study.task, study.steps) for run in study.runs]
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def draw_curves(study: Study, path: Path) -> None:
    """The metric over the steps: faint per seed, strong their geometric mean, on a logarithmic axis."""
    figure = needs("matplotlib.figure").Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    for i, removed in enumerate(study.chains):
        curves = [run.curve for run in study.runs if run.removed == removed]
        for curve in curves:
            axes.plot(*zip(*curve, strict=True), color=f"C{i}", alpha=0.25, linewidth=0.8)
        together = [points for points in zip(*curves, strict=False) if all(value > 0 for _, value in points)]
        middle = [(points[0][0], statistics.geometric_mean([value for _, value in points])) for points in together]
        label = "full chain" if removed == FULL else f"without {_title(study, removed)}"
        if middle:
            axes.plot(*zip(*middle, strict=True), color=f"C{i}", linewidth=2, label=label)
    axes.set(xlabel="step", ylabel=study.task.metric, yscale="log", title=f"{study.preset} on {study.task.name}")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)
