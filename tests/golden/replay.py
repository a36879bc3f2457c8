"""Running a chain over the inputs of a recorded case."""

import torch


def largest_difference(chain, case):
    """Over all tensors, each trained alone as the originals were, and all steps."""
    worst = 0.0
    for key, start in case.initial().items():
        param = torch.nn.Parameter(torch.tensor(start))
        optimizer = chain.optimizer([param])
        for t in range(case.steps):
            param.grad = torch.tensor(case.gradient(t)[key])
            optimizer.step()
            worst = max(worst, (param.detach() - torch.tensor(case.expected[key][t])).abs().max().item())
    return worst
