"""Every recorded trajectory of the original programs, replayed through presets: one builder per published class."""

import pytest
from golden.load import cases
from golden.replay import largest_difference
from rows import merged

from gradchain import presets


def ladam(preset):
    def build(case):
        decay = "coupled" if "0.2.0" in case.info["version"] else "decoupled"
        return preset(**case.kwargs, decay=decay, published=True)

    return build


# (family, published class) -> what makes the chain of a case
REPLAYS = {
    ("ladam", "LAdam"): ladam(presets.ladam),
    ("ladam", "LAdamW"): ladam(presets.ladam),
    ("ladam", "LAdaGrad"): ladam(presets.ladagrad),
    ("ladam", "LRMSProp"): ladam(presets.lrmsprop),
    ("relativistic", "RelativisticAdam"): lambda case: presets.relativistic_adam(**case.kwargs, published=True),
    ("relativistic", "RelativisticAdamW"): lambda case: presets.relativistic_adamw(**case.kwargs, published=True),
} | merged("REPLAYS")
CASES = [case for case in cases() if case.info["family"] != "relational_guides" and case.info["status"] != "record"]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_published_form_replays_the_original(case):
    recipe = REPLAYS[case.info["family"], case.info["class"]](case)
    assert largest_difference(recipe, case) <= case.info["atol"]
