"""Adapters found by name: what is a pair, what only looks like one, and what the links make of both."""

import itertools

import numpy as np
import pytest
import torch
from reference import lora as reference

from gradchain import chain
from gradchain import transforms as t
from gradchain.transforms._pairs import adapters, mean_row_length, product_norm
from gradchain.types import ChainWarning, ParamInfo

PLAIN = {}  # a parameter group


def infos(shapes, groups=None):
    """Name -> shape, or (name, shape) pairs where a name repeats."""
    named = list(shapes.items() if isinstance(shapes, dict) else shapes)
    return [ParamInfo(name, torch.zeros(shape), (groups or itertools.repeat(PLAIN).__next__)()) for name, shape in named]


def reasons(shapes, **more):
    found = adapters(infos(shapes, **more))
    assert not found.pairs and not found.kronecker
    return [why for _, _, why in found.misses]


def values(**shapes):
    return {name: np.random.default_rng(i).standard_normal(shape) for i, (name, shape) in enumerate(shapes.items())}


def factors(link, tensors, groups=None):
    """By what each parameter's step is multiplied: one step of length lr 1 on gradients of ones, in float64."""
    params = {name: torch.nn.Parameter(torch.tensor(value, dtype=torch.float64)) for name, value in tensors.items()}
    split = [list(params.items())] if groups is None else [[(name, params[name]) for name in names] for names in groups]
    optimizer = chain(link, t.LearningRate(lr=1.0)).optimizer([{"params": some} for some in split])
    for param in params.values():
        param.grad = torch.ones_like(param)
    before = {name: param.detach().clone() for name, param in params.items()}
    optimizer.step()
    found = {}
    for name, param in params.items():
        step = before[name] - param.detach()
        torch.testing.assert_close(step, step.mean().expand_as(step), rtol=1e-9, atol=1e-12)
        found[name] = step.mean().item()
    return found, optimizer


PAIRS = [  # A, B
    ("lora_unet_q.lora_down.weight", "lora_unet_q.lora_up.weight"),  # kohya
    ("base_model.model.q.lora_A.default.weight", "base_model.model.q.lora_B.default.weight"),  # peft
    ("model.emb.lora_embedding_A.default", "model.emb.lora_embedding_B.default"),
    ("x.lora_a", "x.lora_b"),
    ("lora_attn.q.lora_A.weight", "lora_attn.q.lora_B.weight"),  # the module's own name says lora_a
    ("lora_unet_q.lora_A.3", "lora_unet_q.lora_B.3"),  # one rank of DyLoRA
    ("lora_unet_qkv.lora_down.0.weight", "lora_unet_qkv.lora_up.0.weight"),
    ("0.0.lora_A", "0.0.lora_B"),
]


@pytest.mark.parametrize(("a", "b"), PAIRS)
def test_a_and_b_are_found_by_name(a, b):
    found = adapters(infos({"other": (3,), b: (8, 4), a: (4, 10)}))
    assert found.pairs == ((2, 1),) and found.leads == (("lora", 1),) and not found.misses


def test_convolutions_pair_by_their_first_extents():
    found = adapters(infos({"c.lora_down.weight": (4, 3, 3, 3), "c.lora_up.weight": (6, 4, 1, 1)}))
    assert found.pairs == ((0, 1),)


def test_two_adapters_of_one_layer_are_two_pairs():
    names = [f"q.lora_{x}.{adapter}.weight" for adapter in ("mine", "yours") for x in "AB"]
    found = adapters(infos(zip(names, [(2, 5), (4, 2)] * 2, strict=True)))
    assert found.pairs == ((0, 1), (2, 3))


W1 = {"w.lokr_w1": (3, 4)}, {"w.lokr_w1_a": (3, 2), "w.lokr_w1_b": (2, 4)}
W2 = (
    {"w.lokr_w2": (6, 5)},
    {"w.lokr_w2_a": (6, 2), "w.lokr_w2_b": (2, 5)},
    {"w.lokr_w2_a": (6, 2), "w.lokr_w2_b": (2, 5 * 9)},  # a convolution
    {"w.lokr_t2": (2, 3, 3, 3), "w.lokr_w2_a": (2, 6), "w.lokr_w2_b": (3, 5)},
)


