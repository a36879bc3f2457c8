"""A smoothing strength for LAdam by the name of an architecture.

Fields   name: pinn, transformer, mlp, cnn, cnn_denoise or auto, in any case.
Raises   ChainError for any other name.
Source   ladam 0.4.1 (PyPI), whose values these are; releases before it have 1e-5 for mlp and no cnn_denoise.
Differs  nothing known. The values are its authors' advice, not a measurement of ours: ablate before you rely on one.
"""

from __future__ import annotations

from gradchain.types import ChainError

_C2 = {
    "pinn": 1e-5,
    "transformer": 1e-4,
    "mlp": 5e-4,
    "cnn": 0.0,
    "cnn_denoise": 1e-3,
    "auto": 1e-4,
}


def suggest_c2(name: str) -> float:
    """The published c2 for an architecture; 0 means plain Adam."""
    if not isinstance(name, str) or name.lower() not in _C2:
        raise ChainError(
            f"no c2 is suggested for {name!r}; there are: {', '.join(_C2)}. Use one of these, or give c2 as a number."
        )
    return _C2[name.lower()]
