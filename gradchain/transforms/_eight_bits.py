"""Numbers rounded to what 8 bits a number and one scale a block can hold (bitsandbytes' dynamic map)."""

from __future__ import annotations

import torch
from torch import Tensor

from gradchain.types import Layout


def dynamic_map() -> Tensor:
    """The 256 values of the map, ascending: 0, 1, and +-10^(e-6) times the middles of 2^e parts of [0.1, 1], e = 0 ... 6."""
    values = [0.0, 1.0]
    for e in range(7):
        middles = [0.1 + 0.9 * (i + 0.5) / 2**e for i in range(2**e)]
        values += [sign * 10.0 ** (e - 6) * middle for middle in middles for sign in (-1, 1)]
    return torch.tensor(sorted(values), dtype=torch.float64, device="cpu")


def eight_bits(x: Tensor, block: int, layout: Layout) -> Tensor:
    """x with each entry at the map's nearest value times the largest magnitude of its block, ties going down.

    Blocks run through the flattened tensor; a block of zeros stays.
    """
    values = dynamic_map().to(x, non_blocking=True)

    def rounded(x: Tensor) -> Tensor:
        flat = torch.nn.functional.pad(x.reshape(-1), (0, -x.numel() % block)).reshape(-1, block)
        scale = flat.abs().amax(1, keepdim=True)
        part = flat / torch.where(scale > 0, scale, 1)
        code = torch.bucketize(part, (values[1:] + values[:-1]) / 2)
        return (values[code] * scale).reshape(-1)[: x.numel()].reshape(x.shape)

    return layout.on_whole(rounded, x)
