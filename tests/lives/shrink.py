"""The shortest life that fails as a given one does."""

import time
from dataclasses import replace

from lives.edits import Step
from lives.life import live, written

SECONDS = 60  # spent on it at most


def failure(name, groups, rates, drivers, edits):
    """What went wrong first: the world, and the first words; None where nothing did."""
    try:
        live(name, groups, rates, edits, drivers)
    except AssertionError as error:
        return str(error)
    except Exception as error:  # an edit that makes no sense here
        return f"{type(error).__name__}: {error}"
    return None


def world_of(message):
    """The world that a failure is of, which comes first in its message."""
    return message.partition(":")[0].partition(" after ")[0]


def shorter(edits):
    """The same without one of the edits, from the last to the first, or with a plainer step."""
    for i in reversed(range(len(edits))):
        yield edits[:i] + edits[i + 1 :]
    for i, edit in enumerate(edits):
        if isinstance(edit, Step):
            for name in ("missing", "zero", "infinite", "kept", "mode"):
                if getattr(edit, name):
                    yield [*edits[:i], replace(edit, **{name: "" if name == "mode" else ()}), *edits[i + 1 :]]


def shortened(life):
    """The shortest life with a failure of the same world, as code; None where it does not fail again."""
    name, groups, rates, drivers = life.begun
    edits, end = list(life.journal), time.monotonic() + SECONDS
    message = failure(name, groups, rates, drivers, edits)
    if message is None:
        return None
    world = world_of(message)
    for driver in drivers:
        found = failure(name, groups, rates, (driver,), edits)
        if found and world_of(found) == world:
            drivers = (driver,)
            break
    going = True
    while going:
        going = False
        for fewer in shorter(edits):
            if time.monotonic() > end:
                break
            found = failure(name, groups, rates, drivers, fewer)
            if found and world_of(found) == world:
                edits, message, going = fewer, found, True
                break
    return f"{message}\n{written(name, groups, rates, drivers, edits)}"
