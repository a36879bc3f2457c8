"""No preset is built with a warning, and remarks on them are those that their published order earns."""

import warnings

import pytest
from table import PRESETS

from gradchain import chain

EARNED = ("skips steps, and where it does", "clip_update_rms' has capped", " is off ")  # all as published


@pytest.mark.parametrize("name", PRESETS)
def test_lints_are_silent_on_presets(name):
    for part in PRESETS[name].parts.values():
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            chain(*part.links)
        notes = [line for line in part.describe().splitlines() if line.startswith("note: ")]
        assert [note for note in notes if not any(text in note for text in EARNED)] == []
