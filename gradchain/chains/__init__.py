"""Chains, what is built of several, and the presets made of them."""

from gradchain.chains import presets
from gradchain.chains.chain import Chain, chain
from gradchain.chains.from_torch import from_torch
from gradchain.chains.masked import masked
from gradchain.chains.parallel import parallel
from gradchain.chains.partition import Partition, partition
from gradchain.chains.where import biases_and_norms, hidden_matrices, in_modules, matrices

__all__ = [
    "Chain",
    "Partition",
    "biases_and_norms",
    "chain",
    "from_torch",
    "hidden_matrices",
    "in_modules",
    "masked",
    "matrices",
    "parallel",
    "partition",
    "presets",
]
