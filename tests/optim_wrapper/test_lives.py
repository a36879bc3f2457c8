"""Optimizers live through steps and edits in any order: every driver is as the reference, and the classics as torch.optim.

``pytest -n 0 tests/optim_wrapper/test_lives.py --lives 200`` makes 200 lives of each chain, at random, and prints figures.
"""

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test
from lives.cases import AVERAGES, BY_NAME, CASES, CLASSICS, MEETINGS, ONE_BY_ONE, SEVERAL_CALLS
from lives.life import Figures
from lives.limits import small_limits  # noqa: F401 (a fixture)
from lives.operations import machine
from lives.shrink import shortened
from lives.worlds import DRIVERS

EACH = 14  # lives of a chain where no number is given
FEWER = {"prodigy": 5, "adafactor": 8, "partition_averages": 10}  # of chains that take long to trace
EVENTS = 10  # in a life; most of them end in a step

pytestmark = pytest.mark.usefixtures("small_limits")


def lives(name, request, record_property):
    option, figures = request.config.getoption, Figures()
    asked, operations, drivers = option("--lives"), option("--lives-operations"), option("--lives-drivers")
    options = settings(
        max_examples=asked or FEWER.get(name, EACH),
        stateful_step_count=EVENTS,
        deadline=None,
        derandomize=not asked,
        database=None,
        suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
        phases=(Phase.generate,),  # a life is made shorter in a way of its own, which is faster by far
    )
    some = {"steps", *operations.split(",")} if operations else None
    among = tuple(drivers.split(",")) if drivers else tuple(DRIVERS)
    lives = machine(name, among, figures, some)
    try:
        run_state_machine_as_test(lives, settings=options)
    except BaseException as error:
        if lives.latest is not None and (short := shortened(lives.latest)) is not None:
            raise AssertionError(short) from error
        raise
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


def test_every_chain_lives_and_often_enough():
    assert sum(FEWER.get(name, EACH) for name in CASES) >= 300
    assert len(CASES) == len(CLASSICS) + len(ONE_BY_ONE) + len(AVERAGES) + len(MEETINGS) + len(BY_NAME) + len(SEVERAL_CALLS)
