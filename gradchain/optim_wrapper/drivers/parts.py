"""Which parameters run together: small ones in buffers or stacks, those of a fused kernel in lists, large ones alone."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from gradchain.optim_wrapper.drivers.bundles import BUNDLE
from gradchain.optim_wrapper.drivers.flow import compute_dtype
from gradchain.optim_wrapper.drivers.fused import Kernel, kernel_of
from gradchain.optim_wrapper.drivers.program import split
from gradchain.optim_wrapper.drivers.sharded import asks_nothing, cut, cut_alike, near
from gradchain.optim_wrapper.drivers.tiles import rows_of_tile
from gradchain.optim_wrapper.layouts import is_sharded
from gradchain.optim_wrapper.numbers import counts
from gradchain.optim_wrapper.rows import Row
from gradchain.optim_wrapper.shards import local, view_of
from gradchain.optim_wrapper.traffic import watched
from gradchain.types import SharedTransform

SMALL = 1 << 15  # elements of a parameter up to which stacking costs less than running it alone
STACK = 1 << 17  # elements of a stack, so that what it is worked out with stays in a core's cache
NATIVE = 1 << 24  # elements of a bucket that C++ functions step, parameter by parameter
ACCELERATED = 1 << 20  # the same off the CPU, where a launch costs more
TINY = 1 << 10  # elements of a parameter up to which a stack costs less than a place in a list for a kernel
MANY = 64  # of one shape, for which a stack is worth its making
BUNDLED = 1 << 24  # elements of a bundle: with more, the GPU takes longer for each than the host for a call
LISTED = 1 << 22  # elements of a parameter on a GPU up to which a place in a kernel's list costs less than a graph


class Part(NamedTuple):
    """Parameters that run together."""

    rows: list[Row]
    kernel: Kernel | None  # which makes the whole step
    stacked: bool  # small ones of one shape, with one state; otherwise a list for a kernel, some of one shape, or one alone
    flat: bool = False  # small ones of any shapes, in one buffer
    large: bool = False  # others of any shapes, which C++ functions step where they are


def parted(
    rows: Iterable[Row], common: Callable[[Row], Hashable], compile: bool, flatten: bool, native: bool
) -> tuple[list[Part], list[Row]]:
    """The parts, and what runs one by one. common: what those that run together must have in common, beside their shapes."""
    odd: list[Row] = []
    alike: dict[tuple[Kernel | None, Hashable, tuple[Any, ...]], list[Row]] = {}
    asked: dict[Hashable, bool] = {}
    for row in rows:
        ordinary = _ordinary(row)
        kernel = kernel_of(row) if ordinary and not (compile and _graph_is_faster(row.info.param)) else None
        if ordinary and (kernel or not is_sharded(row.info.param) or _is_local(row, compile, asked)):
            alike.setdefault((kernel, common(row), _form(row)), []).append(row)
        else:
            odd.append(row)
    parts: list[Part] = []
    lists: dict[tuple[Kernel, Hashable], list[Row]] = {}
    small: dict[Hashable, list[Row]] = {}
    stencils: dict[Hashable, bool] = {}
    large: dict[Hashable, list[Row]] = {}
    tiny = sum(len(kind) for (kernel, *_), kind in alike.items() if kernel is None and is_tiny(kind[0]))
    for (kernel, shared, form), kind in alike.items():
        if kernel is None and _flat(kind[0], compile and not flatten and not native, tiny) and _counts_on_host(kind[0]):
            dtypes = tuple((key, dtype) for key, _, dtype in form[-1])
            small.setdefault((shared, dtypes), []).extend(kind)
            continue
        if kernel is None and native and _is_for_native(kind[0], compile, stencils):
            dtypes = tuple((key, dtype) for key, _, dtype in form[-1])
            in_place = kind[0].info.param.dtype == compute_dtype(kind[0].info.param)  # others are copied, so one by one
            for row in kind:
                large.setdefault((shared, dtypes, in_place or row.info.place), []).append(row)
            continue
        stacks = (flatten and _small(kind[0])) or (is_tiny(kind[0]) and len(kind) >= MANY)
        if kernel is not None and not stacks:
            lists.setdefault((kernel, shared), []).extend(kind)
        else:
            in_place = compile and kernel is None and on_cpu(kind[0])  # each by a call of its own
            batches = [kind] if in_place else _batches(kind, compile)
            parts += [Part(batch, kernel, _small(kind[0]) and not in_place and len(batch) > 1) for batch in batches]
    parts += [Part(sorted(kind, key=lambda row: row.info.place), kernel, False) for (kernel, _), kind in lists.items()]
    parts += [
        Part(batch, None, False, flat=True) for kind in small.values() for batch in _buckets(kind, NATIVE if native else STACK)
    ]
    parts += [Part(_by_shape(kind), None, False, large=True) for kind in large.values()]
    if not compile:
        odd += [part.rows[0] for part in parts if not _kept(part)]
        parts = list(filter(_kept, parts))
    return parts, odd


def _flat(row: Row, compile: bool, tiny: int) -> bool:
    """Whether a parameter goes into a flat buffer; compiled, one of many that meet in shared links, outside of native loops."""
    shared = any(isinstance(link.transform, SharedTransform) for link in row.links)
    return _small(row) and (not compile or (shared and is_tiny(row) and tiny >= MANY))


def on_cpu(row: Row) -> bool:
    return row.info.param.device.type == "cpu"


def _kept(part: Part) -> bool:
    """Whether a part that is not compiled runs as such."""
    return bool(part.stacked or part.flat or part.large or part.kernel or _traced(part.rows[0].info.param))


def _is_local(row: Row, compile: bool, known: dict[Hashable, bool]) -> bool:
    """Whether a piece of a sharded parameter may be a graph: where there is one, and the chain asks no other rank."""
    return (compile or _traced(row.info.param)) and asks_nothing(row, known)


def _ordinary(row: Row) -> bool:
    """Whether a parameter may run with others, or compiled: a dense tensor of real numbers with a place in memory.

    Or a rank's piece of one, that links see as it is. Links with the trait "eager" run plain tensors one by one, whatever the
    driver.
    """
    if any("eager" in link.transform.traits for link in row.links) or view_of(row.info.param) is not local:
        return False
    if not cut_alike(row.info.param.grad, row.info.param):
        return False
    param, grad = local(row.info.param), near(row.info.param.grad)
    if type(param) not in (Tensor, nn.Parameter) or (grad is not None and type(grad) is not Tensor):
        return False
    if param.is_complex() or param.is_meta or param.numel() == 0:
        return False
    return torch.empty_like(param, device="meta").stride() == param.stride()


def _small(row: Row) -> bool:
    """Whether a parameter is one for a stack."""
    param = row.info.param
    return param.numel() <= SMALL and param.is_contiguous() and not is_sharded(param)


def is_tiny(row: Row) -> bool:
    """Whether a kernel takes longer for a parameter than copying it into a stack."""
    param = row.info.param
    return param.device.type == "cpu" and param.numel() <= TINY and _small(row)


def _graph_is_faster(param: Tensor) -> bool:
    """Whether the compiled chain takes less time than torch's kernel: on a GPU, where launching it is soon paid for."""
    return param.is_cuda and local(param).numel() > LISTED


