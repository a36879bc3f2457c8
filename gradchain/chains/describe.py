"""A chain as a readable table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from gradchain.chains.lints import lints
from gradchain.types import Transform

SIDE = 256  # state is measured on a matrix of this side, so that row and column statistics show as a fraction


def state_bytes(link: Transform[Any]) -> float:
    """Bytes of state per element of a float32 matrix."""
    state = link.init(torch.empty(SIDE, SIDE, device="meta", dtype=torch.float32))
    return sum(t.numel() * t.element_size() for t in state if t.dim()) / SIDE**2  # 0-d ones weigh nothing


def _row(link: Transform[Any]) -> list[str]:
    settings = ", ".join(f"{field}={getattr(link, field)!r}" for field in link.hyperparameters())
    slots = [", ".join(sorted(s)) or "-" for s in (link.reads, link.writes)]
    state = ", ".join(getattr(link.State, "_fields", ())) or "-"
    label = link.label if link.only is None else f"{link.label}, for {link.only!r}"
    return [label, settings or "-", *slots, state, f"{state_bytes(link):.3g}"]


def describe(links: Sequence[Transform[Any]], note: str) -> str:
    """The table that ``Chain.describe()`` returns."""
    rows = [["link", "hyperparameters", "reads", "writes", "state", "bytes"], *map(_row, links)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    lines.insert(1, "  ".join("-" * width for width in widths))
    lines.append(f"state: {sum(map(state_bytes, links)):.3g} bytes per element (of a {SIDE}x{SIDE} float32 matrix)")
    lines += [note] if note else []
    lines += [f"note: {remark}" for remark in lints(links)]
    return "\n".join(lines)
