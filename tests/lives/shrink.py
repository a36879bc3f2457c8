"""The shortest life that fails as a given one does."""

from dataclasses import fields, replace

from lives.life import live


def failure(name, groups, rates, edits, drivers):
    """What went wrong first: the world, and the first words; None where nothing did."""
    try:
        live(name, groups, rates, edits, drivers)
    except AssertionError as error:
        return str(error)
    except Exception as error:  # an edit that makes no sense here
        return f"Reference: {type(error).__name__}: {error}"
    return None


def world_of(message):
    return message.partition(":")[0].partition(" after ")[0]


def shorter(edits):
    for i in reversed(range(len(edits))):
        yield edits[:i] + edits[i + 1 :]
    for i, edit in enumerate(edits):
        for one in fields(edit):
            if one.default is not getattr(edit, one.name) and getattr(edit, one.name) and type(edit).__name__ == "Step" and one.name != "n":
                yield [*edits[:i], replace(edit, **{one.name: one.default}), *edits[i + 1 :]]


def shrunk(name, groups, rates, edits, drivers):
    """Fewer drivers, fewer edits, plainer steps, while the same world fails."""
    first = failure(name, groups, rates, edits, drivers)
    if first is None:
        return drivers, edits, None
    bad = world_of(first)
    for few in [(driver,) for driver in drivers]:
        found = failure(name, groups, rates, edits, few)
        if found and world_of(found) == bad:
            drivers = few
            break
    going = True
    while going:
        going = False
        for fewer in shorter(edits):
            found = failure(name, groups, rates, fewer, drivers)
            if found and world_of(found) == bad:
                edits, first, going = fewer, found, True
                break
    return drivers, edits, first
