"""Checkpoints of torch.optim: what its optimizers call the state that links keep.

Adam and AdamW, AMSGrad, NAdam, SGD with momentum, RMSprop, Adagrad and Adafactor; the run goes on as it would have there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import gradchain.transforms as t
from gradchain.optim_wrapper.hyperparameters import BoundLink
from gradchain.types import ChainError

NAMES: dict[type, dict[str, str]] = {  # transform -> field of its state -> key in torch.optim
    t.Moments: {"first": "exp_avg", "second": "exp_avg_sq"},
    t.StepCorrectedMoments: {"first": "exp_avg", "second": "exp_avg_sq"},
    t.AMSGradMoments: {"first": "exp_avg", "second": "exp_avg_sq", "largest": "max_exp_avg_sq"},
    t.NesterovMoments: {"first": "exp_avg", "second": "exp_avg_sq", "momentum_product": "mu_product"},
    t.Momentum: {"buffer": "momentum_buffer"},
    t.NesterovMomentum: {"buffer": "momentum_buffer"},
    t.SecondMoment: {"average": "square_avg"},
    t.CenteredSecondMoment: {"square": "square_avg", "mean": "grad_avg"},
    t.SumOfSquares: {"total": "sum"},
}
FACTORED = {"row": "row_var", "column": "col_var", "full": "variance"}  # matrices have the first two, the rest the last
KEYS = {key for names in (*NAMES.values(), FACTORED) for key in names.values()}


def is_foreign(saved: Mapping[str, Any]) -> bool:
    """Whether a parameter's saved state is one of torch.optim."""
    return not KEYS.isdisjoint(saved)


def is_group_of_torch(group: Mapping[str, Any]) -> bool:
    """Whether a saved group is one of torch.optim, which notes how it computes."""
    return {"foreach", "differentiable"} <= group.keys()


def translated(saved: Mapping[str, Any], links: Sequence[BoundLink]) -> dict[str, Any]:
    """A parameter's state under the names of these links; what none of them has a place for keeps its name."""
    state = {key: value for key, value in saved.items() if value is not None}  # SGD's buffer before its first use
    for link in links:
        names = NAMES.get(type(link.transform), {})
        if isinstance(link.transform, t.FactoredSecondMoment):
            names = {field: key for field, key in FACTORED.items() if key in state}
        if names and state.keys() >= set(names.values()):
            state |= {f"{link.label}/{field}": state.pop(key) for field, key in names.items()}
    if state and "step" not in state:
        state["step"] = 1.0  # SGD does not count; what matters is that this was not the start
    return state


def group_of(group: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """A saved group with Adafactor's two eps under their own names, unless the chain has a pair of that name itself."""
    eps: Any = group.get("eps")
    if not isinstance(eps, tuple | list) or isinstance(defaults.get("eps"), tuple):
        return dict(group)
    if len(eps) != 2:
        raise ChainError(f"the saved eps must be a number, or Adafactor's two; found {eps!r}. Pass what state_dict() returned.")
    return {**{key: value for key, value in group.items() if key != "eps"}, "eps1": eps[0], "eps2": eps[1]}
