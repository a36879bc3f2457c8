"""Results as a Markdown table and a bar chart, with the machine, the date and the versions they belong to."""

from __future__ import annotations

import datetime
import os
import platform
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from benchmarks.contestants import PACKAGES
from benchmarks.measure import Result

OURS = ("default", "reference", "eager", "compiled", "compiled, CUDA graph")  # drivers, at the end of a contestant's name


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "absent"


def heading(device: str) -> str:
    """Where and when, and with what."""
    machine = f"{_processor()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, {platform.system()}"
    if device == "cuda":
        machine = f"{torch.cuda.get_device_name()}, CUDA {torch.version.cuda}, in a machine with {machine}"
    packages = ", ".join(f"{name} {_version(name)}" for name in ("gradchain", *PACKAGES))
    settings = [f"{key}={value}" for key, value in sorted(os.environ.items()) if key.startswith(("MALLOC_", "OMP_"))]
    today = datetime.datetime.now(tz=datetime.UTC).date()
    versions = f"Python {platform.python_version()}, torch {torch.__version__}; {', '.join([packages, *settings])}"
    return f"{today}, {machine}, {versions}.\n"


def _matrix(results: Sequence[Result]) -> str:
    workloads = list(dict.fromkeys(result.workload for result in results))
    ratios = {(result.name, result.workload): f"{result.ratio:.2f}" for result in results}
    names = dict.fromkeys(result.name for result in results)
    lines = [f"| | {' | '.join(workloads)} |", "|---" * (len(workloads) + 1) + "|"]
    lines += [f"| {name} | {' | '.join(ratios.get((name, one), '-') for one in workloads)} |" for name in names]
    return "\n".join(lines)


def _details(results: Sequence[Result]) -> str:
    head = "| workload | optimizer | ms a step | first step, s | first step again, s | peak extra memory | state |"
    lines = [head, "|---" * 7 + "|"]
    for r in results:
        figures = f"{r.ms:.2f} | {r.first:.2f} | {r.again:.2f} | {100 * r.extra:.1f} % | {r.state:.2f}"
        lines.append(f"| {r.workload} | {r.name} | {figures} |")
    return "\n".join(lines)


def markdown(results: Sequence[Result], skipped: Sequence[str], device: str) -> str:
    parts = [
        "# What a step costs",
        heading(device),
        "Ratios to `torch.optim.AdamW(fused=True)` on the same tensors, measured in turns; medians. On PINN and 4 tensors to "
        "`torch.optim.AdamW(params)`.\n",
        _matrix(results),
        "\nPeak extra memory and state are shares of the parameters' bytes; the first step compiles, and that of one more "
        "optimizer finds its graphs in the compiler's cache.\n",
        _details(results),
        *(["\nSkipped: " + "; ".join(skipped) + "."] if skipped else []),
    ]
    return "\n".join(parts) + "\n"


def chart(results: Sequence[Result], path: Path) -> None:
    """A bar for each contestant in a panel for each workload, logarithmic."""
    from matplotlib.figure import Figure

    workloads = list(dict.fromkeys(result.workload for result in results))
    most = max(sum(r.workload == workload for r in results) for workload in workloads)
    figure = Figure(figsize=(7, (0.22 * most + 0.8) * len(workloads)), layout="constrained")
    axes = figure.subplots(len(workloads), 1, squeeze=False)[:, 0]
    for ax, workload in zip(axes, workloads, strict=True):
        rows = sorted((r for r in results if r.workload == workload), key=lambda r: -r.ratio)
        own = ["C0" if r.name.partition(", ")[2] in OURS else "0.6" for r in rows]
        bars = ax.barh([r.name for r in rows], [r.ratio for r in rows], color=own)
        ax.bar_label(bars, fmt="%.2f", padding=2, fontsize=7)
        ax.axvline(1, color="k", linewidth=0.8)
        ax.set(xscale="log", title=workload)
        ax.tick_params(labelsize=7)
    axes[-1].set_xlabel("step time by that of torch.optim.AdamW(fused=True)")
    figure.savefig(path)


def write(results: Sequence[Result], skipped: Sequence[str], folder: Path, device: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    name = "step_times" if device == "cpu" else f"step_times_{torch.cuda.get_device_name().lower().replace(' ', '_')}"
    (folder / f"{name}.md").write_text(markdown(results, skipped, device))
    chart(results, folder / f"{name}.svg")
