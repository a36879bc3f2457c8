"""Which saved parameter is which: by name where both sides have names, by position otherwise.

Names are compared without what wrappers of models put in front or in between (``module.``, ``_orig_mod.``).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

WRAPPERS = re.compile(r"^module\.|_orig_mod\.|_fsdp_wrapped_module\.|_checkpoint_wrapped_module\.")


class Matched(NamedTuple):
    """A saved state with its parameters in the order of the live ones."""

    saved: Mapping[str, Any]
    missing: tuple[str, ...] = ()  # live parameters that were not saved
    unused: tuple[str, ...] = ()  # saved parameters that are not live


def matched(live: Sequence[Mapping[str, Any]], saved: Mapping[str, Any]) -> Matched:
    """Bring the saved groups and parameters into the order of the live ones, where all of them have names."""
    old: Sequence[Mapping[str, Any]] = saved["param_groups"]
    if len(old) != len(live) or not all(_named(group) for group in (*live, *old)):
        return Matched(saved)
    place = {_bare(name): (g, number) for g, group in enumerate(old) for name, number in _pairs(group)}
    wanted = [[_bare(name) for name in group["param_names"]] for group in live]
    mine = {name for names in wanted for name in names}
    if not mine & place.keys() or any(len(names) != len(set(names)) for names in wanted):
        return Matched(saved)
    homes = _homes(wanted, place)
    groups: list[Any] = []
    for home, group, names in zip(homes, live, wanted, strict=True):
        numbers = [place[name][1] if name in place else f"{name} was not saved" for name in names]
        groups.append({**old[home], "params": numbers, "param_names": list(group["param_names"])})
    missing = tuple(name for names in wanted for name in names if name not in place)
    unused = tuple(name for name in place if name not in mine)
    return Matched({**saved, "param_groups": groups}, missing, unused)


def _named(group: Mapping[str, Any]) -> bool:
    return len(group.get("param_names", ())) == len(group["params"])


def _pairs(group: Mapping[str, Any]) -> list[tuple[str, int]]:
    return list(zip(group["param_names"], group["params"], strict=True))


def _bare(name: str) -> str:
    return WRAPPERS.sub("", name)


def _homes(wanted: Sequence[Sequence[str]], place: Mapping[str, tuple[int, Any]]) -> list[int]:
    """For each live group the saved group that most of its parameters come from, if each is so used once; else its own."""
    homes: list[int] = []
    for g, names in enumerate(wanted):
        counts = Counter(place[name][0] for name in names if name in place)
        homes.append(counts.most_common(1)[0][0] if counts else g)
    return homes if sorted(homes) == list(range(len(wanted))) else list(range(len(wanted)))
