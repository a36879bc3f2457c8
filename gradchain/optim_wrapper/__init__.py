"""The wrapper that makes a chain a ``torch.optim.Optimizer``, and presets as classes."""

from gradchain.optim_wrapper.checkpoint import LoadReport
from gradchain.optim_wrapper.configure import ModelAnalysis, analyze_model, auto_configure
from gradchain.optim_wrapper.optimizer import ChainOptimizer
from gradchain.optim_wrapper.presets import (
    CAME,
    SGD,
    Adafactor,
    Adagrad,
    Adam,
    AdamSPD,
    AdamW,
    AdaTAM,
    Adopt,
    AMSGrad,
    CAdamW,
    CameAMPImproved,
    Grams,
    LAdaGrad,
    LAdam,
    Lion,
    LRMSProp,
    NAdam,
    RelationalGradient,
    RelativisticAdam,
    RelativisticAdamW,
    RMSprop,
    WaveAdam,
)
from gradchain.optim_wrapper.reorder import compute_neuron_order, reorder_linear_layer
from gradchain.optim_wrapper.report import Report
from gradchain.optim_wrapper.schedulers import ChiAnnealScheduler

__all__ = [
    "CAME",
    "CameAMPImproved",
    "SGD",
    "AMSGrad",
    "Adafactor",
    "Adagrad",
    "Adam",
    "AdamW",
    "ChainOptimizer",
    "ChiAnnealScheduler",
    "LAdaGrad",
    "LAdam",
    "LRMSProp",
    "Lion",
    "LoadReport",
    "ModelAnalysis",
    "NAdam",
    "RMSprop",
    "AdamSPD",
    "AdaTAM",
    "Adopt",
    "CAdamW",
    "Grams",
    "RelationalGradient",
    "RelativisticAdam",
    "RelativisticAdamW",
    "Report",
    "WaveAdam",
    "analyze_model",
    "auto_configure",
    "compute_neuron_order",
    "reorder_linear_layer",
]
