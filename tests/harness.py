"""Every preset class of the wrapper as an entry of torch's own database of optimizers, with inputs read off its signature."""

import copy
import inspect
from typing import Literal, get_args, get_origin

import pytest
import torch
from torch.optim.lr_scheduler import ReduceLROnPlateau, StepLR
from torch.testing._internal.common_optimizers import (
    ErrorOptimizerInput,
    OptimizerErrorEnum,
    OptimizerInfo,
    OptimizerInput,
    get_error_inputs_for_all_optims,
    optim_db,
)

from gradchain import ChainError, ChainOptimizer, optim_wrapper

__all__ = [
    "CASES",
    "CLASSES",
    "INFOS",
    "NUMBERS",
    "TORCHS",
    "ErrorOptimizerInput",
    "OptimizerErrorEnum",
    "make",
    "over",
    "settings",
]


def preset_classes():
    """The classes that the wrapper exports, each once."""
    found = {getattr(optim_wrapper, name) for name in optim_wrapper.__all__}
    found = {cls for cls in found if isinstance(cls, type) and issubclass(cls, ChainOptimizer) and cls is not ChainOptimizer}
    return sorted(found, key=lambda cls: cls.__name__)


NUMBERS = {"lr": 0.01, "weight_decay": 0.1, "momentum": 0.9}  # tried where a class has the keyword
OPTIONS = {"driver", "accumulate", "finite_gate", "flatten", "maximize"}  # of the wrapper, the same for all classes
TORCHS = {info.optim_cls.__name__: info for info in optim_db}  # torch's entries, under the names that ours share


def settings(cls):
    """Keyword arguments to try: none, each number, each switch thrown, each other choice, a tensor for the learning rate."""
    found = {"default": {}}
    for name, parameter in list(inspect.signature(cls).parameters.items())[1:]:
        if name in OPTIONS:
            continue
        if name in NUMBERS:
            found[name] = {name: NUMBERS[name]}
        elif isinstance(parameter.default, bool):
            found[name] = {name: not parameter.default}
        elif get_origin(parameter.annotation) is Literal:
            others = [choice for choice in get_args(parameter.annotation) if choice != parameter.default]
            found |= {f"{name}={choice}": {name: choice} for choice in others}
    found["tensor lr"] = {"lr": torch.tensor(0.001)}
    return {name: kwargs for name, kwargs in found.items() if builds(cls, kwargs)}


def builds(cls, kwargs):
    """A preset may refuse a setting by itself, with a sentence."""
    try:
        cls([torch.nn.Parameter(torch.ones(2, 2))], **kwargs)
    except ChainError:
        return False
    return True


def inputs(cls):
    return lambda device, dtype=None: [OptimizerInput(None, dict(kwargs), desc) for desc, kwargs in settings(cls).items()]


def info(cls):
    return OptimizerInfo(
        cls,
        optim_inputs_func=inputs(cls),
        optim_error_inputs_func=get_error_inputs_for_all_optims,
        scheduler_inputs=([lambda o: StepLR(o, 10, 0.9)], [lambda o: StepLR(o, 10, 0.9), ReduceLROnPlateau]),
        supported_impls=(),
        not_og_supported_flags=(),
    )


CLASSES = {cls.__name__: cls for cls in preset_classes()}
INFOS = {name: info(cls) for name, cls in CLASSES.items()}
CASES = [(entry, one) for entry in INFOS.values() for one in entry.optim_inputs_func("cpu")]


def over(*, every_input=True):
    """Runs a test over all classes; with all their inputs or the defaults alone."""
    cases = [(entry, one) for entry, one in CASES if every_input or one.desc == "default"]
    return pytest.mark.parametrize(("entry", "case"), cases, ids=[f"{entry.name}-{one.desc}" for entry, one in cases])


def make(entry, case, params, **more):
    """The optimizer of a case, on parameters of one's own."""
    return entry.optim_cls(params, **{**copy.deepcopy(case.kwargs), **more})
