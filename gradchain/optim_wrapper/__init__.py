"""The wrapper that makes a chain a ``torch.optim.Optimizer``, and presets as classes."""

from gradchain.optim_wrapper.checkpoint import LoadReport
from gradchain.optim_wrapper.optimizer import ChainOptimizer
from gradchain.optim_wrapper.presets import (
    SGD,
    Adafactor,
    Adagrad,
    Adam,
    AdamW,
    AMSGrad,
    LAdaGrad,
    LAdam,
    Lion,
    LRMSProp,
    NAdam,
    RMSprop,
    WaveAdam,
)

__all__ = [
    "SGD",
    "AMSGrad",
    "Adafactor",
    "Adagrad",
    "Adam",
    "AdamW",
    "ChainOptimizer",
    "LAdaGrad",
    "LAdam",
    "LRMSProp",
    "Lion",
    "LoadReport",
    "NAdam",
    "RMSprop",
    "WaveAdam",
]
