"""Mixed precision through the ordinary path: GradScaler skips whole steps, autocast trains; and a step reads nothing back."""

import inspect

import pytest
import torch
from harness import make, over
from table import PRESETS
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from training import identical, param, snapshot

ORDINARY = [case for case in PRESETS.items() if not any({"perturbs", "eager"} & link.traits for link in case[1].links)]


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 1))


X = torch.linspace(-1, 1, 12).reshape(3, 4)


def scaled(scaler, net, optimizer, factor=1.0):
    optimizer.zero_grad()
    scaler.scale(net(X).square().sum() * factor).backward()
    scaler.step(optimizer)
    scaler.update()


@over(every_input=False)
def test_a_scaled_loss_gives_the_plain_steps_and_a_skipped_step_changes_nothing(entry, case):
    ours, theirs = network(), network()
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    optimizer, plain = make(entry, case, list(ours.parameters())), make(entry, case, list(theirs.parameters()))
    for i in range(4):
        if i == 2:
            before = snapshot(optimizer)
            scaled(scaler, ours, optimizer, factor=float("inf"))
            assert identical(snapshot(optimizer), before) and scaler.get_scale() == 2.0**9
        scaled(scaler, ours, optimizer)
        plain.zero_grad()
        theirs(X).square().sum().backward()
        plain.step()
    assert all(map(torch.equal, ours.parameters(), theirs.parameters()))  # a scale that is a power of 2 costs no bit


@over(every_input=False)
def test_gradients_can_be_unscaled_and_clipped_before(entry, case):
    net = network()
    scaler, optimizer = torch.amp.GradScaler("cpu", init_scale=4.0), make(entry, case, list(net.parameters()))
    scaler.scale(net(X).square().sum()).backward()
    scaler.unscale_(optimizer)
    norm = nn.utils.clip_grad_norm_(net.parameters(), 1e-3)
    scaler.step(optimizer)
    assert norm > 1e-3 and all(p.isfinite().all() for p in net.parameters())


@over(every_input=False)
def test_the_flags_of_fused_optimizers_are_not_set(entry, case):
    """With them a scaler would hand over gradients that are still scaled, and Lightning refuse to clip."""
    optimizer = make(entry, case, [param(2)])
    assert not hasattr(optimizer, "_step_supports_amp_scaling")
    assert not hasattr(optimizer, "grad_scale") and not hasattr(optimizer, "found_inf")
    assert list(inspect.signature(optimizer.step).parameters) == ["closure"]
    assert hasattr(optimizer, "train") == hasattr(optimizer, "eval") == ("ScheduleFree" in entry.name)


@over(every_input=False)
@pytest.mark.parametrize("half", [False, True], ids=["autocast", "bfloat16 parameters"])
def test_it_trains_in_bfloat16(entry, case, half):
    net = network().to(torch.bfloat16 if half else torch.float32)
    lr = {"Lars": 1.0, "Prodigy": 1e3}.get(entry.name, 1e-3)  # steps by a thousandth of that; by a millionth at first
    optimizer = make(entry, case, list(net.parameters()), lr=lr)
    kinds = [p.dtype for p in net.parameters()]
    before = [p.detach().clone() for p in net.parameters()]
    for _ in range(3):
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = net(X.to(kinds[0])).float().square().sum()
        loss.backward()
        optimizer.step()
    assert [p.dtype for p in net.parameters()] == kinds and all(p.isfinite().all() for p in net.parameters())
    assert not all(map(torch.equal, net.parameters(), before))
    for p in net.parameters():
        assert all(not s.is_floating_point() or s.dtype == torch.float32 for s in optimizer.state[p].values())


ATEN = torch.ops.aten  # what brings values, or a number of elements, to the host
READING = {ATEN._local_scalar_dense.default, ATEN.equal.default, ATEN.nonzero.default, ATEN.masked_select.default}


class Reads(TorchDispatchMode):
    """Refuses to bring a number of a large tensor's making to the host; 0-d tensors on the host are numbers already."""

    def __init__(self, *roots):
        super().__init__()
        self.made = {tensor.untyped_storage()._cdata for tensor in roots}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        tensors = [x for x in tree_leaves((args, kwargs or {})) if isinstance(x, torch.Tensor)]
        tainted = any(x.untyped_storage()._cdata in self.made for x in tensors)
        reading = func in READING
        if tainted and reading:
            raise AssertionError(f"{func} in a step: the host waits for the device")
        out = func(*args, **(kwargs or {}))
        if tainted:
            self.made |= {x.untyped_storage()._cdata for x in tree_leaves(out) if isinstance(x, torch.Tensor)}
            self.kept = [*getattr(self, "kept", []), out]  # so that no storage is used again
        return out


@pytest.mark.parametrize("driver", ["reference", "eager"])
@pytest.mark.parametrize("recipe", [one for _, one in ORDINARY], ids=[key for key, _ in ORDINARY])
def test_no_step_reads_a_value_of_parameters_gradients_or_state(recipe, driver):
    """What would stall a GPU, break a capture or a graph. Refreshes are in it: steps 1 and 2 of every interval up to 2."""
    ps = [param(4, 3), param(5, seed=1), param(3, 3, 2, 2, seed=2)]
    optimizer = recipe.optimizer([(f"block.{i}.weight", p) for i, p in enumerate(ps)], driver=driver)
    for i in range(3):
        for p in ps:
            p.grad = torch.sin(p.detach() + i)
        values = [v for p in ps for key, v in optimizer.state[p].items() if key != "step"] if i else []
        with Reads(*ps, *(p.grad for p in ps), *values):
            optimizer.step()


def test_the_guard_against_reading_catches_one():
    p = param(3)
    with Reads(p), pytest.raises(AssertionError, match="the host waits"):
        (p.detach() * 2).sum().item()
