"""Named optimizers as chains. ``presets.ladam(lr=1e-3)`` is a Chain; ``.optimizer(params)`` binds it."""

from gradchain.chains.presets.classic import adafactor, adagrad, adam, adamw, amsgrad, lion, nadam, rmsprop, sgd
from gradchain.chains.presets.ladam import ladagrad, ladam, lrmsprop

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
]
