"""Limits of drivers lowered, so that parameters of a few elements take every path."""

import pytest
import torch

from gradchain.optim_wrapper.drivers import graphs, parts, tiles


@pytest.fixture
def small_limits(monkeypatch):
    """Stacks of several sizes, tiles of a row or two, and graphs for the compiler that run as they are; one thread."""
    monkeypatch.setattr(graphs, "_through_inductor", lambda body, options: body.forward)
    monkeypatch.setattr(tiles, "TILE", 8)
    monkeypatch.setattr(tiles, "READS", 99)
    monkeypatch.setattr(parts, "SMALL", 9)
    monkeypatch.setattr(parts, "STACK", 18)
    monkeypatch.setattr(parts, "MANY", 2)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