@pytest.mark.parametrize("w1", W1, ids=["whole", "decomposed"])
@pytest.mark.parametrize("w2", W2, ids=["whole", "decomposed", "convolution", "tucker"])
def test_factors_of_lokr_are_found_and_their_norm_is_the_kronecker_product_s(w1, w2):
    shapes = w1 | w2
    found = adapters(infos(shapes))
    assert found.kronecker == ((tuple(range(len(w1))), tuple(range(len(w1), len(shapes)))),)
    assert found.leads == (("lokr", len(shapes) - 1),) and not found.misses
    tensors = values(**shapes)
    ours, optimizer = factors(t.LoKrScale(lokr_damping=0.3, lokr_ratio=5.0), tensors)
    one, two = ([tensors[name] for name in w] for w in (w1, w2))
    wanted = 1 / (1 + 0.3 * reference.lokr_norm(one if len(one) > 1 else one[0], two if len(two) > 1 else two[0]))
    for i, name in enumerate(shapes):
        assert ours[name] == pytest.approx(wanted * (5 if i == len(shapes) - 1 else 1), rel=1e-9)
    report = optimizer.report()
    assert report.findings["lokr_scale"]["pairs"] == [{"W1": list(w1), "W2": list(w2)}]
    assert report.figures["lokr_scale"]["factor"] == pytest.approx(ours)


NEAR_MISSES = [
    ({"q.lora_A.weight": (2, 5)}, ["no B (lora_B or lora_up) of the same name"]),
    ({"q.lora_up.weight": (4, 2)}, ["no A (lora_A or lora_down) of the same name"]),
    ({"q.lora_A.weight": (2, 5), "k.lora_B.weight": (4, 2)}, ["no B", "no A"]),
    ({"q.lora_A.weight": (2, 5), "q.lora_B.weight": (4, 3)}, ["(4, 3) and A of shape (2, 5) have no rank in common"] * 2),
    ({"q.lora_A.weight": (2, 5), "q.lora_B.weight": (4,)}, ["q.lora_B.weight of shape (4,) is no matrix"] * 2),
    ({"q.lora_A.weight": (0, 5), "q.lora_B.weight": (4, 0)}, ["q.lora_A.weight of shape (0, 5) is no matrix"] * 2),
    ({"w.lokr_w1": (3, 4)}, ["no whole lokr_w2 (or lokr_w2_a with lokr_w2_b) of the same name"]),
    ({"w.lokr_w1_a": (3, 2), "w.lokr_w2": (6, 5)}, ["no whole lokr_w1 "] * 2),
    ({"w.lokr_w1": (3, 4), "w.lokr_w2_a": (6, 2), "w.lokr_w2_b": (3, 5)}, ["lokr_w2_b of shapes (6, 2) and (3, 5)"] * 3),
    ({**W1[0], **W2[3], "w.lokr_t2": (2, 2, 3, 3)}, ["lokr_t2 of shape (2, 2, 3, 3) does not fit"] * 4),
    ({"w.lokr.w1": (3, 4), "w.lokr.w2": (3, 4)}, ["no form of name known here; those are lokr_w1"] * 2),
    ({"m.lora_attn.weight": (3, 4)}, ["no form of name known here; those are lora_A and lora_B"]),
    ([("q.lora_A", (2, 5)), ("q.lora_A", (2, 5)), ("q.lora_B", (4, 2))], ["its name stands more than once"] * 2 + ["no A"]),
]


@pytest.mark.parametrize(("shapes", "said"), NEAR_MISSES)
def test_what_looks_like_a_pair_and_is_none_is_told_with_the_reason(shapes, said):
    if isinstance(shapes, list):  # the name that stands twice stands in one group, its partner in another
        one, other = {}, {}
        groups = iter([one, one, other]).__next__
        found = reasons(shapes, groups=groups)
    else:
        found = reasons(shapes)
    assert len(found) == len(said)
    for why, part in zip(found, said, strict=True):
        assert part in why


@pytest.mark.parametrize(
    "name",
    [
        "lora_unet_mid_block.proj.weight",
        "lora_unet_q.alpha",
        "lora_unet_q.dora_scale",
        "lora_unet_q.lora_mid.weight",
        "q.lora_magnitude_vector.default.weight",
        "lycoris_unet_v.b_norm",
        "lycoris_lokr.scalar",
        "bias",
        "0.3",
    ],
)
def test_neighbors_of_adapters_are_neither(name):
    assert not any(adapters(infos({name: (3,)})))


def test_a_name_in_two_groups_pairs_within_each():
    one, other = {}, {}
    shapes = [("q.lora_A", (2, 5)), ("q.lora_B", (4, 2))] * 2
    assert adapters(infos(shapes, groups=iter([one, one, other, other]).__next__)).pairs == ((0, 1), (2, 3))


