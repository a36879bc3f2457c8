"""Running a chain over the inputs of a recorded case."""

import torch

ALONE = "the original ran each tensor alone, in an optimizer of its own"


def _train(recipe, case, keys):
    """One optimizer over these tensors, from the recorded start; the parameters by key, after each step."""
    dtype = getattr(torch, case.info["dtype"])
    names, rates = case.info.get("names", {}), case.info["lr"]
    params = {key: torch.nn.Parameter(torch.tensor(start).to(dtype)) for key, start in case.initial().items() if key in keys}
    optimizer = recipe.optimizer([(names.get(key, key), param) for key, param in params.items()])
    for t in range(case.steps):
        for key, grad in case.gradient(t).items():
            if key in params:
                params[key].grad = None if grad is None else torch.tensor(grad).to(dtype)
        if rates is not None:
            for group in optimizer.param_groups:
                group["lr"] = rates[t]
        optimizer.step()
        yield params


def largest_difference(recipe, case):
    """Over all tensors and steps."""
    together = [[key] for key in case.expected] if ALONE in case.info["notes"] else [list(case.expected)]
    worst = 0.0
    for keys in together:
        for t, params in enumerate(_train(recipe, case, keys)):
            for key, param in params.items():
                worst = max(worst, (param.detach() - torch.tensor(case.expected[key][t])).abs().max().item())
    return worst
