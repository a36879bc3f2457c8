"""A step takes the same numbers whatever autocast or inference mode it is called in."""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import ExitStack, contextmanager
from importlib import import_module
from threading import Thread
from typing import Any

import torch

Closure = Callable[[], Any]


def import_dynamo() -> None:
    """Import what torch imports when the first optimizer of a process is made.

    The import leaves a cycle of references to the frames that it is called from. In a thread of its own there are none of
    the optimizer, which is freed as soon as it is dropped.
    """
    if "torch._dynamo" not in sys.modules:
        thread = Thread(target=import_module, args=("torch._dynamo",))
        thread.start()
        thread.join()


def foreign_mode(groups: Iterable[Mapping[str, Any]]) -> bool:
    """Whether the caller is in a mode that would change the step."""
    return _autocasts() or _leaves_inference(groups)


def _autocasts() -> bool:
    return torch._C._is_any_autocast_enabled()


def _leaves_inference(groups: Iterable[Mapping[str, Any]]) -> bool:
    """Whether to leave inference mode; parameters that were made there can be written there alone."""
    if not torch.is_inference_mode_enabled():
        return False
    return not any(param.is_inference() for group in groups for param in group["params"])


@contextmanager
def own_mode(groups: Iterable[Mapping[str, Any]]) -> Generator[Callable[[Closure], Closure]]:
    """Leave the caller's autocast and inference mode; what is given lets a closure run in them again."""
    devices = [kind for kind in ("cpu", "cuda", "mps", "xpu") if torch.is_autocast_enabled(kind)]
    dtypes = [torch.get_autocast_dtype(kind) for kind in devices]
    inference = _leaves_inference(groups)

    def in_callers_mode(closure: Closure) -> Closure:
        def call() -> Any:
            with ExitStack() as stack:
                if inference:
                    stack.enter_context(torch.inference_mode())
                for kind, dtype in zip(devices, dtypes, strict=True):
                    stack.enter_context(torch.autocast(kind, dtype))
                return closure()

        return call

    with ExitStack() as stack:
        if inference:
            stack.enter_context(torch.inference_mode(False))
            stack.enter_context(torch.no_grad())  # leaving inference mode turns gradients on
        for kind in devices:
            stack.enter_context(torch.autocast(kind, enabled=False))
        yield in_callers_mode
