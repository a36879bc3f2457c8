"""Adapters whose factors are cut over ranks: the numbers of a single process, also where ranks hold nothing of a factor."""

import pytest
import torch
from distributed.ranks import difference, on_ranks

from gradchain import presets

pytestmark = pytest.mark.slow
SHAPES = {
    "q.lora_A.weight": (2, 7),
    "q.lora_B.weight": (5, 2),
    "c.lora_down.weight": (4, 3, 3, 3),
    "c.lora_up.weight": (6, 4, 1, 1),
    "v.lokr_w1": (3, 4),
    "v.lokr_w2_a": (5, 1),
    "v.lokr_w2_b": (1, 6),
    "w.lokr_w1": (2, 2),
    "w.lokr_w2": (3, 5),
    "v.bias": (7,),
}


def starts():
    return [
        torch.randn(shape, generator=torch.Generator().manual_seed(i), dtype=torch.float64)
        for i, shape in enumerate(SHAPES.values())
    ]


def train(published, place):
    """Five steps on parameters and gradients that ``place`` has put where they belong."""
    params = [torch.nn.Parameter(place(start)) for start in starts()]
    recipe = presets.hina_adamw(published=published, use_orthogonal_grad=True, lr=0.01, wd_transition_steps=2)
    optimizer = recipe.optimizer(zip(SHAPES, params, strict=True))
    for step in range(5):
        for p, start in zip(params, starts(), strict=True):
            p.grad = place(torch.sin(start * (step + 2)))
        optimizer.step()
    return [p.detach() for p in params]


def on_shards():
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Shard, distribute_tensor

    mesh = init_device_mesh("cpu", (torch.distributed.get_world_size(),))

    found = []
    for published, dim in ((False, 0), (False, 1), (True, 0), (True, 1)):
        cut = train(published, lambda x: distribute_tensor(x, mesh, [Shard(min(dim, x.dim() - 1))]))  # noqa: B023 (called at once)
        found.append(difference([p.full_tensor() for p in cut], train(published, torch.clone)))
    return found


def test_pairs_on_three_ranks_are_those_of_one_process():
    assert all(max(found) <= 1e-10 for found in on_ranks(3, on_shards))
