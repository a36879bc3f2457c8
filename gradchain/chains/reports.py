"""Reports of an optimizer: the fate of loaded state, and the figures and findings of its links."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, cast

SHOWN = 12  # entries of one finding in the printed table; the data has them all


class LoadReport(NamedTuple):
    """The outcome of loading, by link: kept, dropped (saved, but no link of that name), fresh (started anew)."""

    kept: tuple[str, ...]
    dropped: tuple[str, ...]
    fresh: tuple[str, ...]
    missing: tuple[str, ...] = ()  # parameters that were not saved, where parameters are matched by name
    unused: tuple[str, ...] = ()  # saved parameters that the optimizer does not have
    remarks: tuple[str, ...] = ()  # differences between the saved run and this one

    @property
    def clean(self) -> bool:
        """Whether all that was saved is used, and all that is needed was saved."""
        return not any(self[1:])

    def __str__(self) -> str:
        lists = [*self[:3], *(names for names in self[3:] if names)]
        words = [*self._fields[:3], *(word for word, names in zip(self._fields[3:], self[3:], strict=True) if names)]
        return "; ".join(f"{word}: {', '.join(names) or 'none'}" for word, names in zip(words, lists, strict=True))


@dataclass(frozen=True)
class Report:
    """Plain data, ``dataclasses.asdict(report)`` at any depth; printed, a table of means over parameters."""

    steps: tuple[int, int]  # fewest and most steps that a parameter has taken; (0, 0) before the first
    figures: dict[str, dict[str, dict[str, float]]]  # link -> figure -> parameter -> value after its last step
    findings: dict[str, dict[str, Any]]  # link -> finding -> its value
    labels: dict[str, dict[str, int]] = field(default_factory=lambda: {})  # of a partition -> parameters, elements
    masked: dict[str, dict[str, int]] = field(default_factory=lambda: {})  # link -> parameters it works on, of

    def __str__(self) -> str:
        fewest, most = self.steps
        lines = [f"after {most} steps" if fewest == most else f"after {fewest} to {most} steps"]
        lines += [f"{label}: {n['parameters']} parameters, {n['elements']:,} elements" for label, n in self.labels.items()]
        lines += [f"{link}: works on {n['parameters']} of {n['of']} parameters" for link, n in self.masked.items()]
        rows = [[link, name, *_summary(values)] for link, all_of in self.figures.items() for name, values in all_of.items()]
        lines += _table([["link", "figure", "mean", "least", "most", "parameters"], *rows]) if rows else []
        for link, found in self.findings.items():
            lines += [line for name, value in found.items() for line in _listed(f"{link}: {name}", value)]
        return "\n".join(lines if len(lines) > 1 else [*lines, "no link of this chain has figures or findings yet"])


def _summary(values: Mapping[str, float]) -> list[str]:
    numbers = list(values.values())
    return [*(f"{x:.4g}" for x in (sum(numbers) / len(numbers), min(numbers), max(numbers))), str(len(numbers))]


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return [lines[0], "  ".join("-" * width for width in widths), *lines[1:]]


def _listed(title: str, value: Any) -> list[str]:
    """A finding as text; a long one is cut."""
    if isinstance(value, Mapping):
        entries = [f"{key}: {one}" for key, one in cast("Mapping[Any, Any]", value).items()]
    elif isinstance(value, list | tuple):
        entries = [str(one) for one in cast("Sequence[Any]", value)]
    else:
        return [f"{title}: {value}"]
    more = [f"  ... and {len(entries) - SHOWN} more"] if len(entries) > SHOWN else []
    return [f"{title}: {len(entries) or 'none'}", *(f"  {entry}" for entry in entries[:SHOWN]), *more]
