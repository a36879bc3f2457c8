"""What is measured: a name, and a function that makes the optimizer of a list of parameters.

A package that is not installed raises ImportError when its contestant is made, and is then named as skipped.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from gradchain import Chain, chain, presets
from gradchain import transforms as t

Make = Callable[[list[Tensor]], Any]  # gives something with step() and state
LR = 1e-4
PACKAGES = ("heavyball", "torchzero", "pytorch_optimizer", "timm", "torch-optimi", "torchopt", "ladam", "relativistic-adam")


def eight_links() -> Chain:
    """What ladam, cautious masking, decoupled decay and a speed limit make together."""
    return chain(
        t.Moments(),
        t.Laplacian(c2=1e-4),
        t.VarianceFloor(name="variance_floor"),
        t.Normalize(),
        t.Cautious(),
        t.WeightDecay(weight_decay=0.01),
        t.LearningRate(lr=LR),
        t.SpeedLimit(speed_limit=10.0),
    )


CHAINS: dict[str, Callable[[], Chain]] = {
    "adamw": lambda: presets.adamw(lr=LR),
    "ladam": lambda: presets.ladam(lr=LR, c2=1e-4),
    "8 links": eight_links,
    "relativistic_adam per component": lambda: presets.relativistic_adam(lr=LR, relativistic_mode="per_component"),
}


DEFAULTS: dict[str, Callable[[], Any]] = CHAINS | {  # measured with no driver named
    name: partial(getattr(presets, name), lr=LR)
    for name in ("lion", "c_adamw", "relativistic_adamw", "came", "adaptive_hina", "cameamp")
}


def fused(params: list[Tensor]) -> Any:
    """The reference for ratios."""
    return torch.optim.AdamW(params, lr=LR, fused=True)


def plain(params: list[Tensor]) -> Any:
    """The reference for ratios on small networks, as everybody writes it there."""
    return torch.optim.AdamW(params, lr=LR)


def ours(make: Callable[[], Chain], driver: str, params: list[Tensor], **options: Any) -> Any:
    return make().optimizer(params, driver=driver, **options)


def _torch_compiled(params: list[Tensor]) -> Any:
    optimizer = torch.optim.AdamW(params, lr=torch.tensor(LR), foreach=True, capturable=True)
    optimizer.step = torch.compile(optimizer.step)
    return optimizer


def _named(module: str, name: str, params: list[Tensor], **options: Any) -> Any:
    return getattr(import_module(module), name)(params, **{"lr": LR, **options})


def _torchzero(params: list[Tensor]) -> Any:
    tz = import_module("torchzero")
    return tz.Optimizer(params, tz.m.Adam(), tz.m.WeightDecay(0.01), tz.m.LR(LR))


def own(drivers: tuple[str, ...] = ("reference", "eager", "compiled")) -> dict[str, Make]:
    return {f"{name}, {driver}": partial(ours, make, driver) for name, make in CHAINS.items() for driver in drivers}


def defaults() -> dict[str, Make]:
    return {f"{name}, default": partial(ours, make, "auto") for name, make in DEFAULTS.items()}


def flattened() -> dict[str, Make]:
    made: dict[str, Make] = {}
    for name, make in CHAINS.items():
        driver = "eager" if name == "adamw" else "compiled"  # a fused kernel either way
        made[f"{name}, {driver}, flatten"] = partial(ours, make, driver, flatten=True)
    return made


class Captured:
    """A compiled step of ours, replayed as a CUDA graph: gradients have to stay where they are."""

    def __init__(self, make: Callable[[], Chain], params: list[Tensor]) -> None:
        optimizer = ours(make, "compiled", params, lr=torch.tensor(LR, device="cuda"))
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                optimizer.step()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            optimizer.step()
        self.step, self.state, self.plain = graph.replay, optimizer.state, optimizer


def captured() -> dict[str, Make]:
    return {f"{name}, compiled, CUDA graph": partial(Captured, make) for name, make in CHAINS.items()}


def relational(drivers: tuple[str, ...] = ("reference", "compiled")) -> dict[str, Make]:
    return {f"relational_gradient, {driver}": partial(ours, presets.relational_gradient, driver) for driver in drivers}


PEERS: dict[str, Make] = {
    "torch AdamW loop": lambda params: torch.optim.AdamW(params, lr=LR, foreach=False),
    "torch AdamW foreach": lambda params: torch.optim.AdamW(params, lr=LR, foreach=True),
    "torch AdamW compiled": _torch_compiled,
    "HeavyBall AdamW": partial(_named, "heavyball", "AdamW", consume_grad=False, compile_step=False),
    "HeavyBall AdamW cautious": partial(_named, "heavyball", "AdamW", consume_grad=False, compile_step=False, caution=True),
    "HeavyBall AdamW compiled": partial(_named, "heavyball", "AdamW", consume_grad=False, compile_step=True),
    "torchzero Adam": _torchzero,
    "pytorch_optimizer Lion": partial(_named, "pytorch_optimizer", "Lion"),
    "pytorch_optimizer CAME": partial(_named, "pytorch_optimizer", "CAME"),
    "timm NAdamW cautious": partial(_named, "timm.optim", "NAdamW", caution=True),
    "optimi AdamW": partial(_named, "optimi", "AdamW"),
    "torchopt AdamW": partial(_named, "torchopt", "AdamW"),
    "ladam LAdam": partial(_named, "ladam", "LAdam"),
    "relativistic-adam per tensor": partial(_named, "relativistic_adam", "RelativisticAdam"),
    "relativistic-adam per component": partial(
        _named, "relativistic_adam", "RelativisticAdam", relativistic_mode="per_component"
    ),
}
COMPILES_ALL_TENSORS = {"torch AdamW compiled", "HeavyBall AdamW compiled"}  # minutes for hundreds of tensors
