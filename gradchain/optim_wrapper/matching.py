"""Which saved parameter is which: by name where both sides have names, by position otherwise.

Names are compared without what wrappers of models put in front or in between (``module.``, ``_orig_mod.``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from gradchain.transforms._names import bare


class Matched(NamedTuple):
    """A saved state with its parameters in the order of the live ones."""

    saved: Mapping[str, Any]
    missing: tuple[str, ...] = ()  # live parameters that were not saved
    unused: tuple[str, ...] = ()  # saved parameters that are not live
    moved: Mapping[Any, str] = {}  # saved number -> the label under which it was saved, where that is not its label now


def matched(live: Sequence[Mapping[str, Any]], saved: Mapping[str, Any]) -> Matched:
    """Bring the saved groups and parameters into the order of the live ones, where all of them have names."""
    old: Sequence[Mapping[str, Any]] = saved["param_groups"]
    labeled = all("label" in group for group in (*live, *old))  # partitions may split their groups otherwise
    if (len(old) != len(live) and not labeled) or not all(_named(group) for group in (*live, *old)):
        return _by_position(live, saved)
    place = {bare(name): (g, number) for g, group in enumerate(old) for name, number in _pairs(group)}
    wanted = [[bare(name) for name, _ in _pairs(group)] for group in live]
    mine = {name for names in wanted for name in names}
    if not mine & place.keys() or any(len(names) != len(set(names)) for names in wanted):
        return _by_position(live, saved)
    groups: list[Any] = []
    moved: dict[Any, str] = {}
    for home, group, names in zip(_homes(wanted, place, live, old), live, wanted, strict=True):
        numbers = [place[name][1] if name in place else f"{name} was not saved" for name in names]
        groups.append({**_labeled(old[home], group), "params": numbers, "param_names": list(group.get("param_names", ()))})
        for g, number in (place[name] for name in names if name in place):
            moved |= _moved(old[g], group, [number])
    missing = tuple(name for names in wanted for name in names if name not in place)
    unused = tuple(name for name in place if name not in mine)
    return Matched({**saved, "param_groups": groups}, missing, unused, moved)


def _by_position(live: Sequence[Mapping[str, Any]], saved: Mapping[str, Any]) -> Matched:
    old: Sequence[Mapping[str, Any]] = saved["param_groups"]
    groups = [*(_labeled(*pair) for pair in zip(old, live, strict=False)), *old[len(live) :]]
    moved = {
        number: then
        for pair in zip(old, live, strict=False)
        for number, then in _moved(*pair, pair[0].get("params", ())).items()
    }
    return Matched({**saved, "param_groups": groups}, moved=moved)


def _moved(old: Mapping[str, Any], live: Mapping[str, Any], numbers: Sequence[Any]) -> dict[Any, str]:
    then: str | None = old.get("label")
    if then is None or live.get("label") in (None, then):
        return {}
    return dict.fromkeys(numbers, then)


def _labeled(old: Mapping[str, Any], live: Mapping[str, Any]) -> Mapping[str, Any]:
    """The saved group; where it was one of another label, and so of another chain, the live one with the saved parameters."""
    if "label" not in live or "params" not in old or old.get("label") == live["label"]:
        return old
    return {**live, **{key: old[key] for key in ("params", "param_names") if key in old}}


def _named(group: Mapping[str, Any]) -> bool:
    return len(group.get("param_names", ())) == len(group["params"])


def _pairs(group: Mapping[str, Any]) -> list[tuple[str, int]]:
    return list(zip(group.get("param_names", ()), group["params"], strict=True))  # an empty group may have none


def _homes(
    wanted: Sequence[Sequence[str]],
    place: Mapping[str, tuple[int, Any]],
    live: Sequence[Mapping[str, Any]],
    old: Sequence[Mapping[str, Any]],
) -> list[int]:
    """For each live group the saved group, of its label where there are any, that most of its parameters come from.

    Where groups have no labels, each saved group is so used once, or each live group takes the one in its own place.
    """
    homes: list[int] = []
    for g, names in enumerate(wanted):
        label = live[g].get("label")
        counts = Counter(place[name][0] for name in names if name in place)
        same = [h for h in range(len(old)) if old[h].get("label") == label] if label is not None else list(range(len(old)))
        homes.append(max(same, key=lambda h: counts[h]) if same and (label or counts) else min(g, len(old) - 1))
    once = sorted(homes) == list(range(len(wanted)))
    return homes if once or all("label" in group for group in live) else list(range(len(wanted)))
