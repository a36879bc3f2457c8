"""Which saved parameter is which: by name where both sides were given names, by position otherwise.

Names are compared without what wrappers of models put in front or in between (``module.``, ``_orig_mod.``). Placeholders,
which the library makes up for parameters without names (``0.1``, ``0.1.lora_A``), and names that occur more than once do not
tell which parameter is which: such parameters are compared by position, also beside others that are compared by name.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from gradchain.optim_wrapper.names import PLACEHOLDERS, given_names, mark
from gradchain.transforms._names import bare

Group = Mapping[str, Any]
Place = tuple[int, int]  # group, and position in it
Names = list[list[str | None]]  # by place; None where the parameter is compared by position


class Entry(NamedTuple):
    """A parameter of a group."""

    number: Any
    name: str
    given: bool  # by a caller; otherwise a placeholder
    listed: bool  # in the group's list of names


class Matched(NamedTuple):
    """The saved groups with their parameters in the order of the live ones."""

    groups: list[dict[str, Any]]
    missing: tuple[str, ...] = ()  # live parameters that were not saved
    unused: tuple[str, ...] = ()  # saved parameters that are not live
    moved: Mapping[Any, str] = {}  # saved number -> the label under which it was saved, where that is not its label now


def matched(live: Sequence[Group], saved: Sequence[Group]) -> Matched | None:
    """Bring saved groups and parameters into the order of the live ones; None where their numbers do not allow it."""
    old = [_by_number(group) for group in saved]
    labeled = all("label" in group for group in (*live, *old))  # partitions may split their groups otherwise
    here, there = _entries(live), _entries(old)
    mine, theirs = _telling(here), _telling(there)
    if (len(old) == len(live) or labeled) and _places(mine).keys() & _places(theirs).keys():
        homes = _homes(mine, _places(theirs), live, old)
        sources = _by_name(mine, theirs, homes)
    elif len(old) == len(live) and all(map(_as_many, live, old)):
        homes = list(range(len(live)))
        sources = {(g, i): (g, i) for g in homes for i in range(len(here[g]))}
    else:
        return None
    pairs = [
        [(one, there[at[0]][at[1]] if (at := sources.get((g, i))) else None) for i, one in enumerate(entries)]
        for g, entries in enumerate(here)
    ]
    named = any("param_names" in group for group in (*live, *old))
    groups = [_as_live(_labeled(old[h], group), pairs[g], named) for g, (h, group) in enumerate(zip(homes, live, strict=True))]
    moved = {there[h][j].number: then for (g, _), (h, j) in sources.items() if (then := _moved(old[h], live[g]))}
    missing = tuple(bare(one.name) for entries in pairs for one, source in entries if source is None)
    used = set(sources.values())
    unused = tuple(bare(one.name) for h, entries in enumerate(there) for j, one in enumerate(entries) if (h, j) not in used)
    return Matched(groups, missing, unused, moved)


def _as_many(a: Group, b: Group) -> bool:
    return len(a["params"]) == len(b["params"])


def _by_number(group: Group) -> Group:
    """A saved group whose names stand in the order of its parameters.

    torch.distributed.checkpoint numbers parameters by their names in the model and brings these numbers, but not the list of
    names beside them, into the order of the live optimizer.
    """
    numbers, names = group["params"], group.get("param_names")
    if names is None or not numbers or not all(isinstance(number, str) for number in numbers):
        return group
    if Counter(map(bare, numbers)) == Counter(map(bare, names)):
        return {**group, "param_names": list(numbers)}
    if any(given_names(group)):
        return {key: value for key, value in group.items() if key not in ("param_names", PLACEHOLDERS)}
    return group


def _entries(groups: Sequence[Group]) -> list[list[Entry]]:
    entries: list[list[Entry]] = []
    for g, group in enumerate(groups):
        listed = len(group.get("param_names", ())) == len(group["params"])
        names = group.get("param_names", ()) if listed else [f"{g}.{i}" for i in range(len(group["params"]))]
        rows = zip(group["params"], names, given_names(group), strict=True)
        entries.append([Entry(number, name, given is not None, listed) for number, name, given in rows])
    return entries


def _telling(entries: Sequence[Sequence[Entry]]) -> Names:
    """The names, without what wrappers add, that tell which parameter is which."""
    names = [[bare(one.name) if one.given else None for one in group] for group in entries]
    times = Counter(name for listed in names for name in listed)
    return [[name if times[name] == 1 else None for name in listed] for listed in names]


def _places(names: Names) -> dict[str, Place]:
    return {name: (g, i) for g, listed in enumerate(names) for i, name in enumerate(listed) if name is not None}


def _by_name(mine: Names, theirs: Names, homes: Sequence[int]) -> dict[Place, Place]:
    """The saved place of each live parameter by their names, and by position for those that names do not tell apart."""
    place, known = _places(theirs), _places(mine)
    sources = {here: place[name] for name, here in known.items() if name in place}
    for home in sorted(set(homes)):
        here = [(g, i) for g, h in enumerate(homes) if h == home for i, name in enumerate(mine[g]) if name not in place]
        there = [(home, j) for j, name in enumerate(theirs[home]) if name not in known]
        if len(here) != len(there):  # some came or went: those with names may be they
            here = [(g, i) for g, i in here if mine[g][i] is None]
            there = [(h, j) for h, j in there if theirs[h][j] is None]
        if len(here) == len(there):
            pairs = zip(here, there, strict=True)
            sources |= {(g, i): (h, j) for (g, i), (h, j) in pairs if mine[g][i] is None or theirs[h][j] is None}
    return sources


def _as_live(old: Group, pairs: Sequence[tuple[Entry, Entry | None]], named: bool) -> dict[str, Any]:
    """A saved group for a live one: the numbers of its parameters, and their names where any group has names.

    A name that a caller has given the live parameter stays; a placeholder yields to the saved name.
    """
    made = {key: value for key, value in old.items() if key not in ("param_names", PLACEHOLDERS)}
    made["params"] = [source.number if source else f"{bare(one.name)} was not saved" for one, source in pairs]
    if named:
        kept = [one if one.given or source is None or not source.listed else source for one, source in pairs]
        made["param_names"] = [one.name for one in kept]
        mark(made, [one.name for one in kept if not one.given])
    return made


def _moved(old: Group, live: Group) -> str | None:
    """The label under which a group was saved, where that is not its label now."""
    then: str | None = old.get("label")
    return None if live.get("label") in (None, then) else then


def _labeled(old: Group, live: Group) -> Group:
    """The saved group; where it was one of another label, and so of another chain, the live one."""
    return old if "label" not in live or old.get("label") == live["label"] else live


def _homes(mine: Names, place: Mapping[str, Place], live: Sequence[Group], old: Sequence[Group]) -> list[int]:
    """For each live group the saved group, of its label where there are any, that most of its parameters come from.

    Where groups have no labels, each saved group is used once: if several live groups want the same one, each takes the one
    in its own place; live groups in which no name counts take those that are left, in order.
    """
    found = [Counter(place[name][0] for name in names if name is not None and name in place) for names in mine]
    if all("label" in group for group in live):
        return [_home_of_label(g, group["label"], found[g], old) for g, group in enumerate(live)]
    wanted = [counts.most_common(1)[0][0] if counts else None for counts in found]
    taken = [home for home in wanted if home is not None]
    if len(set(taken)) < len(taken):
        return list(range(len(live)))
    free = iter(sorted(set(range(len(old))) - set(taken)))
    return [next(free) if home is None else home for home in wanted]


def _home_of_label(g: int, label: str, counts: Counter[int], old: Sequence[Group]) -> int:
    same = [h for h, group in enumerate(old) if group.get("label") == label]
    return max(same, key=lambda h: counts[h]) if same else min(g, len(old) - 1)
