"""One step of ``torch.optim.LBFGS`` over several parameters, whose history is kept by parameter.

torch keeps flat vectors over all parameters at the first one; here every parameter keeps its pieces, and the numbers that
concern all are kept at each. So they are saved, loaded and matched by name like any other state.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.optim import LBFGS

NUMBERS = ("t", "H_diag", "prev_loss", "func_evals", "n_iter")


class LBFGSState(NamedTuple):
    """One parameter's part; names are torch's."""

    move: Tensor  # what the last step subtracts from the parameter
    d: Tensor
    prev_flat_grad: Tensor
    old_dirs: Tensor  # the history, oldest first; history_size tensors like the parameter
    old_stps: Tensor
    ro: Tensor
    pairs: Tensor  # how many of the history are there
    t: Tensor
    H_diag: Tensor
    prev_loss: Tensor
    func_evals: Tensor
    n_iter: Tensor


def blank(param: Tensor, history: int) -> LBFGSState:
    """The state before the first step."""
    made = {key: param.new_zeros(param.shape) for key in ("move", "d", "prev_flat_grad")}
    made |= {key: param.new_zeros((history, *param.shape)) for key in ("old_dirs", "old_stps")}
    made["ro"] = torch.zeros(history, dtype=torch.float64, device=param.device)
    made |= {key: torch.zeros((), dtype=torch.float64, device=param.device) for key in ("pairs", *NUMBERS)}
    return LBFGSState(**made)


def solve(solver: LBFGS, states: Sequence[LBFGSState], closure: Callable[[], Any]) -> None:
    """Make a step and take it back: ``move`` tells what it was, and the rest of the states goes on."""
    params: list[Tensor] = solver.param_groups[0]["params"]
    lead = max(states, key=lambda state: int(state.n_iter))  # a parameter that has joined knows nothing yet
    if lead.n_iter:
        solver.state[params[0]] = _joined(lead, states, torch.cat([param.detach().reshape(-1)[:0] for param in params]))
    before = [param.detach().clone() for param in params]
    try:
        solver.step(closure)
        for param, state, old in zip(params, states, before, strict=True):
            moved = old - param.detach()
            state.move.copy_((torch.view_as_real(moved) if moved.is_complex() else moved).reshape(state.move.shape))
    finally:
        for param, old in zip(params, before, strict=True):
            param.detach().copy_(old)
    _part(solver.state[params[0]], states)


def _joined(lead: LBFGSState, states: Sequence[LBFGSState], like: Tensor) -> dict[str, Any]:
    """The state as torch keeps it."""
    dtype, history, pairs = like.real.dtype if like.is_complex() else like.dtype, len(lead.ro), int(lead.pairs)

    def flat(pieces: Sequence[Tensor]) -> Tensor:
        return torch.cat([piece.reshape(-1) for piece in pieces]).to(dtype)

    past = {key: [flat([getattr(state, key)[i] for state in states]) for i in range(pairs)] for key in ("old_dirs", "old_stps")}
    return {
        **past,
        "d": flat([state.d for state in states]),
        "prev_flat_grad": flat([state.prev_flat_grad for state in states]),
        "ro": [one.to(dtype) for one in lead.ro[:pairs]],
        "t": lead.t.to(dtype),
        "H_diag": lead.H_diag.to(dtype),
        "prev_loss": float(lead.prev_loss),
        "func_evals": int(lead.func_evals),
        "n_iter": int(lead.n_iter),
        "al": [None] * history,
    }


def _part(saved: dict[str, Any], states: Sequence[LBFGSState]) -> None:
    """Write torch's state into those of the parameters."""
    sizes = [state.d.numel() for state in states]
    for key in ("d", "prev_flat_grad"):
        for state, piece in zip(states, saved[key].split(sizes) if key in saved else (), strict=key in saved):
            getattr(state, key).copy_(piece.view(state.d.shape))
    for key in ("old_dirs", "old_stps"):
        for i, vector in enumerate(saved.get(key, ())):
            for state, piece in zip(states, vector.split(sizes), strict=True):
                getattr(state, key)[i].copy_(piece.view(state.d.shape))
    for state in states:
        for i, one in enumerate(saved.get("ro", ())):
            state.ro[i].copy_(one)
        state.pairs.fill_(len(saved.get("ro", ())))
        for key in NUMBERS:
            getattr(state, key).copy_(torch.as_tensor(saved.get(key, 0.0), dtype=torch.float64))
