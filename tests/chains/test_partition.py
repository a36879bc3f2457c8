"""Different chains for different parameters: who falls where, one optimizer, what it refuses."""

import copy
import pickle
import re

import pytest
import torch
from torch import nn, optim
from training import identical, param, snapshot, steps

from gradchain import ChainError, ChainWarning, chain, partition, presets
from gradchain import transforms as t
from gradchain.chains import biases_and_norms, in_modules, matrices

BALL, ADAM = presets.sgd(lr=0.1, momentum=0.9), presets.adamw(lr=0.01)
TWO = partition({"ball": BALL, "adam": ADAM}, by={"ball": matrices})


def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Embedding(7, 4), nn.Linear(4, 5), nn.LayerNorm(5), nn.Linear(5, 2))


def who(recipe, params):
    optimizer = recipe.optimizer(params)
    names = {group["label"]: group.get("param_names", group["params"]) for group in optimizer.param_groups}
    return {label: list(found) for label, found in names.items()}


def upper(name, parameter):
    return "ball" if name < "2" else "adam"


@pytest.mark.parametrize(
    ("by", "ball"),
    [
        ({"ball": "1.*"}, ["1.weight", "1.bias"]),
        ({"ball": ["0.*", "*.bias"]}, ["0.weight", "1.bias", "2.bias", "3.bias"]),
        ({"ball": re.compile(r"\d\.w.*"), "adam": "*bias"}, ["0.weight", "1.weight", "2.weight", "3.weight"]),
        ({"adam": biases_and_norms}, ["0.weight", "1.weight", "3.weight"]),
        ({"ball": matrices & ~in_modules(model(), nn.Embedding)}, ["1.weight", "3.weight"]),
        ({"ball": in_modules(model(), nn.Embedding, nn.LayerNorm) | "3.bias"}, ["0.weight", "2.weight", "2.bias", "3.bias"]),
        ({"ball": lambda name, parameter: parameter.numel() == 10}, ["3.weight"]),
        (upper, ["0.weight", "1.weight", "1.bias"]),
    ],
    ids=["pattern", "patterns", "expression", "biases", "modules", "either", "shape", "labels"],
)
def test_parameters_fall_to_the_label_whose_rule_fits(by, ball):
    found = who(partition({"ball": BALL, "adam": ADAM}, by=by), model().named_parameters())
    assert found["ball"] == ball
    assert sorted(found["ball"] + found["adam"]) == sorted(name for name, _ in model().named_parameters())


def test_groups_may_carry_their_labels():
    a, b = param(3), param(4)
    recipe = partition({"ball": BALL, "adam": ADAM})
    optimizer = recipe.optimizer([{"params": [a], "label": "adam"}, {"params": [b], "label": "ball", "lr": 0.5}])
    assert [(g["label"], g["lr"]) for g in optimizer.param_groups] == [("adam", 0.01), ("ball", 0.5)]
    with pytest.raises(ChainError, match=r"goes by the labels of groups, and a group has none. Pass groups such as"):
        recipe.optimizer([a, b])
    with pytest.raises(ChainError, match=r"is labeled 'lion'; labels are: ball, adam. Give it one of these"):
        recipe.optimizer([{"params": [a], "label": "lion"}])


def test_an_unnamed_model_is_split_by_shape():
    found = who(TWO, model().parameters())
    assert [p.dim() for p in found["ball"]] == [2, 2, 2] and [p.dim() for p in found["adam"]] == [1, 1, 1, 1]


def test_the_error_names_parameters_that_fall_to_none_or_to_several():
    with pytest.raises(
        ChainError,
        match=r"exactly one of ball, adam; there fall to none: 2.weight, 3.weight; to several: 1.bias \(ball, adam\). Change",
    ):
        partition({"ball": BALL, "adam": ADAM}, by={"ball": ["0.*", "1.*"], "adam": "*.bias"}).optimizer(
            model().named_parameters()
        )
    many = [(f"p{i}", param(1)) for i in range(11)]
    with pytest.raises(ChainError, match="to none: p0, p1, p2, p3, p4, p5, p6, p7 and 3 more"):
        partition({"ball": BALL, "adam": ADAM}, by={"ball": "x", "adam": "y"}).optimizer(many)
    with pytest.raises(ChainError, match="or pass named_parameters"):
        partition({"ball": BALL, "adam": ADAM}, by={"ball": "x", "adam": "y"}).optimizer(model().parameters())


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda: partition({}), r"labels of a partition are words; found \[\]"),
        (lambda: partition({"a/b": BALL}), "labels of a partition are words"),
        (lambda: partition({"lr": BALL}), "'lr' is a key of parameter groups, so it cannot be a label"),
        (lambda: partition({"a": BALL, "b": ADAM}, by={"c": matrices}), "a rule for 'c', but the chains are: a, b"),
        (lambda: partition({"a": BALL, "b": ADAM}, by={}), "'a' and 'b' have no rule; one label at most"),
        (lambda: partition({"a": BALL, "b": ADAM}, by={"a": nn.Linear}), r"pass in_modules\(model, nn.Linear\)"),
        (lambda: TWO.optimizer([param(3)], beta=1), "no chain has a hyperparameter 'beta'; there are ball: .*; adam: "),
        (lambda: TWO.optimizer([param(3)], ball={"betas": (0.5, 0.5)}), "this chain has no hyperparameter 'betas'; it has: "),
        (lambda: TWO.replace(lion=BALL), "is labeled 'lion'; labels are: ball, adam"),
    ],
)
def test_what_it_refuses(make, complaint):
    with pytest.raises(ChainError, match=complaint):
        make()


