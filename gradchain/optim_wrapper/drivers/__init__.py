"""Ways of executing a chain over the parameters of a step. ``loop`` is the reference that every other must equal."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from gradchain.optim_wrapper.drivers.flow import choose, compute_dtype, due, within
from gradchain.optim_wrapper.drivers.loop import Job, loop, working

__all__ = ["DRIVERS", "Job", "choose", "compute_dtype", "due", "loop", "within", "working"]

DRIVERS: dict[str, Callable[[Sequence[Job]], None]] = {"auto": loop, "loop": loop}
