"""The tables of the families, put together; what each column is stands in the table that uses it."""

from rows import cameamp, composition, hina, lora, regularizers, relational, structure

FAMILIES = (relational, hina, lora, cameamp, regularizers, composition, structure)


def merged(column):
    """The rows of every family, as a dict or a list."""
    parts = [getattr(family, column) for family in FAMILIES]
    if isinstance(parts[0], dict):
        return {key: row for part in parts for key, row in part.items()}
    return [row for part in parts for row in part]
