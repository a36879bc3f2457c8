"""Where the default form of the LAdam family replays the published one, and where it does not."""

import pytest
from golden.load import cases
from golden.replay import largest_difference

from gradchain import presets

PRESET = {"LAdam": presets.ladam, "LAdamW": presets.ladam, "LAdaGrad": presets.ladagrad, "LRMSProp": presets.lrmsprop}
CASES = list(cases("ladam"))


def build(case, published):
    """The chain that replays a case: its own arguments, the decay style of its release."""
    decay = "coupled" if "0.2.0" in case.info["version"] else "decoupled"
    return PRESET[case.info["class"]](**case.kwargs, decay=decay, published=published)


def test_there_are_cases_of_both_releases():
    assert len(CASES) == 30
    assert {case.info["version"] for case in CASES} == {"ladam 0.2.0 (PyPI)", "ladam 0.4.1 (PyPI)"}


def needs_published(case):
    return case.kwargs.get("mode") == "wave_variance" or any(word in case.name for word in ("tinygrad", "c2_1p0"))


@pytest.mark.parametrize("case", [c for c in CASES if not needs_published(c)], ids=lambda case: case.name)
def test_the_default_form_replays_it_where_the_floor_is_never_reached(case):
    assert largest_difference(build(case, published=False), case) <= case.info["atol"]


@pytest.mark.parametrize("case", [c for c in CASES if "tinygrad" in c.name], ids=lambda case: case.name)
def test_the_floor_is_what_sets_the_published_form_apart_on_tiny_gradients(case):
    assert largest_difference(build(case, published=False), case) > 0.1
