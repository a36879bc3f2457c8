"""Optimizers live through steps and edits in any order: every driver is as the reference, and the classics as torch.optim.

``pytest -n 0 tests/optim_wrapper/test_lives.py --lives 200`` makes 200 lives of each chain, at random, and prints figures.
"""

import os

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test
from lives.cases import AVERAGES, BY_NAME, CASES, CLASSICS, MEETINGS, ONE_BY_ONE, SEVERAL_CALLS
from lives.life import Figures
from lives.limits import small_limits  # noqa: F401 (a fixture)
from lives.operations import machine
from lives.worlds import DRIVERS

EACH = 12  # lives of a chain where no number is given
EVENTS = 10  # in a life; most of them end in a step

pytestmark = pytest.mark.usefixtures("small_limits")


def lives(name, request, record_property):
    asked = request.config.getoption("--lives")
    figures = Figures()
    options = settings(
        max_examples=asked or EACH,
        stateful_step_count=EVENTS,
        deadline=None,
        derandomize=not asked,
        database=None,
        suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
        phases=(Phase.generate,) if os.environ.get("NO_SHRINK") else (Phase.generate, Phase.shrink),
    )
    only = os.environ.get("LIVES_ONLY")
    drivers = tuple((os.environ.get("LIVES_DRIVERS") or ",".join(DRIVERS)).split(","))
    try:
        run_state_machine_as_test(machine(name, drivers, figures, only.split(",") if only else None), settings=options)
    finally:
        record_property("lives", figures.plain())


class TestClassics:
    @pytest.mark.parametrize("name", CLASSICS)
    def test_they_live_as_torch_s_own_and_the_reference(self, name, request, record_property):
        lives(name, request, record_property)


class TestLinksThatSeeOneParameter:
    @pytest.mark.parametrize("name", ONE_BY_ONE)
    def test_they_live_as_the_reference(self, name, request, record_property):
        lives(name, request, record_property)


class TestAveragesAndMeetings:
    @pytest.mark.parametrize("name", AVERAGES | MEETINGS)
    def test_they_live_as_the_reference(self, name, request, record_property):
        lives(name, request, record_property)


class TestLinksByNameAndSeveralCalls:
    @pytest.mark.parametrize("name", BY_NAME | SEVERAL_CALLS)
    def test_they_live_as_the_reference(self, name, request, record_property):
        lives(name, request, record_property)


def test_every_chain_is_among_those_that_live():
    assert len(CASES) == len(CLASSICS) + len(ONE_BY_ONE) + len(AVERAGES) + len(MEETINGS) + len(BY_NAME) + len(SEVERAL_CALLS)
