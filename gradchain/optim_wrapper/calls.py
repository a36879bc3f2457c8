"""Policies of the call of ``step``, not of the chain: a second closure, several calls a step, steps not to be taken.

Drivers know nothing of it: they find the gradients in ``param.grad`` and write parameters and state as always.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from gradchain.optim_wrapper.base import OptimizerBase
from gradchain.optim_wrapper.checkpoint import SEEN, SUM
from gradchain.optim_wrapper.collectives import everywhere
from gradchain.optim_wrapper.drivers import total
from gradchain.optim_wrapper.drivers.flow import compute_dtype
from gradchain.optim_wrapper.drivers.loop import Job, together
from gradchain.optim_wrapper.shards import elements, local
from gradchain.types import ChainError, Transform


def with_gradient(optimizer: OptimizerBase) -> Iterator[Tensor]:
    """The parameters that have a gradient."""
    for group in optimizer.param_groups:
        yield from (param for param in group["params"] if param.grad is not None)


def evaluated(closure: Callable[[], Any] | None) -> Any:
    """The loss that the closure returns, with gradients turned on."""
    if closure is None:
        return None
    with torch.enable_grad():
        return closure()


def check_capture(optimizer: OptimizerBase) -> None:
    """ChainError where a CUDA graph that is being captured would repeat this very step, and not go on from step to step."""
    if torch.compiler.is_compiling() or not torch.cuda.is_initialized() or not torch.cuda.is_current_stream_capturing():
        return
    if any(not isinstance(group["lr"], Tensor) or not group["lr"].is_cuda for group in optimizer.param_groups):
        raise ChainError(
            "a CUDA graph of this step would keep its learning rate and count; found a learning rate on the host. "
            'Make it a tensor on the GPU, as in lr=torch.tensor(1e-3, device="cuda"), and take a few steps before the capture.'
        )
    for link in optimizer.chain.links:
        if link.window != (1, None) or link.refresh_schedule is not None:
            raise ChainError(
                f"{link.label!r} does not do the same in every step, which a CUDA graph would; found a step that is captured. "
                "Leave the link out, or do not capture."
            )


def ascend(jobs: list[Job], closure: Callable[[], Any]) -> None:
    """Take the gradients where a link of the jobs sends the parameters, and bring these back, to the bit."""
    sent = [(job, link) for job in jobs for link in job.links if "perturbs" in link.transform.traits]
    transforms: list[Any] = [link.transform for _, link in sent]
    measured: dict[int, Tensor] = {}

    def measure(job: Job) -> None:
        measured[id(job)] = job.measure(next(link for other, link in sent if other is job))

    together([job for job, _ in sent], measure)
    kept = [(job.info.param.detach(), job.info.param.detach().clone()) for job, _ in sent]
    answers = transforms[0].share([measured[id(job)] for job, _ in sent], [job.info for job, _ in sent]) if sent else []
    try:
        for (job, link), transform, answer, (param, _) in zip(sent, transforms, answers, kept, strict=True):
            there = job.carry.param + transform.perturbation(job.carry, job.context(link, answer))
            elements(local(param)).copy_(job.part(there, param))
        with torch.enable_grad():
            closure()
    finally:
        for param, value in kept:
            param.copy_(value)


@torch.no_grad()
def collect(optimizer: OptimizerBase) -> bool:
    """Add the gradients of this call to those of the calls before; or, where they are enough for a step, leave that to it."""
    _check_sums(optimizer)
    seen = 1 + _seen(optimizer)
    if seen >= optimizer.accumulate:
        return True
    _ = optimizer.rows()  # makes the state
    for param in with_gradient(optimizer):
        state, grad = optimizer.state[param], _gradient(param)
        state[SUM] = state[SUM].add_(grad) if SUM in state else grad.clone()
    for group in optimizer.param_groups:
        group[SEEN] = seen
    return False


def _seen(optimizer: OptimizerBase) -> int:
    return max(
        (group.get(SEEN, 0) for group in optimizer.param_groups), default=0
    )  # a group may have joined since the last step


def _gradient(param: Tensor) -> Tensor:
    assert param.grad is not None
    return elements(param.grad.detach()).to(compute_dtype(param))


def _check_sums(optimizer: OptimizerBase) -> None:
    """ChainError where a parameter has another shape than its accumulated gradients."""
    for param in with_gradient(optimizer):
        found = optimizer.state.get(param, {}).get(SUM)
        if found is not None and found.shape != elements(param.detach()).shape:
            raise ChainError(
                f"the accumulated gradients of {optimizer.name_of(param)!r} have shape {tuple(found.shape)}, the parameter "
                f"{tuple(param.shape)}. Delete its entry in optimizer.state to start afresh."
            )


@contextmanager
def means(optimizer: OptimizerBase) -> Generator[None]:
    """While it lasts, the parameters' gradients are the means over the calls; those of the last call come back after it.

    If the step raises, the sum of the calls before is unchanged: the last call can be made again.
    """
    calls = 1 + _seen(optimizer)
    delivered = [(param, param.grad) for group in optimizer.param_groups for param in group["params"]]
    sums: list[tuple[dict[str, Tensor], Tensor]] = []
    for param, grad in delivered:
        state = optimizer.state.get(param, {})
        before = state.pop(SUM, None)
        if before is not None:
            sums.append((state, before))
        total = before
        if grad is not None:
            total = _gradient(param) if before is None else before + _gradient(param)
        if total is not None:
            mean = total / calls
            mean = torch.view_as_complex(mean) if param.is_complex() else mean
            param.grad = mean.reshape(param.shape).to(param.dtype)
    try:
        yield
    except BaseException:
        for state, before in sums:
            state[SUM] = before
        raise
    finally:
        for param, grad in delivered:
            param.grad = grad
    for group in optimizer.param_groups:
        group[SEEN] = 0


@contextmanager
def next_scheduled(optimizer: OptimizerBase) -> Generator[None]:
    """Give the groups the values that schedules of the chain have for the coming step; where it raises, they are taken back."""
    groups = [group for group in optimizer.param_groups if "scheduled" in group]
    coming: list[dict[str, Any]] = []
    for group in groups:  # all values first, so that nothing is half done
        step = group["scheduled_step"] + 1
        coming.append({**optimizer.binder.of(group).scheduled(group, step), "scheduled_step": step})
    before = [{key: group[key] for key in values} for group, values in zip(groups, coming, strict=True)]
    for group, values in zip(groups, coming, strict=True):
        group.update(values)
    try:
        yield
    except BaseException:
        for group, values in zip(groups, before, strict=True):
            group.update(values)
        raise


def finite(optimizer: OptimizerBase) -> Tensor:
    """Whether all gradients of the step are finite, on all ranks; nothing is read."""
    flags = [local(p.grad.detach()).isfinite().all() for p in with_gradient(optimizer) if p.grad is not None]
    return everywhere(torch.stack([flag.to(flags[0].device) for flag in flags]).all(), list(with_gradient(optimizer)))


@contextmanager
def gated(optimizer: OptimizerBase) -> Generator[None]:
    """Undo what happens to parameters and state meanwhile, if a gradient is not finite. It costs a copy of both.

    Counts of steps and schedules are kept on the host; where parameters are elsewhere, they are put right when next looked at.
    """
    params = list(with_gradient(optimizer))
    if not params:
        yield
        return
    flag = finite(optimizer)
    steps = [(optimizer.state[param]["step"], optimizer.state[param]["step"].clone()) for param in params]
    before_step = total.before(optimizer)
    scheduled: list[tuple[dict[str, Any], dict[str, Any]]] = []
    for group in optimizer.param_groups:
        moving = ("scheduled_step", *group["scheduled"]) if "scheduled" in group else ()
        scheduled.append((group, {key: group[key] for key in moving} | before_step))
    before: list[tuple[Tensor, Tensor]] = []
    for param in params:
        own = [value for key, value in optimizer.state[param].items() if key != "step"]
        before += [(local(x), local(x).clone()) for x in (param.detach(), *own)]
    yield
    for now, old in before:
        now.copy_(torch.where(flag.to(now.device), now, old))
    optimizer.unsettled.append((steps, scheduled, *_on_host(flag)))
    if flag.device.type == "cpu":
        settle(optimizer)


def _on_host(flag: Tensor) -> tuple[Tensor, Any]:
    """The flag, to be read once the event has come."""
    if flag.device.type != "cuda":
        return flag, None
    copy = torch.empty((), dtype=torch.bool, pin_memory=True)
    copy.copy_(flag, non_blocking=True)
    event = torch.cuda.Event()
    event.record()
    return copy, event


def settle(optimizer: OptimizerBase) -> None:
    """Take back the counts of the steps that were not taken."""
    for steps, scheduled, flag, event in optimizer.unsettled:
        if event is not None:
            event.synchronize()
        if torch.compiler.is_compiling():  # a graph cannot look at the flag
            for now, old in steps:
                now.copy_(torch.where(flag, now, old))
        elif not flag:
            for now, old in steps:
                now.copy_(old)
            for group, values in scheduled:
                group.update(values)
    optimizer.unsettled.clear()


def check_options(accumulate: int, finite_gate: bool, links: Sequence[Transform[Any]]) -> None:
    """ChainError where an option does not fit, or does not go with a link."""
    if isinstance(accumulate, bool) or not isinstance(accumulate, int) or accumulate < 1:
        raise ChainError(f"accumulate must be a whole number in [1, inf); found {accumulate!r}. Pass the calls a step takes.")
    if not isinstance(finite_gate, bool):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ChainError(f"finite_gate must be a bool; found {finite_gate!r}. Pass True or False.")
    if accumulate > 1 and (found := [link.label for link in links if "perturbs" in link.traits]):
        raise ChainError(
            f"{found[0]!r} needs all gradients of a step in its closure; found accumulate={accumulate}. "
            "Run the micro-batches inside the closure, and leave out accumulate."
        )


def needed(closure: Callable[[], Any] | None, links: Sequence[str]) -> Callable[[], Any]:
    """The closure; ChainError where there is none."""
    if closure is None:
        raise ChainError(
            f"{links[0]!r} takes the gradients twice in a step; found no closure. "
            "Call optimizer.step(closure) with a function that zeroes the gradients, runs loss.backward() and returns the loss."
        )
    return closure
