"""Named optimizers as chains. ``presets.ladam(lr=1e-3)`` is a Chain; ``.optimizer(params)`` binds it."""

from gradchain.chains.presets.classic import adafactor, adagrad, adam, adamw, amsgrad, lion, nadam, rmsprop, sgd
from gradchain.chains.presets.ladam import ladagrad, ladam, lrmsprop
from gradchain.chains.presets.suggest import suggest_c2

__all__ = [
    "adafactor",
    "adagrad",
    "adam",
    "adamw",
    "amsgrad",
    "ladagrad",
    "ladam",
    "lion",
    "lrmsprop",
    "nadam",
    "rmsprop",
    "sgd",
    "suggest_c2",
]