def _form(row: Row) -> tuple[Any, ...]:
    """The shapes, strides and dtypes that the parameters of one graph have in common."""
    state = [(key, value.shape, value.dtype) for key, value in row.state.items() if not counts(key)]
    return (row.info.param.shape, row.info.param.stride(), cut(row.info.param), tuple(state))


def _batches(kind: list[Row], compile: bool) -> list[list[Row]]:
    """Stacks of small parameters; the others alone, or some in a call where calls are what takes time."""
    param, small = kind[0].info.param, _small(kind[0])
    stack = STACK if param.device.type == "cpu" else ACCELERATED
    bundle = min(BUNDLE, BUNDLED // local(param).numel()) if compile and param.is_cuda else 1
    most = max(1, stack // param.numel() if small else bundle)
    size = most if small else -(-len(kind) // -(-len(kind) // most))  # bundles of one size have one graph
    return [kind[i : i + size] for i in range(0, len(kind), size)]


def _buckets(kind: list[Row], most: int) -> list[list[Row]]:
    """Small parameters of any shapes, one shape after the other, up to a number of elements."""
    found: list[list[Row]] = [[]]
    size = 0
    for row in _by_shape(kind):
        size += row.info.param.numel()
        if size > most and found[-1]:
            found.append([])
            size = row.info.param.numel()
        found[-1].append(row)
    return found


def _by_shape(kind: list[Row]) -> list[Row]:
    """The parameters, one shape after the other."""
    return sorted(kind, key=lambda row: (row.info.param.dim(), row.info.param.shape, row.info.place))


def _is_for_native(row: Row, compile: bool, stencils: dict[Hashable, bool]) -> bool:
    """Whether C++ functions step a large parameter: it lies on the CPU as a whole, one element after the other.

    A chain that looks at neighbors is left to tiles where these are compiled: in C++ it would keep them in memory.
    """
    param = row.info.param
    if param.device.type != "cpu" or not param.is_contiguous() or is_sharded(param) or not _counts_on_host(row):
        return False
    if not compile:
        return True
    fixed, _ = split(row.links)
    if fixed not in stencils:
        stencils[fixed] = _is_stencil(row)
    return not stencils[fixed]


def _is_stencil(row: Row) -> bool:
    """Whether links of the chain look at neighbors, and none at the whole parameter."""
    try:
        asked = [set(watched(link.transform)[0].asked) for link in row.links]
    except Exception:  # a link that takes only some shapes
        return False
    return any("rows" in kinds for kinds in asked) and not any("whole" in kinds for kinds in asked)


def _counts_on_host(row: Row) -> bool:
    """Whether the numbers of a step are Python's to work with: hyperparameters and counts are not on a GPU."""
    numbers = [row.lr, row.state["step"], *split(row.links)[1]]
    return row.info.param.device.type == "cpu" and all(x.dim() == 0 and x.device.type == "cpu" for x in numbers)


def _traced(param: Tensor) -> bool:
    """Whether a parameter that runs alone, uncompiled, had better be a graph: in tiles, or with numbers made on the host."""
    return param.is_cuda or (rows_of_tile(param) > 0 and not is_sharded(param))
