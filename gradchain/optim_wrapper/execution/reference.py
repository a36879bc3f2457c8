"""The meaning of a chain: a plain loop over links and parameters, which every other driver equals up to rounding.

It shares no code with the other drivers. A parameter that is cut over ranks is gathered. Results are written when all are
there, or, with ``hold=False``, parameter by parameter, in less memory. Parameters in ``in_turn`` share memory: each is
stepped when the ones before it have been written.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import Any

import torch
from torch import Tensor

from gradchain.optim_wrapper.hyperparameters import BoundLink
from gradchain.optim_wrapper.layouts import WHOLE, is_sharded
from gradchain.optim_wrapper.rows import Row
from gradchain.optim_wrapper.shards import cut_like, elements, local, whole
from gradchain.types import UNSET, Carry, Context, SharedTransform

DOUBLE = (torch.float64, torch.complex128)
ONES = ("gate", "scale", "bump_scale", "eps_scale")  # slots that hold 1 at the start


def step(rows: Sequence[Row], resting: Sequence[Row], in_turn: Container[int], hold: bool) -> None:
    """Step the parameters of these rows; refresh links of the resting ones, which have no gradient."""
    runs = [*map(Run, rows), *(Run(row, rests=True) for row in resting)]
    chains: dict[str, list[Run]] = {}
    for run in runs:
        chains.setdefault(run.row.label, []).append(run)
    for chain in chains.values():
        for position in range(1 + max(shared_positions(chain), default=-1)):
            answers = share(chain, position)
            for run in chain:
                run.advance(position + 1, answers.get(run.row.info.place))
    alone = [run for run in runs if run.row.info.place in in_turn]
    others = [run for run in runs if run.row.info.place not in in_turn]
    for run in others:
        run.advance(len(run.row.links))
        if not hold:
            run.write()
    for run in others if hold else ():
        run.write()
    for run in alone:
        run.advance(len(run.row.links))
        run.write()


def shared_positions(runs: Sequence[Run]) -> set[int]:
    """The positions of the links at which parameters of a chain meet."""
    return {i for run in runs for i, link in enumerate(run.row.links) if isinstance(link.transform, SharedTransform)}


def share(runs: Sequence[Run], position: int) -> dict[int, Any]:
    """The shared link's value for every parameter that meets there, by the parameter's place."""
    meeting = sorted((run for run in runs if run.meets(run.row.links[position])), key=lambda run: run.row.info.place)
    if not meeting:
        return {}
    transform: Any = meeting[0].row.links[position].transform
    infos = [run.row.info for run in meeting]
    shared = transform.share([run.measure(run.row.links[position]) for run in meeting], infos)
    return dict(zip([info.place for info in infos], shared, strict=True))


class Run:
    """One parameter on its way through its chain. Nothing is written before ``write``."""

    carry: Carry

    def __init__(self, row: Row, rests: bool = False) -> None:
        self.row, self.rests, self.at, self.begun = row, rests, 0, False
        self.fresh: dict[str, Tensor] = {}  # new state

    def begin(self) -> None:
        """Read parameter, gradient, state and numbers, as late as possible: others may share the memory."""
        param, row = self.row.info.param, self.row
        dtype = torch.float64 if param.dtype in DOUBLE else torch.float32
        self.sharded = is_sharded(param)
        value, grad, self.state = param.detach(), param.grad, row.state
        grad = torch.zeros_like(value) if grad is None else grad.detach()
        if self.sharded:
            value, grad = whole(value), whole(grad)
            self.state = {key: whole(tensor) for key, tensor in row.state.items()}
        value, grad = elements(value).to(dtype), elements(grad).to(dtype)
        self.lr, self.step, self.total = row.lr, row.state["step"] + (not self.rests), row.total
        if value.is_cuda:
            self.lr, self.step = self.lr.to(value.device), self.step.to(value.device)
            self.total = self.total if self.total is UNSET else self.total.to(value.device)
        one = torch.ones((), dtype=torch.float64, device=value.device)
        self.begun = True
        self.stored = torch.empty((), dtype=param.dtype, device="meta").abs().dtype  # of the real parts
        ones: dict[str, Any] = {slot: one for slot in ONES if slot in row.used}
        self.carry = Carry(grad, value, grad, processed=grad, **ones)

    def context(self, link: BoundLink, shared: Any = None) -> Context:
        """The context of a link; a link that joined a saved run counts its own steps."""
        count = self.step - self.state.get(f"{link.label}/since", 0)
        return Context(count.to(torch.float64), self.lr, shared, WHOLE, self.stored, self.total)

    def timing(self, link: BoundLink) -> tuple[bool, bool]:
        """Whether the link's window is open, and whether its state is refreshed in this step."""
        window, schedule = link.transform.window, link.transform.refresh_schedule
        if window == (1, None) and schedule is None:
            return True, False
        count = int(self.context(link).step)
        active = window == (1, None) or (window[0] <= count and (window[1] is None or count < window[1]))
        by_total = link.transform.refreshes_by == "optimizer_step"
        if schedule is None or (self.rests and not by_total):
            return active, False
        count = int(self.total) if by_total else count
        return active, active and count >= schedule[0] and (count - schedule[0]) % schedule[1] == 0

    def state_of(self, link: BoundLink) -> Any:
        """The link's state before this step."""
        return link.transform.State(*map(self.state.__getitem__, link.state_keys))

    def meets(self, link: BoundLink) -> bool:
        """Whether the parameter takes part where parameters meet; a link with refreshes may meet at these only."""
        if not self.begun:
            self.begin()
        if not isinstance(link.transform, SharedTransform):
            return False  # it does not work on this parameter
        active, due = self.timing(link)
        always = link.transform.every_step or link.transform.refresh_schedule is None
        return due if self.rests or not always else active

    def measure(self, link: BoundLink) -> Tensor:
        """The parameter's contribution to a shared link."""
        transform: Any = link.transform
        return transform.measure(self.carry, self.state_of(link), self.context(link))

    def advance(self, stop: int, shared: Any = None) -> None:
        """Run the links before ``stop``; the last of them is told what is shared."""
        if not self.begun:
            self.begin()
        while self.at < stop:
            link, self.at = self.row.links[self.at], self.at + 1
            try:
                self.run(link, shared if self.at == stop else None)
            except Exception as error:
                param, name = self.row.info.param, self.row.info.name
                error.add_note(f"in link {link.label!r}, parameter {name!r} of shape {tuple(param.shape)}, {param.dtype}")
                raise

    def run(self, link: BoundLink, shared: Any) -> None:
        """Run one link: refresh its state if that is due, then update."""
        active, due = self.timing(link)
        if not active:
            return
        state, context = self.state_of(link), self.context(link, shared)
        if due:
            state = link.transform.refresh(self.carry, state, context)
        if not self.rests:
            self.carry, state = link.transform.update(self.carry, state, context)
        self.fresh.update(zip(link.state_keys, state, strict=True))

    def write(self) -> None:
        """Store the new state, subtract the update, count the step."""
        for key, value in [(key, value.clone()) for key, value in self.fresh.items()]:  # some may view an old one
            old = self.row.state[key]
            local(old).copy_(cut_like(value, old)) if self.sharded else old.copy_(value)
        if not self.rests:
            update, param = self.carry.update, self.row.info.param.detach()
            update = update if self.carry.gate is UNSET else torch.where(self.carry.gate != 0, update, 0.0)
            if self.sharded:
                param, update = local(param), cut_like(update, param)
            now = elements(param)
            now.copy_(now.to(update.dtype) - update)
            self.row.state["step"].add_(1)
        del self.carry, self.fresh  # they hold tensors as large as the parameter
