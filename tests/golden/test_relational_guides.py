"""The relational guide alone, against its definition over all pairs, recorded once."""

import numpy as np
import pytest
from golden.load import cases
from links import Flow, run

from gradchain import transforms as t

CASES = list(cases("relational_guides"))


def test_there_are_90_cases():
    assert len(CASES) == 90


def guides(case):
    """The update less the gradient, for a strength of 1."""
    k, g = case.kwargs["k"], case.gradient(0)["x"]
    flow = Flow(g, g, case.initial()["x"], g)
    links = {
        "guide_rank_ties_divk_clip1": t.PublishedRelationalGuide(beta_0=1 + np.linalg.norm(g), k_neighbors=k),
        "guide_rank_ties_row": t.RelationalGuide(beta=1.0, k_neighbors=k, delta=case.kwargs["delta"]),
        "guide_sym_ties_row": t.RelationalGuide(beta=1.0, k_neighbors=k, delta=case.kwargs["delta"], ties="symmetric"),
    }
    return {name: next(run(link, [flow]))["update"] - g for name, link in links.items()}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_three_guides_are_those_of_the_definition(case):
    found = guides(case)
    assert found.keys() == case.expected.keys()
    for name, wanted in case.expected.items():
        np.testing.assert_allclose(found[name], wanted, rtol=0, atol=case.info["atol"], err_msg=name)
