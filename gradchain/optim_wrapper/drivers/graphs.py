"""Programs as graphs: what depends on numbers alone is worked out beforehand, where the numbers are, the rest can be compiled.

A bias correction written inside a compiled chain would be worked out for every element; here it enters the graph as a
number. The compiler is called below dynamo: the plan of the driver takes the place of guards.
"""

from __future__ import annotations

import logging
import threading
import time
import warnings
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch._guards import TracingContext, tracing
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from gradchain.optim_wrapper.drivers.program import Program
from gradchain.optim_wrapper.drivers.sizes import holds
from gradchain.optim_wrapper.drivers.vectorized import decompositions, prepared, set_apart, store_early

logger = logging.getLogger("gradchain")
Function = Callable[..., Sequence[Any]]
TRACING = threading.RLock()  # torch keeps the trace in the making, and what it patches for it, for the whole process
NUMBERS_FIRST_SEEN: dict[str, Function] = {}  # host parts by their code: programs of one chain have the same

ON_CPU = {"size_asserts": False}  # the plan checks sizes

SHORT = 8  # elements of a row that would fill half of 512 bits
SERIAL = 1 << 15  # elements below which starting threads takes longer than the work

# Large parameters: no value is stored between a reduction and what uses it, but worked out again from what was read anyway;
# unless reading is slow.
THRESHOLDS = ("realize_opcount_threshold", "realize_reads_threshold", "realize_acc_reads_threshold")
RECOMPUTE = {**ON_CPU, **dict.fromkeys(THRESHOLDS, 1 << 30)}
AT_RANDOM = {torch.ops.aten.index.Tensor, torch.ops.aten.gather.default}  # operations that read memory in any order

# On a GPU: what the parameters of a bundle have in common are numbers, for which no kernels are fused; the plan checks sizes.
# One launch runs the kernels of several, of which each is as fast as alone.
ON_GPU = {
    "score_fusion_memory_threshold": 1 << 10,
    "size_asserts": False,
    "combo_kernels": True,
    "combo_kernel_peak_memory_pct_threshold": None,
}


class Graph:
    """A program, traced. It runs on the inputs at ``places`` and on what is made of the numbers among them.

    What is made of the numbers at ``common``, which many graphs have, is for the caller to keep; it goes with the numbers at
    ``own`` into a second part.
    """

    def __init__(
        self,
        program: Program,
        tensors: Sequence[Tensor],
        common: Sequence[int],
        own: Sequence[int],
        compile: bool,
        symbols: bool = False,
    ) -> None:
        """tensors: as in a call of the program; common, own: positions of the numbers; symbols: trace with symbolic sizes."""
        self.common, self.own, device = common, own, tensors[0].device
        if device.type == "cuda":
            numbers = {*common, *own}
            tensors = [x.to(device, non_blocking=True) if i in numbers else x for i, x in enumerate(tensors)]
        table = decompositions() if compile else None
        traced = make_fx(program, decomposition_table=table, tracing_mode="symbolic" if symbols else "fake")(*tensors)
        traced.graph.eliminate_dead_code()  # a tile asks also what is answered
        host, self.body, self.places = _parted(traced, common, device, compile)
        self.of_common = NUMBERS_FIRST_SEEN.setdefault(host.code, host.forward)
        self.of_own: Function | None = None
        if own:
            entering = range(len(self.places), sum(node.op == "placeholder" for node in self.body.graph.nodes))
            numbers = [*map(self.places.index, own), *entering]
            host, self.body, kept = _parted(self.body, numbers, device, compile)
            self.of_own, self.places = host.forward, [self.places[i] for i in kept]
        self.failure: Exception | None = None  # the compiler's
        if compile:
            set_apart(self.body.graph) if device.type == "cpu" else store_early(self.body.graph)
            self.body.recompile()
            self.run, self.failure = compiled(self.body, _options(program, tensors[0], self.body.graph))
        else:
            self.run: Function = self.body.forward

    @property
    def call(self) -> Callable[[list[Tensor]], Sequence[Any]] | None:
        """Inductor's function of a list of inputs, if the graph is compiled."""
        return self.run.call if isinstance(self.run, Compiled) else None

    def holds(self, given: Sequence[Tensor]) -> bool:
        """Whether the graph, traced with symbolic sizes, is right for these tensors; as in a call of the program."""
        return holds(self.body.graph, [given[i] for i in self.places])


def options_alike(param: Tensor, stacked: bool) -> Hashable:
    """Traits of a parameter that select the compiler's options; code compiled with other options is right, but may be slow."""
    rest = param.shape[2:] if stacked else param.shape[1:]
    threads = torch.get_num_threads()
    serial = param.numel() < SERIAL
    return (serial, threads, serial or param.shape[0] >= 2 * threads, len(rest) > 0 and rest.numel() <= SHORT)


def _options(program: Program, param: Tensor, graph: fx.Graph) -> tuple[dict[str, Any], dict[str, Any]]:
    """Of the compiler: those to try first, and others."""
    if param.is_cuda:
        return ON_GPU, {}
    rest = param.shape[2:] if program.stacked else param.shape[1:]  # of each parameter, its rows
    short = len(rest) > 0 and rest.numel() <= SHORT and torch.backends.cpu.get_cpu_capability() == "AVX512"
    own: dict[str, Any] = {"cpp.simdlen": 256} if short else {}
    own["cpp.threads"] = 1 if param.numel() < SERIAL else torch.get_num_threads()
    stores = program.stacked or param.numel() < SERIAL or any(node.target in AT_RANDOM for node in graph.nodes)
    first, other = (ON_CPU, RECOMPUTE) if stores else (RECOMPUTE, ON_CPU)
    return {**first, **own}, {**other, **own}


