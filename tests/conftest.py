"""What holds for all tests: their order, how long an example of hypothesis may take, and how many lives optimizers have."""

import importlib
import logging
from collections import Counter

import pytest
from hypothesis import settings

settings.register_profile("suite", deadline=None)  # a busy machine is no failure
settings.load_profile("suite")


SHIPPED = pytest.StashKey()  # the options with which C++ functions are built for users


def pytest_configure(config):
    """Keep pytest from listening to torch's log of its tracing, which takes a third of the time to write.

    C++ functions are built with few optimizations, in half the time; ``as_shipped`` is for tests of these functions.
    """
    importlib.import_module("torch")  # sets the logger up
    logging.getLogger("torch.__trace").propagate = True
    library = importlib.import_module("gradchain.optim_wrapper.execution.cpp_library")
    config.stash[SHIPPED] = library.FLAGS
    library.FLAGS = tuple("-O1" if flag == "-O3" else flag for flag in library.FLAGS)


def pytest_addoption(parser):
    parser.addoption(
        "--lives", type=int, default=0, help="lives of each chain in test_lives, at random, with figures at the end"
    )
    parser.addoption("--lives-operations", default="", help="what may happen in them beside steps, in a list with commas")
    parser.addoption("--lives-drivers", default="", help="drivers that live, in a list with commas")


def pytest_collection_modifyitems(items):
    """Modules with slow tests first, so that no worker is left alone with one at the end."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


def pytest_terminal_summary(terminalreporter, config):
    """Figures of the lives that were asked for."""
    if not config.getoption("--lives"):
        return
    reports = [report for kind in ("passed", "failed") for report in terminalreporter.stats.get(kind, [])]
    figures = [value for report in reports for key, value in report.user_properties if key == "lives"]
    largest, edits = {}, Counter()
    for one in figures:
        edits.update(one["edits"])
        for key, difference in one["largest"].items():
            largest[key] = max(largest.get(key, 0.0), difference)
    totals = {key: sum(one[key] for one in figures) for key in ("lives", "steps", "refused")}
    terminalreporter.section("lives of optimizers")
    terminalreporter.write_line(", ".join(f"{number} {key}" for key, number in totals.items()))
    terminalreporter.write_line(", ".join(f"{number} {key}" for key, number in sorted(edits.items())))
    for key, difference in sorted(largest.items()):
        terminalreporter.write_line(f"largest difference from the reference, {key}: {difference:.1e}")


@pytest.fixture
def graphs_only(monkeypatch):
    """Compiled graphs on a CPU, as on a GPU, where no C++ function takes their place."""
    planned = importlib.import_module("gradchain.optim_wrapper.drivers.planned")
    monkeypatch.setattr(planned, "compiler", lambda: None)


@pytest.fixture
def as_shipped(monkeypatch, pytestconfig):
    """C++ functions as users get them."""
    library = importlib.import_module("gradchain.optim_wrapper.execution.cpp_library")
    monkeypatch.setattr(library, "FLAGS", pytestconfig.stash[SHIPPED])
    monkeypatch.setattr(library, "KERNELS", {})
    functions = importlib.import_module("gradchain.optim_wrapper.execution.cpp_functions")
    monkeypatch.setattr(functions, "BUILT", type(functions.BUILT)(256))
