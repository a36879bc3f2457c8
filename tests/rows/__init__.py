"""The tables of the families, put together; what each column is stands in the table that uses it."""

from rows import averages, cameamp, composition, hina, lora, matrix, regularizers, relational, structure

FAMILIES = (averages, relational, hina, lora, cameamp, regularizers, composition, structure, matrix)


def merged(column):
    """The rows of every family, as a dict or a list; two families cannot say different things of one key."""
    parts = [getattr(family, column) for family in FAMILIES]
    if isinstance(parts[0], dict):
        rows = {key: row for part in parts for key, row in part.items()}
        assert all(repr(row) == repr(rows[key]) for part in parts for key, row in part.items())
        return rows
    return [row for part in parts for row in part]
