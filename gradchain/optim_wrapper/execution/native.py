"""One native loop over parameters that run the same compiled graph, instead of a call from Python for each.

A graph that consists of kernels alone is called once for each parameter with its kernels replaced by recorders, which gives the
addresses and sizes that the kernels would be called with. A few lines of C call the kernels with them, parameters shared out
among threads. Temporaries have one place for each thread.
"""

from __future__ import annotations

import ctypes
import inspect
import re
import sys
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

MOST = 64  # arguments of a kernel
SLOTS = 256  # arguments of all kernels of a graph
ALIGNMENT = 64

# A line of inductor's wrapper that does nothing but allocate, look at sizes or call a kernel.
PLAIN = re.compile(
    r"def call\(self, args\):|args\.clear\(\)|.* = args|return \(\)|del \w+"
    r"|\w+ = \w+(; del \w+)?|\w+_size = \w+\.size\(\)|\w+ = \w+_size\[\d+\]"
    r"|\w+ = (empty_strided_cpu|reinterpret_tensor)\(.*\)|cpp_fused_\w+\(.*\)"
)
KERNEL = re.compile(r"cpp_fused_\w+ = async_compile\.cpp_pybinding\(\[(.*)\]")
ARGUMENT = re.compile(r"'(const )?(\w+\*|int64_t)'")

SOURCE = """
#include <cstdint>
typedef uint64_t word;
typedef int64_t integer;

static void call(void* kernel, integer count, const word* a) {
    switch (count) {
%s
    }
}

extern "C" %s void run(integer parameters, integer kernels, void** kernel, integer* counts, integer* starts, integer stride,
                       word* arguments, integer temporaries, integer* slots, integer* offsets, word* memory, integer threads) {
    #pragma omp parallel for num_threads(static_cast<int>(threads)) schedule(static)
    for (integer thread = 0; thread < threads; thread++) {
        word own[%d];
        for (integer p = thread * parameters / threads; p < (thread + 1) * parameters / threads; p++) {
            for (integer i = 0; i < stride; i++) own[i] = arguments[p * stride + i];
            for (integer i = 0; i < temporaries; i++) own[slots[i]] = memory[thread] + offsets[i];
            for (integer k = 0; k < kernels; k++) call(kernel[k], counts[k], own + starts[k]);
        }
    }
}
"""


class Recorded(NamedTuple):
    """The kernels of one call of a graph, and what each was called with."""

    kernels: tuple[str, ...]
    words: list[list[int]]  # by kernel; 0 where a temporary stands
    temporaries: tuple[tuple[int, int], ...]  # position among all words, offset in the memory for temporaries
    size: int  # bytes of that memory


