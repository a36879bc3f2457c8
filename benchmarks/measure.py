"""How a step is measured: against a reference, in turns, so that what else the machine does falls on both."""

from __future__ import annotations

import gc
import statistics
import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._inductor.utils import fresh_cache
from torch.utils._pytree import tree_leaves

from benchmarks.contestants import Make, fused
from benchmarks.workloads import Shapes, made, size

BYTES = 28  # AdamW reads the parameter, its gradient and two moments, and writes all but the gradient


@dataclass
class Result:
    """What one contestant took on one workload."""

    workload: str
    name: str
    ratio: float  # to fused AdamW, median of the rounds
    ms: float  # a step, likewise
    first: float  # seconds of the first step, compilation included
    extra: float  # most bytes in use in a step beside parameters, gradients and state, by the parameters' bytes
    state: float  # bytes of state by the parameters' bytes


def extra(optimizer: Any) -> int:
    """Most bytes that a step allocates and has not freed, as torch's allocator tells the profiler."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        optimizer.step()
    held = most = 0
    events = sorted(profile.profiler.kineto_results.events(), key=lambda event: event.start_ns())  # pyright: ignore
    for event in events:
        if event.name() == "[memory]":
            held += event.nbytes()
            most = max(most, held)
    return most


def state_bytes(optimizer: Any) -> int:
    """Bytes of the tensors in the state, each storage once."""
    leaves = tree_leaves(list(getattr(optimizer, "state", {}).values()))
    storages = {x.untyped_storage().data_ptr(): x.untyped_storage().nbytes() for x in leaves if isinstance(x, Tensor)}
    return sum(storages.values())


def _seconds(optimizer: Any, repeats: int) -> float:
    start = time.perf_counter()
    for _ in range(repeats):
        optimizer.step()
    return (time.perf_counter() - start) / repeats


def paired(workload: str, shapes: Shapes, name: str, make: Make, rounds: int, budget: float) -> Result:
    """The contestant against the reference, in turns, for so many rounds, or at least 3 in ``budget`` seconds."""
    reference, params = fused(made(shapes)), made(shapes)
    with fresh_cache():  # so that the first step compiles
        optimizer = make(params)
        first = _seconds(optimizer, 1)
        for _ in range(2):
            reference.step()
            optimizer.step()
        if first > 1:
            time.sleep(1.5)  # the compiler's workers go to sleep
        repeats = max(1, round(0.02 / max(1e-6, _seconds(reference, 3))))
        rows: list[tuple[float, float]] = []
        end = time.perf_counter() + budget
        while len(rows) < rounds and (len(rows) < 3 or time.perf_counter() < end):
            ours = _seconds(optimizer, repeats)
            rows.append((ours, _seconds(reference, repeats)))
        size_ = 4 * size(shapes)
        result = Result(
            workload,
            name,
            ratio=statistics.median(a / b for a, b in rows),
            ms=1e3 * statistics.median(a for a, _ in rows),
            first=first,
            extra=extra(optimizer) / size_,
            state=state_bytes(optimizer) / size_,
        )
    del optimizer, reference
    gc.collect()
    torch._dynamo.reset()
    return result


def floor(workload: str, shapes: Shapes, rounds: int, elements: int = 1 << 25) -> Result:
    """What AdamW's traffic takes at the bandwidth of an in-place addition, which reads two and writes one."""
    x, y = torch.ones(elements), torch.ones(elements)
    reference = fused(made(shapes))
    reference.step()
    repeats = max(1, round(0.02 / max(1e-6, _seconds(reference, 3))))
    rows: list[tuple[float, float]] = []
    for _ in range(rounds):
        start = time.perf_counter()
        x.add_(y, alpha=0.5)
        ours = (time.perf_counter() - start) / (12 * elements) * BYTES * size(shapes)
        rows.append((ours, _seconds(reference, repeats)))
    ratio, ms = statistics.median(a / b for a, b in rows), 1e3 * statistics.median(a for a, _ in rows)
    return Result(workload, "memory bandwidth floor", ratio, ms, first=0.0, extra=0.0, state=2.0)
