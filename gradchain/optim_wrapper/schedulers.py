"""LAdam's learning-rate schedule: a linear rise, a plateau, a fall by cos^4.

    lr(n) = base * (n + 1) / W                               n + 1 < W      W = floor(T * warmup_frac)
            base                                             n < S          S = floor(T * (1 - settle_frac))
            base * cos(pi/2 * (min(n, T) - S) / (T - S))^4   otherwise

n counts the calls of ``step()``; lr(0) is set when the scheduler is made, so lr(n) is what optimizer step n + 1 uses.

Fields   total_steps: T, a whole number above 0; warmup_frac, settle_frac: shares of T, each in [0, 1), together at most 1.
Raises   ChainError if one of them is outside its range; TypeError if optimizer is none (torch's).
Source   ChiAnnealScheduler of ladam 0.3.0 to 0.4.1 (PyPI).
Differs  the original leaves the first optimizer step at the full rate and warms up one step later, rises again past T, and
         forgets W, S and T in its state_dict; with settle_frac = 0 ours stays at base past T. Despite its name, and its
         paper, it anneals lr, not c2; a c2 that changes is a schedule in the chain.
"""

from __future__ import annotations

import math
import numbers
from typing import Any

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from typing_extensions import override

from gradchain.types import ChainError


class ChiAnnealScheduler(LRScheduler):
    """Rise, plateau and fall over ``total_steps`` calls of ``step()``, one after each optimizer step.

    Resume with ``load_state_dict``, or with ``last_epoch`` as for torch's schedulers.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        total_steps: int,
        warmup_frac: float = 0.05,
        settle_frac: float = 0.30,
        last_epoch: int = -1,
    ) -> None:
        if isinstance(total_steps, bool) or not isinstance(total_steps, numbers.Integral) or total_steps < 1:
            raise ChainError(f"total_steps must be a whole number above 0; found {total_steps!r}. Pass epochs * len(loader).")
        for name, share in (("warmup_frac", warmup_frac), ("settle_frac", settle_frac)):
            if not _is_share(share):
                raise ChainError(f"{name} must be a number in [0, 1); found {share!r}. Pass a share of total_steps, as 0.05.")
        if warmup_frac + settle_frac > 1:
            raise ChainError(
                f"warmup_frac and settle_frac together must be at most 1; found {warmup_frac!r} + {settle_frac!r}. "
                "Make one of them smaller."
            )
        self.total_steps = int(total_steps)
        self.warmup_steps = int(total_steps * warmup_frac)
        self.settle_start = int(total_steps * (1 - settle_frac))
        super().__init__(optimizer, last_epoch)

    @override
    def get_lr(self) -> list[float | Tensor]:
        """The rates of all groups after ``last_epoch`` steps."""
        share = self._share(self.last_epoch)
        return [base * share for base in self.base_lrs]

    def _share(self, n: int) -> float:
        """lr(n) / base."""
        if n + 1 < self.warmup_steps:
            return (n + 1) / self.warmup_steps
        if n < self.settle_start:
            return 1.0
        done = (min(n, self.total_steps) - self.settle_start) / max(self.total_steps - self.settle_start, 1)
        return math.cos(math.pi / 2 * done) ** 4 if done < 1 else 0.0


def _is_share(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1