@pytest.mark.parametrize("shared", [False, True], ids=["plain", "shared"])
def test_two_labels_are_two_optimizers_bit_for_bit(shared):
    limit = [t.GlobalSpeedLimit(speed_limit=0.3)] if shared else []
    ball, adam = chain(BALL, *limit), chain(ADAM, *limit)
    recipe = partition({"ball": ball, "adam": adam}, by={"ball": matrices})
    together, apart = model(), model()
    one = recipe.optimizer(together.named_parameters())
    split = [[p for p in apart.parameters() if (p.dim() >= 2) is big] for big in (True, False)]
    two = ball.optimizer(split[0]), adam.optimizer(split[1])
    schedulers = [optim.lr_scheduler.CosineAnnealingLR(o, 20) for o in (one, *two)]
    for i in range(20):
        for optimizer in (one, *two):
            steps(optimizer, start=i)
        for scheduler in schedulers:
            scheduler.step()
    assert all(torch.equal(a, b) for a, b in zip(together.parameters(), apart.parameters(), strict=True))
    for a, b in zip(together.parameters(), apart.parameters(), strict=True):
        assert identical(dict(one.state[a]), dict(two[b.dim() < 2].state[b]))


def test_groups_hold_the_hyperparameters_of_their_chain_and_overrides_by_label():
    named = list(model().named_parameters())
    groups = [{"params": named[:3], "adam": {"eps": 0.5}}, {"params": named[3:], "lr": 0.7, "ball": {"lr": 0.8}}]
    optimizer = TWO.optimizer(groups, lr=0.3, adam={"betas": (0.5, 0.6)})
    rates = [(group["label"], group["lr"]) for group in optimizer.param_groups]
    assert rates == [("ball", 0.3), ("adam", 0.3), ("ball", 0.8), ("adam", 0.7)]
    ball, adam = optimizer.param_groups[:2]
    assert "betas" not in ball and "momentum" not in adam and adam["betas"] == (0.5, 0.6) and adam["eps"] == 0.5
    assert set(optimizer.defaults) == {"lr", "weight_decay", "maximize"}  # what all groups have


def test_one_cycle_drives_all_labels():
    optimizer = TWO.optimizer(model().named_parameters())
    cycle = optim.lr_scheduler.OneCycleLR(optimizer, max_lr=[0.4, 0.2], total_steps=10, cycle_momentum=False)
    rates = []
    for i in range(9):
        steps(optimizer, start=i)
        cycle.step()
        rates.append([group["lr"] for group in optimizer.param_groups])
    assert max(r[0] for r in rates) == pytest.approx(0.4, rel=0.1) and rates[3][0] == pytest.approx(2 * rates[3][1])
    both = partition({"a": presets.adam(), "b": presets.adamw()}, by={"a": matrices}).optimizer(model().parameters())
    cycle = optim.lr_scheduler.OneCycleLR(both, max_lr=0.1, total_steps=10)
    steps(both)
    cycle.step()
    assert all(group["betas"][0] < 0.95 for group in both.param_groups)


def test_a_schedule_per_label():
    optimizer = TWO.optimizer(model().named_parameters())
    factors = optimizer.by_label({"ball": lambda n: 1.0, "adam": lambda n: 0.5**n})
    scheduler = optim.lr_scheduler.LambdaLR(optimizer, factors)
    for i in range(3):
        steps(optimizer, start=i)
        scheduler.step()
    assert [group["lr"] for group in optimizer.param_groups] == [0.1, 0.01 / 8]
    own = partition({"ball": presets.sgd(lr=lambda n: 1.0 / n), "adam": ADAM}, by={"ball": matrices})
    optimizer = own.optimizer(model().named_parameters())
    steps(optimizer, 4)
    assert [group["lr"] for group in optimizer.param_groups] == [0.25, 0.01]
    with pytest.raises(ChainError, match="a value for each of ball, adam; found: ball"):
        optimizer.by_label({"ball": 1.0})


