"""A study as a table, as learning curves, as raw numbers."""

from __future__ import annotations

import json
import math
import statistics
from pathlib import Path
from typing import Any

import torch

from gradchain.chains import Chain
from gradchain.studies.ablation import FULL, Study
from gradchain.studies.extras import needs
from gradchain.studies.statistics import estimate, paired_difference


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3g}"


def _title(study: Study, removed: str) -> str:
    """The link left out, and what had to go with it."""
    if removed == FULL:
        return "none (full chain)"
    left = study.chains[removed].names
    also = [name for name in study.chains[FULL].names if name not in left and name != removed]
    return f"{removed} (+ {', '.join(also)})" if also else removed


def _row(study: Study, removed: str) -> list[str]:
    metrics = study.metrics(removed)
    mean, error = estimate(metrics)
    diverged = sum(not math.isfinite(metric) for metric in metrics)
    cells = [_title(study, removed), f"{_number(mean)} ± {_number(error)}"]
    if removed == FULL:
        cells.append("")
    else:
        change, low, high = paired_difference(metrics, study.metrics(FULL))
        cells.append(f"{change:+.3g} [{_number(low)}, {_number(high)}]" if not math.isnan(change) else "-")
    return [*cells, f"{diverged}/{len(metrics)}" if diverged else ""]


def table(study: Study) -> str:
    """One row per link left out."""
    head = ["link removed", f"{study.task.metric} (± s.e.)", "difference to full [95 % interval]", "diverged"]
    rows = [head, *(_row(study, removed) for removed in study.chains)]
    if not any(row[3] for row in rows[1:]):
        rows = [row[:3] for row in rows]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    lines.insert(1, "  ".join("-" * width for width in widths))
    lines.append(f"{study.preset} on {study.task.name}: {study.steps} steps, seeds {', '.join(map(str, study.seeds))}.")
    if any(run.diverged for run in study.runs):
        lines.append("Means leave out the runs that diverged, differences the seeds in which either run did.")
    if study.skipped:
        lines.append("Not removed: " + ", ".join(f"{name} ({why})" for name, why in study.skipped.items()) + ".")
    return "\n".join(lines)


def _hyperparameters(chain: Chain) -> dict[str, Any]:
    return {key: getattr(link, field) for key, (link, field) in chain.hyperparameters.items()}


def write_runs(study: Study, path: Path) -> None:
    """One JSON line per run."""
    with path.open("w") as file:
        for run in study.runs:
            line = {
                "preset": study.preset,
                "task": study.task.name,
                "metric_name": study.task.metric,
                "removed": run.removed or None,
                "links": study.chains[run.removed].names,
                "chain": repr(study.chains[run.removed]),
                "hyperparameters": _hyperparameters(study.chains[run.removed]),
                "seed": run.seed,
                "steps": study.steps,
                "metric": None if run.diverged else run.metric,  # JSON has no infinity
                "curve": run.curve,
                "torch": torch.__version__,
            }
            file.write(json.dumps(line, default=repr) + "\n")  # a schedule or a tensor as its repr


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
