"""Where the default profile of the relativistic optimizers differs from the published one."""

import pytest
from golden.load import cases
from golden.replay import largest_difference

from gradchain import presets

PRESET = {"RelativisticAdam": presets.relativistic_adam, "RelativisticAdamW": presets.relativistic_adamw}
CASES = list(cases("relativistic"))


def test_there_are_cases_of_both_classes():
    assert len(CASES) == 22
    assert {case.info["class"] for case in CASES} == set(PRESET)


@pytest.mark.parametrize("case", [c for c in CASES if "mid" in c.name or "edge" in c.name], ids=lambda case: case.name)
def test_the_default_profile_is_another_one(case):
    recipe = PRESET[case.info["class"]](**case.kwargs)
    assert largest_difference(recipe, case) > 1e-4
