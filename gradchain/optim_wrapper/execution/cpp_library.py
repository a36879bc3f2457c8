"""C++ functions of chains, built by the machine's compiler and kept for the next process."""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

from gradchain.optim_wrapper.execution.cpp import HEADER

# products and sums are rounded one by one, and NaN times 0 stays NaN (-fno-signed-zeros would make it 0)
FLAGS = ("-std=c++17", "-O3", "-shared", "-fPIC", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math")
ARGUMENTS = (
    "const uint64_t* a, const double* host, int64_t n, char* scratch, int64_t width, double* sums, int64_t part, int64_t parts"
)
FUNCTION = f"""
extern "C" void kernel({ARGUMENTS}) {{
%s}}
"""
DRIVER = f"""
#include <cstdint>
#ifdef _OPENMP
#include <omp.h>
#else
static int omp_get_thread_num() {{ return 0; }}
static int omp_get_num_threads() {{ return 1; }}
#endif
typedef void (*kernel)({ARGUMENTS});

// Rows: the kernels of a parameter by stage, 0 for none; in the last words of the head, whether all threads work on the
// parameter, its elements, the width of a place, and the places; then the addresses.
extern "C" void run(int64_t count, int64_t stride, const uint64_t* rows, int64_t head, int64_t stage, const double* host,
                    char* scratch, int64_t size, int64_t threads) {{
    #pragma omp parallel num_threads(threads) if (threads > 1)
    {{
        const int64_t thread = omp_get_thread_num(), number = omp_get_num_threads();
        int64_t small = 0;
        for (int64_t p = 0; p < count; p++) {{
            const uint64_t* row = rows + p * stride;
            const bool all = row[head - 4] && number > 1;
            const int64_t parts = all ? number : 1, part = all ? thread : 0;
            if (!row[stage] || (!all && small++ % number != thread)) continue;
            char* own = all ? scratch : scratch + thread * size;
            double* sums = reinterpret_cast<double*>(own + row[head - 1] * row[head - 2]);
            reinterpret_cast<kernel>(row[stage])(row + head, host, row[head - 3], own, row[head - 2], sums, part, parts);
            if (all) {{
                #pragma omp barrier
            }}
        }}
    }}
}}

// Whether a gradient, the second of the addresses, lies in one of some ranges of memory, which are sorted.
extern "C" int64_t overlaps(int64_t count, int64_t stride, const uint64_t* rows, int64_t head, int64_t bytes, int64_t ranges,
                            const uint64_t* starts, const uint64_t* stops) {{
    for (int64_t p = 0; p < count; p++) {{
        const uint64_t start = rows[p * stride + head + 1], stop = start + bytes * rows[p * stride + head - 3];
        int64_t low = 0, high = ranges;
        while (low < high) {{
            const int64_t middle = (low + high) / 2;
            if (stops[middle] > start) high = middle; else low = middle + 1;
        }}
        if (low < ranges && starts[low] < stop) return 1;
    }}
    return 0;
}}
"""
logger = logging.getLogger("gradchain")


def compiler() -> str | None:
    """The path of the C++ compiler, None where there is none that takes the options of g++ and clang."""
    return None if sys.platform == "win32" else shutil.which(os.environ.get("CXX", "g++")) or shutil.which("clang++")


@cache
def library() -> Any:
    """The functions that call kernels for the rows of a table."""
    (path,) = _built([DRIVER])
    loaded = ctypes.CDLL(str(path))
    number, address = ctypes.c_int64, ctypes.c_void_p
    loaded.run.argtypes = [number, number, address, number, number, address, address, number, number]
    loaded.run.restype = None
    loaded.overlaps.argtypes = [number, number, address, number, number, number, address, address]
    loaded.overlaps.restype = ctypes.c_int64
    return loaded


KERNELS: dict[str, Any] = {}  # body -> the loaded function


def kernels(bodies: Sequence[str]) -> list[int]:
    """The addresses of the functions with these bodies. OSError or CalledProcessError where they cannot be built."""
    new = [body for body in dict.fromkeys(bodies) if body not in KERNELS]
    for body, path in zip(new, _built([HEADER + FUNCTION % body for body in new]), strict=True):
        KERNELS[body] = ctypes.CDLL(str(path)).kernel
        logger.debug("%s does\n%s", path, body)
    return [ctypes.cast(KERNELS[body], ctypes.c_void_p).value or 0 for body in bodies]


def _built(sources: Sequence[str]) -> list[Path]:
    """The library of each source: an earlier one, or built now, several at a time."""
    path = compiler()
    if path is None:
        raise OSError("no C++ compiler was found")
    command = [path, *FLAGS, *_native(path)]
    surroundings = "\n".join([*command, _version(path), platform.processor(), _cpu()])
    keys = [hashlib.sha256(f"{surroundings}\n{source}".encode()).hexdigest()[:32] for source in sources]
    found = [folder() / f"{key}.so" for key in keys]
    missing = [(source, place) for source, place in zip(sources, found, strict=True) if not place.exists()]
    if missing:
        start = time.perf_counter()
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for building in [pool.submit(_build, command, source, place) for source, place in missing]:
                building.result()
        logger.info("built %d C++ functions in %.2f s", len(missing), time.perf_counter() - start)
    return found


def _build(command: list[str], source: str, built: Path) -> None:
    """Compile into a file of its own, and give it its name when it is complete: other processes may build the same."""
    with tempfile.TemporaryDirectory(dir=built.parent) as place:
        text, made = Path(place) / "source.cpp", Path(place) / "library.so"
        text.write_text(source, encoding="utf-8")
        subprocess.run([*command, str(text), "-o", str(made)], check=True, capture_output=True, text=True)
        os.replace(made, built)


@cache
def folder() -> Path:
    """The folder of built functions: ``GRADCHAIN_CACHE_DIR``, or the user's cache folder, or one for this process."""
    named = os.environ.get("GRADCHAIN_CACHE_DIR")
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    try:
        found = Path(named or os.path.join(home, "gradchain"))
        found.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=found):
            return found
    except OSError:
        return Path(tempfile.mkdtemp(prefix="gradchain-"))


@cache
def _native(path: str) -> tuple[str, ...]:
    """Options for this machine: its instructions, and threads where the compiler has OpenMP."""
    test = "#ifdef _OPENMP\n#include <omp.h>\n#endif\nint main() { return 0; }\n"
    for options in (("-march=native", "-fopenmp"), ("-march=native", "-fopenmp-simd"), ("-fopenmp-simd",), ()):
        tried = subprocess.run(
            [path, *options, "-x", "c++", "-fsyntax-only", "-"], input=test, text=True, capture_output=True, check=False
        )
        if tried.returncode == 0:
            return options
    return ()


@cache
def _version(path: str) -> str:
    return subprocess.run([path, "--version"], text=True, capture_output=True, check=False).stdout


@cache
def _cpu() -> str:
    """The instructions that the processor has: a shared folder may be seen by several machines."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    return next((line for line in lines if line.startswith(("flags", "Features"))), "")
