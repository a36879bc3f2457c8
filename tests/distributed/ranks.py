"""Functions of this folder, run on several gloo ranks on one machine."""

import functools
import multiprocessing
import os
import pickle
import tempfile
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn


def _one_rank(rank, world, folder, function, arguments):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=world)
    try:
        result = function(*arguments)
        Path(folder, f"result{rank}").write_bytes(pickle.dumps(result))
    finally:
        dist.destroy_process_group()


IMPORTED = ["gradchain", "torch._dynamo", "torch.distributed.fsdp", "torch.distributed.checkpoint.state_dict"]


def on_ranks(world, function, *arguments):
    """What ``function(*arguments)`` gives on each rank. Ranks are forked from a process that has done the imports, once."""
    multiprocessing.set_forkserver_preload(IMPORTED)
    with tempfile.TemporaryDirectory() as folder:
        mp.start_processes(_one_rank, (world, folder, function, arguments), world, start_method="forkserver")
        return [pickle.loads(Path(folder, f"result{rank}").read_bytes()) for rank in range(world)]


class Transformer(nn.Module):
    """One block on 11 tokens; extents that 2 and 3 ranks cut unevenly, and into empty pieces."""

    def __init__(self, layers=1, bias=True):
        super().__init__()
        self.embedding = nn.Embedding(11, 8)
        self.blocks = nn.ModuleList(Block(bias) for _ in range(layers))
        self.head = nn.Linear(8, 1)

    def forward(self, tokens):
        x = self.embedding(tokens)
        for block in self.blocks:
            x = block(x)
        return self.head(x).clone()  # FSDP warns of views


class Block(nn.Module):
    def __init__(self, bias):
        super().__init__()
        self.norm = nn.LayerNorm(8, bias=bias)
        self.qkv = nn.Linear(8, 24, bias=False)
        self.mix = nn.Conv1d(8, 7, 3, padding=1)
        self.out = nn.Linear(7, 8, bias=bias)

    def forward(self, x):
        q, k, v = self.qkv(self.norm(x)).chunk(3, -1)
        attended = nn.functional.scaled_dot_product_attention(q, k, v)
        return x + self.out(torch.tanh(self.mix(attended.transpose(1, 2)).transpose(1, 2)))


def model(layers=1, bias=True, dtype=torch.float64):
    torch.manual_seed(0)
    return Transformer(layers, bias).to(dtype)


def batch(t, dtype=torch.float64):
    """Tokens and targets of step t, the same on every rank."""
    random = torch.Generator().manual_seed(t)
    return torch.randint(0, 11, (3, 6), generator=random), torch.randn(3, 6, 1, generator=random).to(dtype)


def train(net, optimizer, start, stop):
    for t in range(start, stop):
        tokens, targets = batch(t, next(net.parameters()).dtype)
        optimizer.zero_grad()
        (net(tokens) - targets).square().mean().backward()
        optimizer.step()


def full(net):
    """The parameters, whole, as plain tensors."""
    whole = (p.full_tensor() if hasattr(p, "full_tensor") else p for p in net.parameters())
    return [p.detach().clone() for p in whole]


def difference(first, second):
    return max((a - b).abs().max().item() for a, b in zip(first, second, strict=True))


@functools.cache
def collectives():
    """The names of the functions of torch.distributed by which gradchain talks."""
    return ("all_reduce", "all_gather_single", "all_to_all_single")


def counted(act):
    """{collective: [bytes sent by each call]} while ``act`` runs."""
    calls = {name: [] for name in collectives()}
    originals = {name: getattr(dist, name) for name in calls}

    def watching(name):
        def call(*args, **kwargs):
            sent = args[0] if name == "all_reduce" else args[1]
            calls[name].append(sent.numel() * sent.element_size())
            return originals[name](*args, **kwargs)

        return call

    for name in calls:
        setattr(dist, name, watching(name))
    try:
        act()
    finally:
        for name, original in originals.items():
            setattr(dist, name, original)
    return calls


os.environ.setdefault("OMP_NUM_THREADS", "1")
