"""Packages that only studies need."""

from __future__ import annotations

import importlib
from typing import Any


def needs(module: str) -> Any:
    """The module, or an ImportError that says how to get it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(f'studies need {module.partition(".")[0]}: pip install "gradchain[study]"') from error