def test_complex_adapters_are_left_alone():
    given = [ParamInfo(f"q.lora_{x}", torch.zeros(2, 2, dtype=torch.complex64), PLAIN) for x in "AB"]
    assert [why for *_, why in adapters(given).misses] == ["q.lora_A is complex"] * 2
    params = [(f"q.lora_{x}", torch.nn.Parameter(torch.ones(2, 2, dtype=torch.complex64))) for x in "AB"]
    for link in (t.ALoRA(), t.LoKrScale(), t.PublishedALoRA()):
        optimizer = chain(link, t.LearningRate(lr=0.1)).optimizer(params)
        for _, p in params:
            p.grad = torch.ones_like(p)
        optimizer.step()
        assert all(p.isfinite().all() for _, p in params)


A, B = "q.lora_A.weight", "q.lora_B.weight"
PAIR = {A: (2, 5), B: (4, 2), "bias": (3,)}


@pytest.mark.parametrize("groups", [None, [[A, "bias"], [B]], [[B], ["bias", A]]], ids=["together", "split", "b first"])
@pytest.mark.parametrize("kind", [t.ALoRA, t.LoRAPlus])
def test_alora_damps_a_and_favors_b_and_lora_plus_favors_b(kind, groups):
    tensors = values(**PAIR)
    a, b = reference.alora_factors(tensors[A], tensors[B], 16.0)
    found, optimizer = factors(kind(), tensors, groups)
    assert found == pytest.approx({A: a if kind is t.ALoRA else 1, B: b, "bias": 1}, rel=1e-9)
    assert optimizer.report().findings[optimizer.chain.names[0]] == {"pairs": [{"A": A, "B": B, "rank": 2}]}


def test_each_group_has_its_own_ratio():
    tensors = values(**PAIR)
    params = {name: torch.nn.Parameter(torch.tensor(value)) for name, value in tensors.items()}
    groups = [{"params": [(A, params[A])]}, {"params": [(B, params[B])], "loraplus_lr_ratio": 3.0}]
    optimizer = chain(t.LoRAPlus(), t.LearningRate(lr=1.0)).optimizer(groups)
    for p in params.values():
        p.grad = torch.ones_like(p)
    optimizer.step()
    torch.testing.assert_close(torch.tensor(tensors[B]) - params[B].detach(), torch.full((4, 2), 3.0, dtype=torch.float64))


def test_a_group_for_b_with_more_learning_rate_is_told_since_the_ratios_multiply():
    params = {name: torch.nn.Parameter(torch.ones(shape)) for name, shape in PAIR.items()}
    groups = [{"params": {A: params[A]}.values(), "lr": 0.25}, {"params": {B: params[B]}.values(), "lr": 1.0}]
    optimizer = chain(t.LoRAPlus(), t.LearningRate()).optimizer(groups)
    assert optimizer.report().findings["lora_plus"]["pairs"] == [{"A": A, "B": B, "rank": 2, "lr of B's group over A's": 4.0}]


def test_two_links_for_the_same_ratio_are_nonsense():
    with pytest.warns(ChainWarning, match="'alora' and 'lora_plus' multiply the step of B in LoRA pairs"):
        chain(t.ALoRA(), t.LoRAPlus(), t.LearningRate())


def test_a_zero_b_and_a_lone_factor_leave_a_as_it_is():
    tensors = values(**PAIR) | {B: np.zeros((4, 2))}
    assert factors(t.ALoRA(), tensors)[0] == pytest.approx({A: 1, B: 16, "bias": 1})
    for name in (A, B):
        alone = {name: tensors[name]}
        assert factors(t.ALoRA(), alone)[0] == pytest.approx({name: 16 if name == B else 1})
        assert factors(t.PublishedALoRA(), alone)[0] == pytest.approx({name: 16 if name == B else 1})


@pytest.mark.parametrize("link", [t.ALoRA(), t.PublishedALoRA()], ids=lambda link: link.label)
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_a_partner_without_a_gradient_counts_with_its_value(link, dtype):
    tensors = values(**PAIR)
    params = {name: torch.nn.Parameter(torch.tensor(value).to(dtype)) for name, value in tensors.items()}
    params[B].requires_grad_(False)
    optimizer = chain(link, t.LearningRate(lr=1.0)).optimizer(params.items())
    params[A].grad = torch.ones_like(params[A])
    a, b = (params[name].detach().double().numpy() for name in (A, B))
    wanted = a - reference.alora_factors(a, b, 16.0)[0]
    optimizer.step()
    found = params[A].detach().double().numpy()
    np.testing.assert_allclose(
        found, wanted, rtol=1e-9 if dtype == torch.float64 else 1e-2, atol=1e-9 if dtype == torch.float64 else 1e-2
    )
    (pair,) = optimizer.report().findings[link.label]["pairs"]
    assert (pair["A"], pair["B"]) == (A, B) and "near misses" not in optimizer.report().findings[link.label]


