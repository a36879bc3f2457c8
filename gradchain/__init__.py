"""PyTorch optimizers as chains of small pure transforms: build one, take one apart, measure what each link is worth."""

from gradchain import optim_wrapper, transforms
from gradchain.chains import Chain, Partition, chain, from_torch, masked, parallel, partition, presets
from gradchain.optim_wrapper import ChainOptimizer
from gradchain.types import Carry, ChainError, ChainWarning, Context, ParamInfo, SharedTransform, Transform

__version__ = "0.1.0"

__all__ = [
    "Carry",
    "Chain",
    "ChainError",
    "ChainOptimizer",
    "ChainWarning",
    "Context",
    "ParamInfo",
    "Partition",
    "SharedTransform",
    "Transform",
    "chain",
    "from_torch",
    "masked",
    "optim_wrapper",
    "parallel",
    "partition",
    "presets",
    "transforms",
]
