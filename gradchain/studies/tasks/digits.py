"""Handwritten digits: scikit-learn's bundled 1,797 images of 8x8 pixels, classified by a small network."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gradchain.studies.extras import needs
from gradchain.studies.tasks.task import Task

BATCH = 64


class Digits:
    """A network 64 -> 64 -> 10; a fifth of the images is kept for the test."""

    def __init__(self, seed: int) -> None:
        bundled = needs("sklearn.datasets").load_digits()
        images = torch.tensor(bundled.data, dtype=torch.float32) / 16
        labels = torch.tensor(bundled.target)
        self.random = torch.Generator().manual_seed(seed)
        order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))  # one split for all seeds
        kept, seen = order[: len(order) // 5], order[len(order) // 5 :]
        self.test, self.train = (images[kept], labels[kept]), (images[seen], labels[seen])
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.net = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))

    def named_parameters(self):
        return self.net.named_parameters()

    def loss(self) -> Tensor:
        """Cross entropy of a random batch."""
        self.batch = torch.randint(len(self.train[1]), (BATCH,), generator=self.random)
        return self.again()

    def again(self) -> Tensor:
        """Cross entropy of the same batch."""
        return nn.functional.cross_entropy(self.net(self.train[0][self.batch]), self.train[1][self.batch])

    @torch.no_grad()
    def metric(self) -> float:
        return float(nn.functional.cross_entropy(self.net(self.test[0]), self.test[1]))


DIGITS = Task("digits", "scikit-learn's 8x8 digits, 64-64-10 ReLU network", "test cross entropy", 500, Digits)