class NativeLoop:
    """The calls of a graph for some parameters of one shape."""

    def __init__(self, call: Callable[..., Any], inputs: Sequence[Sequence[Tensor]], grad: int | None) -> None:
        """call: of inductor; inputs: of each parameter; grad: position of the gradient, whose address is told in each step.

        The caller keeps the inputs but for the gradients, which must not share memory with other inputs. ValueError where the
        graph is more than kernels.
        """
        surroundings: dict[str, Any] = getattr(call, "__func__").__globals__  # noqa: B009 (of a bound method)
        if not is_plain(call, surroundings["__file__"]):
            raise ValueError("the graph calls more than kernels")
        found = [_recorded(call, surroundings, tensors) for tensors in inputs]
        first = found[0]
        counts = [len(words) for words in first.words]
        likeness = (first.kernels, first.temporaries, counts)
        if any((one.kernels, one.temporaries, [len(words) for words in one.words]) != likeness for one in found):
            raise ValueError("the graph does not run the same kernels for all parameters")
        if sum(counts) > SLOTS or max(counts, default=MOST + 1) > MOST:
            raise ValueError("the kernels take too many arguments")
        self.library = _library()
        self.threads = min(torch.get_num_threads(), len(inputs))
        self.memory = [torch.empty(first.size + ALIGNMENT, dtype=torch.uint8, device="cpu") for _ in range(self.threads)]
        places = [-(-memory.data_ptr() // ALIGNMENT) * ALIGNMENT for memory in self.memory]
        self.table = torch.tensor([[word for words in one.words for word in words] for one in found], dtype=torch.int64)
        own = None if grad is None else [tensors[grad].data_ptr() for tensors in inputs]
        columns = range(self.table.shape[1]) if own is not None else ()
        addresses = torch.tensor(own, dtype=torch.int64)
        self.grads = [i for i in columns if torch.equal(self.table[:, i], addresses)]
        starts = [sum(counts[:k]) for k in range(len(counts))]
        libraries = {name: ctypes.CDLL(_module(surroundings[name]).__file__) for name in first.kernels}
        kernels = [ctypes.cast(libraries[name].kernel, ctypes.c_void_p).value for name in first.kernels]
        self.kept = libraries
        slots, offsets = [slot for slot, _ in first.temporaries], [offset for _, offset in first.temporaries]
        self.arguments = [
            *(ctypes.c_int64(len(inputs)), ctypes.c_int64(len(counts)), _array(kernels), _array(counts), _array(starts)),
            *(ctypes.c_int64(sum(counts)), ctypes.c_void_p(self.table.data_ptr())),
            *(ctypes.c_int64(len(slots)), _array(slots), _array(offsets), _array(places), ctypes.c_int64(self.threads)),
        ]

    def run(self, grads: Sequence[Tensor]) -> None:
        """Call the kernels of all parameters, with these gradients."""
        if self.grads:
            self.table[:, self.grads] = torch.tensor([grad.data_ptr() for grad in grads], dtype=torch.int64)[:, None]
        self.library.run(*self.arguments)


def is_plain(call: Callable[..., Any], path: str) -> bool:
    """Whether inductor's code for a call runs serial kernels, one after the other, and nothing else."""
    with open(path, encoding="utf-8") as file:
        source = file.read()
    if "omp parallel" in source:
        return False
    taken = [kind.strip() for kernel in KERNEL.findall(source) for kind in kernel.split(",")]
    lines = (line.strip() for line in inspect.getsource(call).splitlines())
    known = all(PLAIN.fullmatch(line.partition("  #")[0]) for line in lines if line)
    return bool(taken) and known and all(ARGUMENT.fullmatch(kind) for kind in taken)


def _recorded(call: Callable[..., Any], surroundings: dict[str, Any], tensors: Sequence[Tensor]) -> Recorded:
    """Call the graph with recorders in the place of its kernels; nothing is written."""
    kernels = {name: value for name, value in surroundings.items() if name.startswith("cpp_fused_")}
    calls: list[tuple[str, tuple[Any, ...]]] = []
    for name in kernels:
        surroundings[name] = _recorder(name, calls)
    try:
        call(list(tensors))
    finally:
        surroundings.update(kernels)
    known = {tensor.untyped_storage().data_ptr() for tensor in tensors}
    places: dict[int, int] = {}
    temporaries: list[tuple[int, int]] = []
    size, position = 0, 0
    words: list[list[int]] = []
    for _, arguments in calls:
        words.append([])
        for argument in arguments:
            if isinstance(argument, Tensor) and argument.untyped_storage().data_ptr() not in known:
                storage = argument.untyped_storage()
                if storage.data_ptr() not in places:
                    places[storage.data_ptr()] = size
                    size += -(-storage.nbytes() // ALIGNMENT) * ALIGNMENT
                offset = argument.data_ptr() - storage.data_ptr()
                temporaries.append((position, places[storage.data_ptr()] + offset))
                words[-1].append(0)
            else:
                words[-1].append(argument.data_ptr() if isinstance(argument, Tensor) else int(argument))
            position += 1
    return Recorded(tuple(name for name, _ in calls), words, tuple(temporaries), size)


def _recorder(name: str, calls: list[tuple[str, tuple[Any, ...]]]) -> Callable[..., None]:
    def record(*arguments: Any) -> None:
        calls.append((name, arguments))  # with the temporaries, whose memory must not be given out again meanwhile

    return record


@cache
def _library() -> Any:
    """The compiled loop."""
    from torch._inductor.codecache import CppCodeCache

    cases: list[str] = []
    for count in range(1, MOST + 1):
        kinds, values = ", ".join(["word"] * count), ", ".join(f"a[{i}]" for i in range(count))
        cases.append(f"        case {count}: reinterpret_cast<void (*)({kinds})>(kernel)({values}); break;")
    exported = "__declspec(dllexport)" if sys.platform == "win32" else ""
    return CppCodeCache.load(SOURCE % ("\n".join(cases), exported, SLOTS))


def _module(kernel: Any) -> Any:
    """The extension module of a kernel."""
    return kernel.__self__ if inspect.ismodule(getattr(kernel, "__self__", None)) else sys.modules[kernel.__module__]


def _array(values: Sequence[Any]) -> Any:
    return (ctypes.c_uint64 * max(1, len(values)))(*values)
