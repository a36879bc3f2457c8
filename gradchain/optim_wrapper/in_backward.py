"""Steps inside the backward pass: each parameter is stepped when its gradient is there, and the gradient is given back.

    optimizers = step_in_backward(presets.adamw(lr=1e-3), model.named_parameters())
    schedules = [CosineAnnealingLR(one, steps) for one in optimizers.values()]
    loss.backward()                                                             # there is no optimizer.step() after it

So no more than one gradient is held at a time. Every parameter has an optimizer of its own, by name, which saves and loads as
any other. A parameter that several layers share is stepped once a backward pass; frozen ones
are left out. A link that needs all parameters at once (a
global norm, LoRA pairs) or a closure cannot work there, and is refused. What goes by the optimizer's steps goes by those of
the parameter.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor

from gradchain.chains.partition import Recipe
from gradchain.optim_wrapper.hyperparameters import name_in
from gradchain.optim_wrapper.optimizer import ChainOptimizer
from gradchain.optim_wrapper.rules import warn_about_rules
from gradchain.types import ChainError, SharedTransform


def step_in_backward(recipe: Recipe, params: Iterable[Any], **options: Any) -> dict[str, ChainOptimizer]:
    """One optimizer a parameter, by name, which steps in the backward pass; ``params`` and options as for ``optimizer()``."""
    for link in recipe.links:
        if isinstance(link, SharedTransform) or link.traits & {"perturbs", "solves"}:
            raise ChainError(
                f"{link.label!r} needs the gradients of all parameters, and in the backward pass there is one at a time. "
                "Leave it out, or call optimizer.step() after backward()."
            )
    whole = ChainOptimizer(params, recipe, **options)
    warn_about_rules(whole)
    made: dict[str, ChainOptimizer] = {}
    for g, group in enumerate(whole.param_groups):
        for i, param in enumerate(group["params"]):
            if not param.requires_grad:
                continue
            name = name_in(group, g, i)
            own = {key: value for key, value in group.items() if key not in ("params", "named")}
            made[name] = ChainOptimizer([{**own, "params": [param], "param_names": [name]}], recipe, **options)
            made[name].rules_checked = True  # one parameter is no measure of a rule
            param.register_post_accumulate_grad_hook(_stepping(made[name]))
    return made


def _stepping(optimizer: ChainOptimizer) -> Any:
    def step(param: Tensor) -> None:
        optimizer.step()
        optimizer.zero_grad()

    return step