def _parted(
    traced: fx.GraphModule, numbers: Sequence[int], device: torch.device, compile: bool
) -> tuple[fx.GraphModule, fx.GraphModule, list[int]]:
    """The host's part and the rest, with the positions of the inputs that the rest takes ahead of the host's results."""
    inputs = [node for node in traced.graph.nodes if node.op == "placeholder"]
    on_host = _of_numbers(traced.graph, [inputs[i] for i in numbers])
    if compile and device.type == "cpu":
        on_host |= prepared(traced.graph, on_host)
    nodes = list(traced.graph.nodes)
    crossing = [node for node in nodes if node in on_host and not on_host.issuperset(node.users)]
    host, rest = fx.Graph(), fx.Graph()
    made: dict[Any, fx.Node] = {}  # once, though each parameter of a bundle asks for it
    in_host: dict[fx.Node, fx.Node] = {}
    in_rest: dict[fx.Node, fx.Node] = {}
    for i in numbers:
        in_host[inputs[i]] = host.placeholder(f"number{i}")
    for node in nodes:
        if node in on_host and node.op != "placeholder":
            key = (node.target, str(fx.map_arg((node.args, node.kwargs), in_host.__getitem__)))
            if key not in made:
                made[key] = _beside(host, node, in_host)
            in_host[node] = made[key]
    out = list(dict.fromkeys(in_host[node] for node in crossing))
    host.output(tuple(out))
    kept = [i for i, node in enumerate(inputs) if node not in on_host]
    for i in kept:
        in_rest[inputs[i]] = rest.node_copy(inputs[i])
    entering = [rest.placeholder(f"number{i}") for i in range(len(out))]
    for node in crossing:
        in_rest[node] = entering[out.index(in_host[node])]
        with node.meta["val"].fake_mode:  # some are made of nothing, on the host; all enter on the device
            in_rest[node].meta["val"] = torch.empty((), dtype=node.meta["val"].dtype, device=device)
    for node in nodes:
        if node not in on_host and node.op != "placeholder":
            in_rest[node] = rest.node_copy(node, in_rest.__getitem__)
    return fx.GraphModule(traced, host), fx.GraphModule(traced, rest), kept


def _beside(host: fx.Graph, node: fx.Node, known: dict[fx.Node, fx.Node]) -> fx.Node:
    """A copy of the node that works where its inputs are."""
    copy = host.node_copy(node, known.__getitem__)
    if copy.target is torch.ops.prims.convert_element_type.default:  # written in Python
        copy.target, copy.args, copy.kwargs = torch.ops.aten._to_copy.default, copy.args[:1], {"dtype": copy.args[1]}
    if node.all_input_nodes:
        copy.kwargs = {name: x for name, x in copy.kwargs.items() if name != "device"}
    return copy


def _of_numbers(graph: fx.Graph, numbers: list[fx.Node]) -> set[fx.Node]:
    """The nodes that depend on these numbers alone, and are numbers."""
    found = set(numbers)
    for node in graph.nodes:
        value = node.meta.get("val")
        number = isinstance(value, Tensor) and value.dim() == 0 and (node.all_input_nodes or value.device.type == "cpu")
        if node.op == "call_function" and number and found.issuperset(node.all_input_nodes) and not _writes(node):
            found.add(node)
    return found


def _writes(node: fx.Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    return schema is None or schema.is_mutable


def compiled(body: fx.GraphModule, forms: Sequence[dict[str, Any]]) -> tuple[Function, Exception | None]:
    """The graph through inductor; or as it is, with what the compiler raised, where no form of it compiles."""
    failures: list[Exception] = []
    for options in forms:
        begun = time.perf_counter()
        try:
            run = _through_inductor(body, options)
            seconds = time.perf_counter() - begun
            logger.info("compiled a graph of %d operations in %.1f s", len(body.graph.nodes), seconds)
            return run, None
        except Exception as error:  # whatever a compiler may raise
            failures.append(error)
    return body.forward, failures[0]


def _through_inductor(body: fx.GraphModule, options: dict[str, Any]) -> Function:
    copy = fx.GraphModule(body, body.graph)  # inductor edits the graph that it is given
    copy.graph = fx.Graph()
    copy.graph.output(copy.graph.graph_copy(body.graph, {}))
    copy.recompile()  # what calls nothing is run as it is
    examples = [node.meta["val"] for node in body.graph.nodes if node.op == "placeholder"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch's about itself, at its first import: no failure
        from torch._inductor import config
        from torch._inductor.compile_fx import compile_fx_inner

        known = {name: value for name, value in options.items() if hasattr(config, name)}
        with config.patch(known), tracing(_context_for_the_cache(examples)):
            graph = compile_fx_inner(copy, examples)
    return Compiled(getattr(graph, "current_callable", None) or graph)  # without what torch does about each call


class Compiled:
    """A graph compiled by inductor, to be called with its inputs one by one."""

    def __init__(self, call: Callable[[list[Tensor]], Sequence[Any]]) -> None:
        self.call = call

    def __call__(self, *tensors: Tensor) -> Sequence[Any]:
        return self.call(list(tensors))


def _context_for_the_cache(examples: Sequence[Any]) -> TracingContext:
    """The surroundings in which inductor uses its cache of graphs on disk: it asks for an environment of symbolic shapes."""
    mode = next((x.fake_mode for x in examples if isinstance(x, FakeTensor)), None) or FakeTensorMode()
    if mode.shape_env is None:
        mode.shape_env = ShapeEnv()
    return TracingContext(mode)
