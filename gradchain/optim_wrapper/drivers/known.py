"""The graphs that a driver has made, to be used for all sizes that they hold for."""

from __future__ import annotations

import logging
from collections.abc import Generator, Hashable, Sequence
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor

from gradchain.optim_wrapper.drivers.graphs import Graph, options_alike
from gradchain.optim_wrapper.drivers.program import Program
from gradchain.optim_wrapper.drivers.sizes import likeness, stand_in, stand_in_shapes
from gradchain.optim_wrapper.layouts import WHOLE

Families = dict[Hashable, list[Graph]]


def graph_for(
    program: Program, given: Sequence[Tensor], numbers: Sequence[Tensor], compile: bool, fixed: Hashable, families: Families
) -> Graph:
    """A graph that was traced for other sizes and holds for these, or a new one. Raises whatever tracing may raise.

    given: as in a call of the program; numbers: those among them that many graphs have; fixed: what is fixed about the links.
    """
    ids, on_cpu = {id(number) for number in numbers}, given[0].device.type == "cpu"
    first = 2 + len(program.state_keys) if on_cpu else 0  # a kernel works with states of no dimensions where they are
    zeroth = [i for i, x in enumerate(given) if i >= first and x.dim() == 0 and (x.device.type == "cpu" or id(x) in ids)]
    common = [i for i in zeroth if id(given[i]) in ids or not on_cpu]
    own = [i for i in zeroth if i not in common]
    tensors = [i for i in range(len(given)) if i not in zeroth]
    form = likeness([given[i] for i in tensors]) if on_cpu and _has_symbols(program) else None
    if form is None:
        return Graph(program, given, common, own, compile)
    key = (program.form, fixed, compile, tuple(own), form, options_alike(given[0], program.stacked))
    family = families.setdefault(key, [])
    for graph in family:
        if graph.holds(given):
            return graph
    states = partial(_state_shapes, program, given[0])
    for shapes in (stand_in_shapes(given, states, program.apart), [x.shape for x in given]):
        stand_ins = [stand_in(x, shape) if i in tensors else x for i, (x, shape) in enumerate(zip(given, shapes, strict=True))]
        try:
            with _quiet():
                graph = Graph(program, stand_ins, common, own, compile, symbols=True)
            fits = graph.holds(given)
        except Exception:  # a link that needs sizes as numbers is traced with them below; one that fails fails again there
            continue
        if graph.failure is not None:
            break  # of a compiler: with numbers for sizes it may succeed
        if fits:
            family.append(graph)
            return graph
    return Graph(program, given, common, own, compile)


def _state_shapes(program: Program, like: Tensor, shape: Sequence[int]) -> list[Sequence[int]]:
    """The shapes of the states that the links make for a parameter of this shape; none where they cannot be known."""
    param, shapes = torch.empty(tuple(shape), dtype=like.dtype, device="meta"), dict[str, Sequence[int]]()
    try:
        for link in program.links:
            shapes.update((key, x.shape) for key, x in zip(link.state_keys, link.transform.init(param), strict=True))
        return [shapes[key] for key in program.state_keys]
    except Exception:  # a state is left from an earlier setting; or what a link may raise about a tensor without values
        return []


@contextmanager
def _quiet() -> Generator[None]:
    """Without torch's report of an operation that does not fit: sizes are tried, and others are tried next."""
    logger = logging.getLogger("torch._subclasses.fake_tensor")
    disabled, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = disabled


def _has_symbols(program: Program) -> bool:
    """Whether sizes may be symbols: a rank's shard has sizes of its own."""
    return program.layout is WHOLE or program.apart != ()