def test_a_frozen_factor_of_lokr_counts_with_its_value():
    tensors = values(**W1[1], **W2[1])
    whole, _ = factors(t.LoKrScale(), tensors)
    params = {name: torch.nn.Parameter(torch.tensor(value)) for name, value in tensors.items()}
    optimizer = chain(t.LoKrScale(), t.LearningRate(lr=1.0)).optimizer(params.items())
    params["w.lokr_w2_b"].grad = torch.ones(2, 5, dtype=torch.float64)
    optimizer.step()
    step = torch.tensor(tensors["w.lokr_w2_b"]) - params["w.lokr_w2_b"].detach()
    torch.testing.assert_close(step, torch.full_like(step, whole["w.lokr_w2_b"]))


def test_a_partner_that_the_optimizer_does_not_have_is_a_near_miss():
    params = {A: torch.nn.Parameter(torch.ones(2, 5)), "bias": torch.nn.Parameter(torch.ones(3))}
    optimizer = chain(t.ALoRA(), t.LearningRate(lr=1.0)).optimizer(params.items())
    params[A].grad = torch.ones_like(params[A])
    optimizer.step()
    assert torch.equal(params[A], torch.zeros_like(params[A]))
    assert optimizer.report().findings["alora"]["near misses"] == [f"{A}: no B (lora_B or lora_up) of the same name"]


def test_without_names_nothing_is_scaled_and_the_report_says_so():
    params = [torch.nn.Parameter(torch.ones(2, 5)), torch.nn.Parameter(torch.ones(4, 2))]
    for link in (t.ALoRA(), t.LoRAPlus(), t.LoKrScale(), t.PublishedALoRA(), t.PublishedLoKrScale()):
        optimizer = chain(link, t.LearningRate(lr=0.0)).optimizer(params)
        if not isinstance(link, t.PublishedALoRA | t.PublishedLoKrScale):
            assert "pass named_parameters() or call bind_names()" in optimizer.report().findings[link.label]["names"]
        assert all(factor == 1 for factor in factors(link, {"0": np.ones((2, 5)), "1": np.ones((4, 2))})[0].values())


def test_a_pair_without_names_is_found_by_its_zeros():
    params = [torch.nn.Parameter(torch.ones(2, 5)), torch.nn.Parameter(torch.zeros(4, 2))]
    optimizer = chain(t.LoRAPlus(), t.LearningRate(lr=1.0)).optimizer(params)
    for p in params:
        p.grad = torch.ones_like(p)
    optimizer.step()
    assert torch.equal(params[1], torch.full((4, 2), -16.0)) and torch.equal(params[0], torch.zeros(2, 5))


@pytest.mark.parametrize("size", [1e-30, 1e-8, 1.0, 1e18, 1e30])
def test_lengths_by_gram_matrices_neither_overflow_nor_vanish(size):
    left, right = (torch.randn(shape, generator=torch.Generator().manual_seed(1)) * size for shape in [(7, 3), (3, 9)])
    exact = (left.double() @ right.double()).norm(dim=1).mean()
    found = mean_row_length(left, right)
    assert found.isfinite() == (exact < 3e38) and (
        not found.isfinite() or found == pytest.approx(exact.item(), rel=1e-5, abs=1e-44)
    )
    whole = (left.double() @ right.double()).norm()
    found = product_norm(left, right)
    assert not found.isfinite() or found == pytest.approx(whole.item(), rel=1e-5, abs=1e-44)


@pytest.mark.parametrize(
    "link", [t.ALoRA(), t.LoKrScale(), t.PublishedALoRA(), t.PublishedLoKrScale()], ids=lambda link: link.label
)
@pytest.mark.parametrize("size", [0.0, 1e-30, 1e30])
def test_degenerate_adapters_leave_finite_parameters(link, size):
    names = [A, B, "w.lokr_w1", "w.lokr_w2_a", "w.lokr_w2_b", "w.lokr_w2"]
    params = [torch.nn.Parameter(torch.full((3, 3), size)) for _ in names]
    optimizer = chain(link, t.LearningRate(lr=0.1)).optimizer(zip(names, params, strict=True))
    for p in params:
        p.grad = torch.ones_like(p)
    optimizer.step()
    assert all(p.isfinite().all() for p in params)


