"""The sets of parameters that are stepped."""

from __future__ import annotations

import torch
from torch import Tensor, nn

Shapes = list[tuple[int, ...]]


def gpt2_small() -> Shapes:
    width, vocabulary, context = 768, 50257, 1024
    norm: Shapes = [(width,), (width,)]
    attention: Shapes = [(3 * width, width), (3 * width,), (width, width), (width,)]
    mlp: Shapes = [(4 * width, width), (4 * width,), (width, 4 * width), (width,)]
    return [(vocabulary, width), (context, width), *(norm + attention + norm + mlp) * 12, *norm]


def resnet18() -> Shapes:
    shapes: Shapes = [(64, 3, 7, 7), (64,), (64,)]
    for before, width in ((64, 64), (64, 128), (128, 256), (256, 512)):
        shapes += [(width, before, 3, 3), (width,), (width,)] + [(width, width, 3, 3), (width,), (width,)] * 3
        shapes += [(width, before, 1, 1), (width,), (width,)] if width != before else []
    return [*shapes, (1000, 512), (1000,)]


def sdxl_lora(rank: int = 16) -> Shapes:
    """A and B of every linear layer that LoRA trainers adapt in SDXL: the U-Net's attention and both text encoders."""
    layers: list[tuple[int, int]] = []
    for width, blocks in ((640, 10), (1280, 60)):
        block = [(width, width)] * 5 + [(2048, width)] * 2 + [(width, width), (width, 8 * width), (4 * width, width)]
        layers += block * blocks
    layers += [(640, 640)] * 10 + [(1280, 1280)] * 12
    for width, blocks in ((768, 12), (1280, 32)):
        layers += ([(width, width)] * 4 + [(width, 4 * width), (4 * width, width)]) * blocks
    return [shape for inputs, outputs in layers for shape in ((rank, inputs), (outputs, rank))]


SMALL: dict[str, Shapes] = {  # stepped beside torch.optim.AdamW(params), as everybody writes it for a small network
    "PINN / 12 tensors": [(128, 2), (128,), *[(128, 128), (128,)] * 4, (1, 128), (1,)],
    "4 tensors": [(64, 64), (64,), (10, 64), (10,)],
}
WORKLOADS: dict[str, Shapes] = SMALL | {
    "124M / 148 tensors": gpt2_small(),
    "ResNet-18": resnet18(),
    "500 LoRA matrices": [(8, 768), (768, 8)] * 250,
    "SDXL LoRA": sdxl_lora(),
    "2,000 x 100": [(100,)] * 2000,
    "4096 x 4096": [(4096, 4096)],
}
LARGE: dict[str, Shapes] = {"1e9 / 60 tensors": [(4096, 4096)] * 60}  # for a GPU
QUICK: dict[str, Shapes] = {"matrix": [(256, 256)], "tiny": [(100,)] * 20}
RELATIONAL: dict[str, Shapes] = {"relational, n = 1e6": [(1_000_000,)]}


def made(shapes: Shapes, device: str) -> list[Tensor]:
    """Parameters with gradients. No gradient is 0: denormal moments would slow every step."""
    random = torch.Generator(device).manual_seed(0)
    params: list[Tensor] = []
    for shape in shapes:
        param = nn.Parameter(torch.randn(shape, generator=random, device=device) * 0.02)
        param.grad = torch.randn(shape, generator=random, device=device) * 0.01
        params.append(param)
    return params


def size(shapes: Shapes) -> int:
    """Elements in all."""
    return sum(torch.Size(shape).numel() for shape in shapes)
