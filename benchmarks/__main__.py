"""``python -m benchmarks``: measure, print as it goes, write a table and a chart to ``benchmarks/results``."""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Sequence
from pathlib import Path

from benchmarks import contestants
from benchmarks.contestants import Make
from benchmarks.measure import Result, floor, paired
from benchmarks.report import write
from benchmarks.workloads import LARGE, QUICK, RELATIONAL, WORKLOADS, Shapes
from gradchain.optim_wrapper.drivers.parts import SMALL

MANY = 200  # tensors beyond which a graph of all of them takes minutes to compile


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="What a step costs, by fused AdamW.")
    parser.add_argument("--quick", action="store_true", help="two small workloads and few rounds, to try it")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--no-peers", action="store_true", help="our chains alone")
    parser.add_argument("--only", default="", help="contestants whose name matches this pattern")
    parser.add_argument("--workload", default="", help="workloads whose name matches this pattern")
    parser.add_argument("--rounds", type=int, default=0, help="default 15, quick 3")
    parser.add_argument("--budget", type=float, default=20.0, help="seconds for the rounds of one contestant")
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results")
    return parser.parse_args(arguments)


def _plan(options: argparse.Namespace) -> list[tuple[str, Shapes, dict[str, Make]]]:
    peers = {} if options.no_peers else contestants.PEERS
    peers = peers if options.device == "cpu" else contestants.captured() | peers
    plan: list[tuple[str, Shapes, dict[str, Make]]] = []
    if options.quick:
        plan = [(name, shapes, contestants.own(("eager", "compiled")) | peers) for name, shapes in QUICK.items()]
    else:
        workloads = WORKLOADS if options.device == "cpu" else WORKLOADS | LARGE
        for name, shapes in workloads.items():
            flat = contestants.flattened() if max(map(math.prod, shapes)) <= SMALL else {}
            plan.append((name, shapes, contestants.defaults() | contestants.own() | flat | peers))
        plan += [(name, shapes, contestants.relational()) for name, shapes in RELATIONAL.items()]
    return [
        (workload, shapes, {name: make for name, make in makes.items() if re.search(options.only, name)})
        for workload, shapes, makes in plan
        if re.search(options.workload, workload)
    ]


def main(arguments: Sequence[str] | None = None) -> list[Result]:
    options = _options(arguments)
    rounds = options.rounds or (3 if options.quick else 15)
    results: list[Result] = []
    skipped: list[str] = []
    for workload, shapes, makes in _plan(options):
        results.append(floor(workload, shapes, rounds, options.device))
        for name, make in makes.items():
            if name in contestants.COMPILES_ALL_TENSORS and len(shapes) > MANY:
                skipped.append(f"{name} on {workload} (minutes of compilation)")
                continue
            try:
                result = paired(workload, shapes, name, make, rounds, options.budget, options.device)
            except Exception as error:  # whatever is wrong with one contestant, the others are measured
                skipped.append(f"{name} on {workload} ({type(error).__name__}: {str(error).partition(chr(10))[0][:80]})")
                print(f"{workload:22} {skipped[-1]}", flush=True)
                continue
            results.append(result)
            print(
                f"{workload:22} {name:40} {result.ratio:7.2f} of fused, {result.ms:9.2f} ms, first {result.first:6.2f} s, "
                f"extra {100 * result.extra:6.1f} %, state {result.state:5.2f}",
                flush=True,
            )
            write(results, skipped, options.results, options.device)  # a run that is cut short leaves what it has
    write(results, skipped, options.results, options.device)
    return results


if __name__ == "__main__":
    main()
