"""A chain as a readable table."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest
from typing import Any

import torch

from gradchain.chains.lints import lints
from gradchain.types import Transform

SETTINGS, WIDTH = 36, 18  # of the column with hyperparameters, and of those with slots and state
SIDE = 256  # state is measured on a matrix of this side, so that row and column statistics show as a fraction


def state_bytes(link: Transform[Any]) -> float:
    """Bytes of state per element of a float32 matrix."""
    state = link.init(torch.empty(SIDE, SIDE, device="meta", dtype=torch.float32))
    return sum(t.numel() * t.element_size() for t in state if t.dim()) / SIDE**2  # 0-d ones weigh nothing


def _cell(parts: Sequence[str], width: int = WIDTH) -> list[str]:
    """The parts with commas between them, in lines of about this width; a longer part keeps its line."""
    lines = [""]
    for part in [*(f"{part}," for part in parts[:-1]), *parts[-1:]]:
        fits = len(lines[-1]) + 1 + len(part) <= width or not lines[-1]
        lines = [*lines[:-1], f"{lines[-1]} {part}".lstrip()] if fits else [*lines, part]
    return lines if parts else ["-"]


def _row(link: Transform[Any]) -> list[list[str]]:
    settings = [f"{field}={getattr(link, field)!r}" for field in link.hyperparameters()]
    label = [link.label] if link.only is None else [f"{link.label},", f"for {link.only!r}"]
    state = getattr(link.State, "_fields", ())
    weight = f"{round(state_bytes(link), 2):.3g}"
    return [label, _cell(settings, SETTINGS), _cell(sorted(link.reads)), _cell(sorted(link.writes)), _cell(state), [weight]]


def describe(links: Sequence[Transform[Any]], note: str) -> str:
    """The table that ``Chain.describe()`` returns."""
    rows = [[[head] for head in ("link", "hyperparameters", "reads", "writes", "state", "bytes")], *map(_row, links)]
    widths = [max(len(line) for row in rows for line in row[i]) for i in range(len(rows[0]))]
    rows.insert(1, [["-" * width] for width in widths])
    lines = [
        "  ".join(line.ljust(width) for line, width in zip(cells, widths, strict=True)).rstrip()
        for row in rows
        for cells in zip_longest(*row, fillvalue="")
    ]
    lines.append(f"state: {sum(map(state_bytes, links)):.3g} bytes per element (of a {SIDE}x{SIDE} float32 matrix)")
    lines += [note] if note else []
    lines += [f"note: {remark}" for remark in lints(links)]
    return "\n".join(lines)
