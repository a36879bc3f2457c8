"""How a step is measured: against a reference, in turns, so that what else the machine does falls on both."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._inductor.utils import fresh_cache
from torch.utils._pytree import tree_leaves

from benchmarks.contestants import Make, fused, plain
from benchmarks.workloads import SMALL, Shapes, made, size

BYTES = 28  # AdamW reads the parameter, its gradient and two moments, and writes all but the gradient


@dataclass
class Result:
    """What one contestant took on one workload."""

    workload: str
    name: str
    ratio: float  # to fused AdamW, median of the rounds
    ms: float  # a step, likewise
    first: float  # seconds of the first step, compilation included
    again: float  # the same for one more optimizer, whose graphs are found in the compiler's cache on disk
    extra: float  # most bytes in use in a step beside parameters, gradients and state, by the parameters' bytes
    state: float  # bytes of state by the parameters' bytes


def extra(optimizer: Any, device: str) -> int:
    """Most bytes that a step allocates and has not freed, as torch's allocator tells."""
    if device == "cuda":
        held = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        getattr(optimizer, "plain", optimizer).step()  # what a graph keeps for itself is not told
        return torch.cuda.max_memory_allocated() - held
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        optimizer.step()
    held = most = 0
    events = sorted(profile.profiler.kineto_results.events(), key=lambda event: event.start_ns())  # pyright: ignore
    for event in events:
        if event.name() == "[memory]":
            held += event.nbytes()  # pyright: ignore
            most = max(most, held)
    return most


def state_bytes(optimizer: Any) -> int:
    """Bytes of the tensors in the state, each storage once."""
    leaves = tree_leaves(list(getattr(optimizer, "state", {}).values()))
    storages = {x.untyped_storage().data_ptr(): x.untyped_storage().nbytes() for x in leaves if isinstance(x, Tensor)}
    return sum(storages.values())


def _seconds(step: Callable[[], Any], repeats: int, device: str) -> float:
    """Of one step, until the device has done it."""
    _wait(device)
    start = time.perf_counter()
    for _ in range(repeats):
        step()
    _wait(device)
    return (time.perf_counter() - start) / repeats


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def _repeats(reference: Any, device: str) -> int:
    """Steps of which one time is taken: 20 ms and more."""
    return max(1, round(0.02 / max(1e-6, _seconds(reference.step, 3, device))))


def paired(workload: str, shapes: Shapes, name: str, make: Make, rounds: int, budget: float, device: str) -> Result:
    """The contestant against the reference, in turns, for so many rounds, or at least 3 in ``budget`` seconds."""
    reference, params = reference_of(workload)(made(shapes, device)), made(shapes, device)
    with fresh_cache():  # so that the first step compiles
        start = time.perf_counter()
        optimizer = make(params)
        _seconds(optimizer.step, 1, device)
        first = time.perf_counter() - start
        again = _first_step_again(make, shapes, device) if first > 1 else first
        for _ in range(2):
            reference.step()
            optimizer.step()
        if first > 1:
            time.sleep(1.5)  # the compiler's workers go to sleep
        repeats = _repeats(reference, device)
        rows: list[tuple[float, float]] = []
        end = time.perf_counter() + budget
        while len(rows) < rounds and (len(rows) < 3 or time.perf_counter() < end):
            ours = _seconds(optimizer.step, repeats, device)
            rows.append((ours, _seconds(reference.step, repeats, device)))
        size_ = 4 * size(shapes)
        result = Result(
            workload,
            name,
            ratio=statistics.median(a / b for a, b in rows),
            ms=1e3 * statistics.median(a for a, _ in rows),
            first=first,
            again=again,
            extra=extra(optimizer, device) / size_,
            state=state_bytes(optimizer) / size_,
        )
    del optimizer, reference
    gc.collect()
    torch._dynamo.reset()
    return result


def _first_step_again(make: Make, shapes: Shapes, device: str) -> float:
    """Seconds of a first step whose compiled graphs are on disk already."""
    torch._dynamo.reset()
    params = made(shapes, device)
    start = time.perf_counter()
    _seconds(make(params).step, 1, device)
    return time.perf_counter() - start


def reference_of(workload: str) -> Make:
    """The optimizer by whose time others are divided."""
    return plain if workload in SMALL else fused


def floor(workload: str, shapes: Shapes, rounds: int, device: str) -> Result:
    """What AdamW's traffic takes at the memory's bandwidth."""
    copy, moved = _streaming(device)
    reference = reference_of(workload)(made(shapes, device))
    reference.step()
    repeats = _repeats(reference, device)
    rows: list[tuple[float, float]] = []
    for _ in range(rounds):
        ours = _seconds(copy, 1 if device == "cpu" else 20, device) / moved * BYTES * size(shapes)
        rows.append((ours, _seconds(reference.step, repeats, device)))
    ratio, ms = statistics.median(a / b for a, b in rows), 1e3 * statistics.median(a for a, _ in rows)
    return Result(workload, "memory bandwidth floor", ratio, ms, first=0.0, again=0.0, extra=0.0, state=2.0)


def _streaming(device: str) -> tuple[Callable[[], Any], int]:
    """What moves memory at full speed, and how many bytes: an addition in place, or a copy on a GPU."""
    elements = 1 << (25 if device == "cpu" else 28)
    x, y = torch.ones(elements, device=device), torch.ones(elements, device=device)
    return (lambda: x.copy_(y), 8 * elements) if device == "cuda" else (lambda: x.add_(y, alpha=0.5), 12 * elements)