def test_a_group_added_later_is_split_too():
    optimizer = TWO.optimizer(model().named_parameters())
    steps(optimizer, 2)
    new = nn.Linear(3, 2)
    optimizer.add_param_group({"params": list(nn.ModuleDict({"new": new}).named_parameters()), "lr": 0.5})
    sizes = [(group["label"], len(group["params"])) for group in optimizer.param_groups]
    assert sizes == [("ball", 3), ("adam", 4), ("ball", 1), ("adam", 1)]
    steps(optimizer, start=2)
    assert optimizer.state[new.weight]["step"] == 1 and "momentum/buffer" in optimizer.state[new.weight]
    unnamed = TWO.optimizer([{"params": []}, {"params": [param(3)]}])
    assert [group["label"] for group in unnamed.param_groups] == ["ball", "adam"]


def test_a_bad_group_changes_nothing():
    optimizer = TWO.optimizer(model().named_parameters())
    with pytest.raises(ChainError, match="lr must be a number"):
        optimizer.add_param_group({"params": [("a", param(2, 2)), ("b", param(2))], "adam": {"lr": -1.0}})
    assert len(optimizer.param_groups) == 2


def test_saving_loading_and_copies_go_on_as_the_original():
    first = model()
    optimizer = TWO.optimizer(first.named_parameters())
    steps(optimizer, 3)
    second = copy.deepcopy(first)
    resumed = TWO.optimizer(second.named_parameters(), lr=0.9)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    twin, third = copy.deepcopy((optimizer, first))
    pickled, fourth = pickle.loads(pickle.dumps((optimizer, first)))
    for one in (optimizer, resumed, twin, pickled):
        steps(one, 3, start=3)
    for other in (second, third, fourth):
        assert all(torch.equal(a, b) for a, b in zip(first.parameters(), other.parameters(), strict=True))
    assert identical(snapshot(optimizer), snapshot(resumed)) and pickled.chain == TWO


def test_it_can_be_written_down_and_described():
    rows = {**vars(t), "chain": chain, "partition": partition, "matrices": matrices}
    assert eval(repr(TWO), rows) == TWO and pickle.loads(pickle.dumps(TWO)) == TWO
    text = TWO.describe()
    assert "ball (matrices)" in text and "adam (what no other rule takes)" in text and "betas=(0.9, 0.999)" in text
    assert "by the label of the group" in partition({"a": BALL}).describe()
    assert repr(matrices & ~in_modules(model(), nn.Linear)) == "(matrices & ~in_modules(model, Linear))"


def test_ablations_leave_one_link_out_of_one_chain():
    shorter = TWO.ablations()
    assert list(shorter) == ["ball/l2", "ball/momentum", "adam/moments", "adam/normalize", "adam/weight_decay"]
    assert shorter["adam/weight_decay"].chains == {"ball": BALL, "adam": ADAM.without("weight_decay")}


def test_a_report_tells_of_the_links_of_every_label():
    cautious = partition({"ball": BALL, "adam": chain(t.Cautious(), ADAM)}, by={"ball": matrices})
    optimizer = cautious.optimizer(model().named_parameters())
    steps(optimizer)
    assert optimizer.report().steps == (1, 1) and "after 1 steps" in str(optimizer.report())


MOVED = partition({"ball": BALL, "adam": ADAM}, by={"ball": ["0.weight", "3.weight", "2.*"]})


def test_a_parameter_moved_to_another_label_starts_afresh_and_the_report_says_so():
    first = model()
    optimizer = TWO.optimizer(first.named_parameters(), ball={"lr": 0.3})
    steps(optimizer, 3)
    resumed = MOVED.optimizer(first.named_parameters(), lr=0.7)
    with pytest.warns(ChainWarning, match="remarks: 2.weight was saved under 'adam' and starts afresh"):
        report = resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert set(report.fresh) == {"momentum", "moments"} and set(report.kept) == {"momentum", "moments"}
    moves = [("1.weight", "ball"), ("2.bias", "adam"), ("2.weight", "adam")]
    assert sorted(report.remarks) == [f"{name} was saved under {label!r} and starts afresh" for name, label in moves]
    assert [(g["label"], g["lr"]) for g in resumed.param_groups] == [("ball", 0.3), ("adam", 0.01)]
    for name, p in first.named_parameters():
        old, new = optimizer.state[p], resumed.state[p]
        assert new["step"] == 3
        if name in ("1.weight", "2.weight", "2.bias"):
            assert not any(value.any() for key, value in new.items() if not key.endswith(("step", "since")))
        else:
            assert identical(dict(old), dict(new))
    steps(resumed, 2, start=3)
    with pytest.raises(ChainError, match="saved by another chain"):
        MOVED.optimizer(model().named_parameters()).load_state_dict(optimizer.state_dict(), strict=True)


