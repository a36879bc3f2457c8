"""Chains and the presets made of them."""

from gradchain.chains import presets
from gradchain.chains.chain import Chain, chain

__all__ = ["Chain", "chain", "presets"]
