"""Whether chains can be compiled here, and whether it is worth it where nobody asked for it."""

from __future__ import annotations

import logging
import os
import shutil
import sys
import warnings
from collections.abc import Sequence
from functools import cache

from torch import Tensor
from torch.utils._triton import has_triton

REPAID = 1 << 22  # elements on a CPU from which compiling is repaid within about a thousand steps
PARAMETER = 1 << 12  # elements that each parameter counts for at least, since each costs an uncompiled step something
logger = logging.getLogger("gradchain")


def compiling_pays(params: Sequence[Tensor]) -> bool:
    """Whether to compile without being asked; the answer depends on sizes and devices alone, so that a run can be repeated.

    On a GPU each operation of an uncompiled chain would go through its slow memory. On a CPU compiling takes 5 to 40 seconds.
    """
    if all(param.is_cuda for param in params):
        return bool(params) and has_triton()
    if any(param.device.type != "cpu" for param in params):
        return False
    if sum(max(param.numel(), PARAMETER) for param in params) < REPAID:
        return False
    return _found(_name(), "gradchain: chains of this size are several times faster compiled")


def can_compile(params: Sequence[Tensor]) -> bool:
    """Whether what was asked to be compiled can be; warns, once, where a C++ compiler is missing."""
    name = _name()
    if all(param.device.type != "cpu" for param in params) or shutil.which(name) is not None:
        return True
    warnings.warn(f"driver='compiled' runs parameters on the CPU uncompiled: {_missing(name)}", RuntimeWarning, stacklevel=2)
    return False


@cache
def _found(name: str, purpose: str) -> bool:
    """Whether this compiler is there; tells, once, if it is not."""
    there = shutil.which(name) is not None
    if not there:
        logger.warning("%s, but %s", purpose, _missing(name))
    return there


def _missing(name: str) -> str:
    return (
        f"the C++ compiler {name!r} was not found. Install one (g++ on Linux, the Xcode command line tools on macOS, the "
        "Visual Studio build tools on Windows), or set the environment variable CXX to its path; driver='eager' needs none."
    )


def _name() -> str:
    """The C++ compiler that torch's inductor calls."""
    usual = {"win32": "cl", "darwin": "clang++"}.get(sys.platform, "g++")
    return os.environ.get("CXX") or usual
