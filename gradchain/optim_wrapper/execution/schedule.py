"""The order of a bucket's operations: those on whole buffers by themselves, those that depend on the shape in segments."""

from __future__ import annotations

from dataclasses import dataclass, field

from gradchain.optim_wrapper.execution.values import Kind, Values


@dataclass
class Segment:
    """Operations that run once for each shape."""

    members: list[int]
    inputs: list[int] = field(default_factory=lambda: [])  # values from outside
    results: list[int] = field(default_factory=lambda: [])  # values that others need
    exported: list[int] = field(default_factory=lambda: [])  # those of them that go to a buffer


Step = int | Segment


def schedule(values: Values, outputs: list[int]) -> list[Step]:
    """Values in an order in which each finds its inputs. What only depends on a shape is put off, to form few segments."""
    waiting = [i for i, node in enumerate(values.first.nodes) if node.op == "call_function" and _is_made(values, i)]
    waiting = _needed(values, waiting, outputs)
    done = {i for i in range(len(values.kinds)) if i not in waiting}
    order: list[Step] = []
    while waiting:
        ready = _ready(values, waiting, done, resident=False)
        order += ready
        if not ready:
            members = _ready(values, waiting, done, resident=True)
            order.append(Segment(members))
            ready = members
        gone = set(ready)
        waiting = [i for i in waiting if i not in gone]
    _find_crossings(values, order, outputs)
    return order


def _is_made(values: Values, i: int) -> bool:
    return i not in values.fixed and i not in values.constants and i not in values.same_as


def _needed(values: Values, made: list[int], outputs: list[int]) -> list[int]:
    """The operations on which the outputs depend."""
    found: set[int] = set()
    waiting = [values.root(i) for i in outputs]
    while waiting:
        i = waiting.pop()
        if i not in found:
            found.add(i)
            waiting += values.inputs_of(i)
    return [i for i in made if i in found]


def _ready(values: Values, waiting: list[int], done: set[int], resident: bool) -> list[int]:
    """The operations of one sort that can run, one after the other; they count as done."""
    found: list[int] = []
    for i in waiting:
        if (i in values.resident) is resident and done.issuperset(values.inputs_of(i)):
            found.append(i)
            done.add(i)
    return found


def _find_crossings(values: Values, order: list[Step], outputs: list[int]) -> None:
    users: dict[int, list[Step]] = {}
    for step in order:
        members = step.members if isinstance(step, Segment) else [step]
        for i in members:
            for j in values.inputs_of(i):
                users.setdefault(j, []).append(step)
    wanted = {values.root(i) for i in outputs}
    for step in order:
        if not isinstance(step, Segment):
            continue
        own = set(step.members)
        step.inputs = list(dict.fromkeys(j for i in step.members for j in values.inputs_of(i) if j not in own))
        for i in step.members:
            others = [user for user in users.get(i, []) if user is not step]
            if others or i in wanted:
                step.results.append(i)
            to_buffer = any(not isinstance(user, Segment) for user in others) or i in wanted
            if to_buffer and values.kinds[i] in (Kind.FLAT, Kind.EACH):
                step.exported.append(i)
