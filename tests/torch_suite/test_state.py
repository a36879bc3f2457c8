"""State: what torch's optimizer suite asks about state_dict, copies and memory, asked of every preset class and input."""

import copy
import io
import pickle
import sys
import weakref

import pytest
import torch
from harness import make, over
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from training import identical

from gradchain import Partition, SharedTransform


def params(seed=0):
    random = torch.Generator().manual_seed(seed)
    return [nn.Parameter(torch.randn(s, generator=random)) for s in ((3, 4), (4,), (2, 3, 2))]


def advance(optimizer, count=1, start=0):
    ps = [p for group in optimizer.param_groups for p in group["params"]]
    for i in range(start, start + count):
        for p in ps:
            p.grad = torch.sin(p.detach() * 3 + i)
        optimizer.step()
    return ps


def split(optimizer):
    """Whether the parameters came apart into groups by label: then the vector goes behind the others."""
    return isinstance(optimizer.chain, Partition)


def same(a, b):
    return all(map(torch.equal, a, b))


def through_a_file(thing):
    file = io.BytesIO()
    torch.save(thing, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@over()
def test_a_saved_run_goes_on_bit_for_bit_through_a_file_that_holds_only_weights(entry, case):
    ps = params()
    optimizer = make(entry, case, ps)
    advance(optimizer, 3)
    saved = through_a_file({"optimizer": optimizer.state_dict(), "params": [p.detach() for p in ps]})
    assert identical(saved["optimizer"], optimizer.state_dict())
    other = make(entry, case, qs := [nn.Parameter(p) for p in saved["params"]], lr=0.5)
    other.load_state_dict(saved["optimizer"])
    assert same(advance(other, 3, start=3), advance(optimizer, 3, start=3))
    assert identical(other.state_dict(), optimizer.state_dict()) and qs[0].grad is not None


@over(every_input=False)
def test_saving_loading_and_saving_gives_the_same(entry, case):
    optimizer = make(entry, case, params())
    fresh = copy.deepcopy(optimizer.state_dict())
    optimizer.load_state_dict(optimizer.state_dict())
    assert identical(optimizer.state_dict(), fresh)
    advance(optimizer, 2)
    before = copy.deepcopy(optimizer.state_dict())
    optimizer.load_state_dict(copy.deepcopy(before))
    assert identical(optimizer.state_dict(), before)
    other = make(entry, case, params())
    other.load_state_dict(before)
    assert identical(other.state_dict(), before)


@over(every_input=False)
def test_keys_that_an_older_version_did_not_save_are_filled_in(entry, case):
    optimizer = make(entry, case, params())
    advance(optimizer, 2)
    old = copy.deepcopy(optimizer.state_dict())
    for key in optimizer.defaults:
        del old["param_groups"][0][key]
    ps = params(1)
    other = make(entry, case, ps, lr=0.125)
    other.load_state_dict(old)
    assert other.param_groups[0]["lr"] == 0.125 and other.param_groups[0].keys() == optimizer.param_groups[0].keys()
    advance(other)
    assert other.state[ps[0]]["step"] == 3


@over(every_input=False)
@pytest.mark.parametrize("names", [(True, False), (False, True), (True, True)], ids=str)
def test_names_may_come_or_go_between_saving_and_loading(entry, case, names):
    def named(ps, wanted):
        return [(f"p{i}", p) for i, p in enumerate(ps)] if wanted else ps

    first = make(entry, case, named(params(), names[0]))
    advance(first, 2)
    second = make(entry, case, named(params(), names[1]))
    second.load_state_dict(first.state_dict())
    assert identical(first.state_dict()["state"], second.state_dict()["state"])
    loaded = [name for group in second.param_groups for name in group["param_names"]]  # torch hands on names that were saved
    assert loaded == (["p0", "p2", "p1"] if split(second) else ["p0", "p1", "p2"])
    assert ("param_names" in first.param_groups[0]) == names[0]


@over(every_input=False)
def test_a_step_count_saved_as_a_number_is_read(entry, case):
    ours, theirs = [make(entry, case, params()) for _ in "ab"]
    advance(ours, 2)
    advance(theirs, 2)
    saved = copy.deepcopy(ours.state_dict())
    for state in saved["state"].values():
        state["step"] = state["step"].item()
    ours.load_state_dict(saved)
    assert same(advance(ours, 2, start=2), advance(theirs, 2, start=2))


@over(every_input=False)
def test_loading_never_casts_shares_or_moves(entry, case):
    ps = [nn.Parameter(p.detach().bfloat16()) for p in params()]
    first = make(entry, case, ps)
    advance(first, 2)
    saved = first.state_dict()
    before = copy.deepcopy(saved)
    second = make(entry, case, [nn.Parameter(p.detach().clone()) for p in ps])
    second.load_state_dict(saved)
    assert identical(second.state_dict(), before)
    advance(second, 2)
    assert identical(saved, before)
    for state in second.state_dict()["state"].values():
        assert all(not t.is_floating_point() or t.dtype == torch.float32 for t in state.values())


@over(every_input=False)
def test_state_dict_belongs_to_torch(entry, case):
    """No key of our own beside torch's two; whole numbers for parameters; no entry that is not a parameter's."""
    optimizer = make(entry, case, params())
    advance(optimizer)
    saved = optimizer.state_dict()
    numbers = [group["params"] for group in saved["param_groups"]]
    assert set(saved) == {"state", "param_groups"} and numbers == ([[0, 1], [2]] if split(optimizer) else [[0, 1, 2]])
    assert set(saved["state"]) == {0, 1, 2}
    for state in saved["state"].values():
        assert "step" in state and state["step"].dtype == torch.int64 and state["step"].device.type == "cpu"
        assert all(isinstance(value, torch.Tensor) and "." not in key for key, value in state.items())
    plain = (int, float, bool, str, type(None), torch.Tensor)
    for group in saved["param_groups"]:
        assert all(isinstance(value, plain) for value in tree_leaves({k: v for k, v in group.items() if k != "params"}))


@over(every_input=False)
@pytest.mark.parametrize("way", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))], ids=["deepcopy", "pickle"])
def test_a_copy_has_all_that_the_original_has_and_goes_its_own_way(entry, case, way):
    optimizer = make(entry, case, ps := params())
    advance(optimizer, 2)
    twin, qs = way((optimizer, ps))
    assert {k for k in vars(optimizer) if k[0] != "_"} == {k for k in vars(twin) if k[0] != "_"}
    assert type(twin) is type(optimizer) and twin.chain == optimizer.chain and twin.driver == optimizer.driver
    before = copy.deepcopy(optimizer.state_dict())
    advance(twin, 2, start=2)
    assert identical(optimizer.state_dict(), before)
    advance(optimizer, 2, start=2)
    assert same(ps, qs)


