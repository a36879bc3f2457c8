"""No preset is built with a warning, and remarks on them are those that their published order earns."""

import warnings

import pytest
from table import PRESETS

from gradchain import chain


def capped(cap):
    return f"'cautious' may enlarge what '{cap}' has capped. Put '{cap}' behind it."


def skipped(link, decay):
    return f"'{link}' skips steps, and where it does, the decay of '{decay}' is skipped with them."


# CAME caps the quotient that it averages, and CameAMP masks the average: behind the mask the cap would be another one
CAPPED = capped("clip_update_rms")
# ADOPT's first call only measures, and skips the decay too, in its authors' program as in the presets built on it
HINA = skipped("adopt", "dynamic_weight_decay")
EARNED = {  # preset -> its remarks, besides those on a link that is off; any other fails
    "adaptive_hina": {HINA},
    "adaptive_hina_general": {HINA},
    "adaptive_hina_large_model": {HINA},
    "adopt": {skipped("adopt", "weight_decay")},
    "cameamp": {CAPPED},
    "cameamp_dual": {capped("scaled_clip_update_rms")},  # its cap has another scale, and the same place
    "cameamp_full_finetune": {CAPPED},
    "cameamp_image": {CAPPED},
    "cameamp_improved": {CAPPED},
    "cameamp_improved_orthogonal": {CAPPED},
    "cameamp_last": {skipped("previous_mean_square", "group_ada_decay")},  # no statistic yet on the first step: no step
    "cameamp_lora": {CAPPED},
    "cameamp_original": {CAPPED},
    "cameamp_original_full_finetune": {CAPPED},
    "hina_adamw": {HINA},
}


def test_earned_remarks_are_of_presets():
    assert EARNED.keys() <= PRESETS.keys()


@pytest.mark.parametrize("name", PRESETS)
def test_presets_earn_every_remark(name):
    remarks = set()
    for part in PRESETS[name].parts.values():
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            chain(*part.links)
        remarks |= {line.removeprefix("note: ") for line in part.describe().splitlines() if line.startswith("note: ")}
    assert {remark for remark in remarks if " is off " not in remark} == EARNED.get(name, set())
