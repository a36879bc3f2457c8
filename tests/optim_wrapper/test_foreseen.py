"""What a function of whole tensors gives is known on every rank without the work."""

from functools import partial

import pytest
import torch

from gradchain.optim_wrapper import foreseen as module
from gradchain.optim_wrapper.foreseen import foreseen

PIECE = torch.zeros(2, 5)
WHOLE = torch.Size((7, 5))


def worker(rank, factor, runs):
    def work(x):
        runs.append(1)
        return x * factor, x[:rank].double()

    return work


def test_shapes_and_dtypes_of_all_results():
    whole, rows = foreseen(worker(3, torch.ones(()), []), [PIECE], WHOLE)
    assert (whole.shape, whole.dtype, rows.shape, rows.dtype) == ((7, 5), torch.float32, (3, 5), torch.float64)
    assert whole.is_meta and rows.is_meta


def test_a_function_is_run_again_only_where_shapes_may_differ(monkeypatch):
    monkeypatch.setattr(module, "_KNOWN", {})
    runs = []
    for rank, factor, size in ((3, 1.0, 7), (3, 2.0, 7), (2, 2.0, 7), (2, 2.0, 8)):
        _, rows = foreseen(worker(rank, torch.full((), factor), runs), [PIECE], torch.Size((size, 5)))
        assert rows.shape == (rank, 5)
    assert len(runs) == 3  # the second is like the first


def rows_of(x, rank):
    return x[:rank]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (partial(rows_of, rank=2), partial(rows_of, rank=3)),
        (torch.flatten, torch.clone),
        (lambda x: x[:2], lambda x: x[:3]),
    ],
    ids=["partial", "builtin", "lambda"],
)
def test_what_is_no_plain_function_is_told_apart_too(one, other):
    for work in (one, other, one):
        assert foreseen(work, [PIECE], WHOLE).shape == work(torch.zeros(WHOLE)).shape