PUBLISHED = [  # shapes of A and B, the product whose rows are measured
    ((2, 5), (4, 2), lambda a, b: b @ a),
    ((5, 2), (2, 4), lambda a, b: a @ b),
    ((3, 5), (4, 5), lambda a, b: b @ a.T),
    ((3, 5), (3, 4), lambda a, b: b.T @ a),
    ((2, 3, 2, 2), (4, 2, 1, 1), lambda a, b: b.reshape(4, 2) @ a.reshape(2, 12)),
]


@pytest.mark.parametrize(("first", "second", "product"), PUBLISHED)
def test_the_published_pairs_multiply_as_their_shapes_allow(first, second, product):
    tensors = values(**{A: first, B: second})
    found, optimizer = factors(t.PublishedALoRA(), tensors)
    wanted = 1 / (1 + reference.row_length(product(tensors[A], tensors[B])))
    assert found == pytest.approx({A: wanted, B: 1}, rel=1e-9)
    assert optimizer.report().findings["published_alora"]["pairs"] == [{"A": A, "B": B}]


def test_a_published_pair_of_other_shapes_is_measured_by_its_norms():
    tensors = values(**{A: (4, 3, 2, 2), B: (7, 3, 1, 1)})  # a common extent, but not where rows meet
    wanted = 1 / (1 + (np.linalg.norm(tensors[A].ravel()) + np.linalg.norm(tensors[B].ravel())) / 2)
    assert factors(t.PublishedALoRA(), tensors)[0] == pytest.approx({A: wanted, B: 1}, rel=1e-9)


def test_published_pairs_stay_within_their_group():
    tensors = values(**PAIR)
    assert factors(t.PublishedALoRA(), tensors, [[A, "bias"], [B]])[0] == pytest.approx({A: 1, B: 16, "bias": 1})


def test_published_lokr_pairs_like_with_like():
    shapes = {f"x.lokr_{w}": (3, 3) for w in ("w1_a", "w1_b", "w2_a", "w2_b")} | {"y.lokr_w1": (2, 2), "y.lokr_w2_a": (2, 2)}
    tensors = values(**shapes)
    norm = {name: np.linalg.norm(value) for name, value in tensors.items()}
    a, b = (1 / (1 + 0.3 * norm[f"x.lokr_w1_{x}"] * norm[f"x.lokr_w2_{x}"]) for x in "ab")
    wanted = [a, b, 9.6 * a, 9.6 * b, 1, 9.6]
    assert list(factors(t.PublishedLoKrScale(), tensors)[0].values()) == pytest.approx(wanted, rel=1e-9)


@pytest.mark.parametrize("step", [1, 4, 5, 9, 30])
@pytest.mark.parametrize(("name", "kind"), [(A, "lora"), ("w.lokr_w1", "lokr"), ("w.lokr_t2", "lokr"), ("w.weight", "")])
@pytest.mark.parametrize("floor", [0.05, 0.8])
def test_the_decay_of_adapters_fades_at_their_pace(step, name, kind, floor):
    settings = {"wd_transition_steps": 4, "wd_decay_factor": 0.3, "wd_min_ratio": floor}
    link = t.AdapterWeightDecay(weight_decay=0.5, **settings)
    p = torch.nn.Parameter(torch.ones(2, 2, dtype=torch.float64))
    optimizer = chain(t.LearningRate(lr=0.1), link).optimizer([(name, p)])
    p.grad = torch.zeros_like(p)
    for _ in range(step):
        before = p.detach().clone()
        optimizer.step()
    found = (1 - p.detach() / before)[0, 0].item() / 0.05
    assert found == pytest.approx(reference.fading(step, floor, 0.3, 4, kind), rel=1e-9)
    assert optimizer.report().findings.get("adapter_weight_decay", {}).get("fading", []) == ([name] if kind else [])


def test_the_mask_keeps_size_where_cautious_enlarges():
    p = torch.nn.Parameter(torch.zeros(4))
    optimizer = chain(t.Momentum(momentum=0.9), t.AgreementMask(), t.LearningRate(lr=1.0)).optimizer([p])
    for grad in ([1.0, 1, 1, 1], [1.0, 1, -0.5, -0.5]):
        p.grad = torch.tensor(grad)
        optimizer.step()
    torch.testing.assert_close(p.detach(), torch.tensor([-2.9, -2.9, -1, -1]))
    assert optimizer.report().figures["agreement_mask"]["masked"] == {"0.0": 0.5}
