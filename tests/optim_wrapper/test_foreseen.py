"""What a function of whole tensors gives is known on every rank without the work."""

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