@over(every_input=False)
def test_a_copy_of_a_scheduled_optimizer_steps_itself(entry, case):
    optimizer = make(entry, case, ps := params())
    torch.optim.lr_scheduler.StepLR(optimizer, 1)
    before = copy.deepcopy(ps)
    advance(pickle.loads(pickle.dumps(optimizer)), 1)
    advance(copy.deepcopy(optimizer), 1)
    assert same(ps, before)


class Peak(TorchDispatchMode):
    """The most bytes that tensors made inside have held together."""

    def __init__(self, *known):
        super().__init__()
        self.known, self.held, self.most = {tensor.untyped_storage()._cdata for tensor in known}, {}, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                key = storage._cdata
                if key not in self.held and key not in self.known:
                    self.held[key] = storage.nbytes()
                    weakref.finalize(storage, self.held.pop, key, None)
        self.most = max(self.most, sum(self.held.values()))
        return out


def room(entry, case, count):
    """Bytes that a step takes beside parameters, gradients and state, in parameters' sizes; and whether links meet."""
    ps = [nn.Parameter(torch.randn(32, 32)) for _ in range(count)]
    optimizer = make(entry, case, ps, driver="reference")
    advance(optimizer, 1)
    for p in ps:
        p.grad = torch.ones_like(p)
    states = [value for p in ps for value in optimizer.state[p].values()]
    with Peak(*ps, *(p.grad for p in ps), *states) as peak:
        optimizer.step()
    return peak.most / (4 * 32 * 32), any(isinstance(link, SharedTransform) for link in optimizer.chain.links)


@over()
def test_the_loop_driver_needs_room_for_one_parameter_whatever_their_number(entry, case, monkeypatch):
    """And for all at once only where a link has to see all of them together, or they are so small that it does not matter."""
    monkeypatch.setattr(sys.modules["gradchain.optim_wrapper.drivers.memory"], "HELD", 0)
    few, together = room(entry, case, 2)
    many, _ = room(entry, case, 6)
    assert many < (few + 4 * 12 if together else few + 0.4)