def test_a_moved_parameter_starts_afresh_where_both_chains_have_links_of_the_same_name():
    slow, fast = presets.adam(lr=0.01), presets.adam(lr=0.1)
    first = model()
    optimizer = partition({"slow": slow, "fast": fast}, by={"slow": "0.*"}).optimizer(first.named_parameters())
    steps(optimizer, 3)
    saved = copy.deepcopy(optimizer.state_dict())
    wider = partition({"slow": slow, "fast": fast}, by={"slow": ["0.*", "1.weight"]}).optimizer(first.named_parameters())
    with pytest.warns(ChainWarning, match="1.weight was saved under 'fast' and starts afresh"):
        report = wider.load_state_dict(saved)
    assert report.kept == report.dropped == report.fresh == ("moments",)
    assert not wider.state[first[1].weight]["moments/first"].any() and wider.state[first[1].bias]["moments/first"].any()
    steps(wider, 1, start=3)
    renamed = partition({"slow": slow, "quick": fast}, by={"slow": "0.*"}).optimizer(first.named_parameters())
    with pytest.warns(ChainWarning, match="1.weight was saved under 'fast', "):
        report = renamed.load_state_dict(saved)
    assert report.fresh == () and renamed.state[first[1].weight]["moments/first"].any()


def test_a_label_may_lose_all_its_parameters_to_another():
    first = model()
    optimizer = TWO.optimizer(first.named_parameters())
    steps(optimizer, 2)
    alone = partition({"ball": BALL, "adam": ADAM}, by={"adam": "*"}).optimizer(first.named_parameters())
    with pytest.warns(ChainWarning, match="fresh: moments"):
        alone.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert [g["label"] for g in alone.param_groups] == ["adam"] and len(alone.param_groups[0]["params"]) == 7
    back = TWO.optimizer(first.named_parameters(), lr=0.6)
    with pytest.warns(ChainWarning, match="fresh: momentum"):
        back.load_state_dict(copy.deepcopy(alone.state_dict()))
    assert [(g["label"], g["lr"]) for g in back.param_groups] == [("ball", 0.6), ("adam", 0.01)]


def test_without_names_groups_are_matched_by_position_and_keep_their_label():
    a, b = param(3), param(3)
    recipe = partition({"ball": BALL, "adam": ADAM})
    optimizer = recipe.optimizer([{"params": [a], "label": "ball"}, {"params": [b], "label": "adam"}], lr=0.5)
    steps(optimizer)
    other = recipe.optimizer([{"params": [a], "label": "adam"}, {"params": [b], "label": "ball"}], lr=0.25)
    with pytest.warns(ChainWarning, match="fresh: moments, momentum"):
        other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert [(g["label"], g["lr"]) for g in other.param_groups] == [("adam", 0.25), ("ball", 0.25)]
    steps(other)


def test_momentum_is_cycled_where_all_chains_keep_it_under_one_key():
    cycle, net = torch.optim.lr_scheduler.OneCycleLR, [("a", param(3, 2)), ("b", param(3))]
    mixed = presets.muon_adamw().optimizer(net)
    before = [dict(group) for group in mixed.param_groups]
    with pytest.raises(ValueError, match="must support momentum or beta1 with `cycle_momentum`"):
        cycle(mixed, max_lr=0.1, total_steps=9)
    assert [{key: group[key] for key in ("momentum", "betas") if key in group} for group in mixed.param_groups] == [
        {key: group[key] for key in ("momentum", "betas") if key in group} for group in before
    ]
    both = partition({"a": presets.adamw(), "b": presets.adam()}, by={"a": matrices}).optimizer(net)
    scheduler = cycle(both, max_lr=0.1, total_steps=9)
    firsts = set()
    for i in range(8):
        steps(both, start=i)
        scheduler.step()
        firsts |= {group["betas"][0] for group in both.param_groups}
        assert len({group["betas"][0] for group in both.param_groups}) == 1
    assert len(firsts) > 4


def test_beside_it_momentum_may_have_a_schedule_of_its_own():
    optimizer = presets.muon_adamw().optimizer(
        [("a", param(3, 2)), ("b", param(3))], muon={"momentum": lambda step: 0.9 + 0.01 * min(step, 5)}
    )
    torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=9, cycle_momentum=False)
    steps(optimizer, 3)
    assert optimizer.param_groups[0]["momentum"] == pytest.approx(0.93) and "momentum" not in optimizer.param_groups[1]
