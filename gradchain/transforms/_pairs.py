"""The factors of adapters, found by the names and shapes of parameters alone: host data, no tensor is read.

LoRA     peft lora_A, lora_B (also lora_embedding_A and _B); kohya lora_down, lora_up: the product B A
LoKr     LyCORIS lokr_w1 or lokr_w1_a, lokr_w1_b; lokr_w2 or lokr_w2_a, lokr_w2_b, with lokr_t2 in between: W1 (x) W2

A name ends in one of these, an adapter's name or a number may follow it, and ".weight"; case does not matter, nor what
wrappers of models add. What is left of the name must be the same for the factors of a pair. They may stand in different
parameter groups.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import lru_cache
from math import prod
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from gradchain.transforms._names import bare
from gradchain.types import ParamInfo

PARTS = {  # last component of a name -> family, part
    "lora_a": ("lora", "A"),
    "lora_down": ("lora", "A"),
    "lora_embedding_a": ("lora", "A"),
    "lora_b": ("lora", "B"),
    "lora_up": ("lora", "B"),
    "lora_embedding_b": ("lora", "B"),
    **{f"lokr_{part}": ("lokr", part) for part in ("w1", "w1_a", "w1_b", "w2", "w2_a", "w2_b", "t2")},
}
KNOWN = ("lora_mid", "lora_magnitude_vector", "w_norm", "b_norm", "dora_scale", "scalar", "alpha", "bias")  # beside the factors
FORMS = {"lora": "lora_A and lora_B, or lora_down and lora_up", "lokr": "lokr_w1, lokr_w2, lokr_w1_a and so on"}


class Key(NamedTuple):
    """What is told of a parameter: host data only."""

    name: str
    shape: tuple[int, ...]
    group: int
    real: bool


class Adapters(NamedTuple):
    """What was found, by position."""

    pairs: tuple[tuple[int, int], ...]  # A, B
    kronecker: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...]  # factors of W1, of W2: (w,), (a, b) or (t, a, b)
    leads: tuple[tuple[str, int], ...]  # family and position of the factors that start at zero: B, w2, w2_b
    misses: tuple[tuple[str, int, str], ...]  # family, position and reason of those that look like a factor but are none


def adapters(infos: Sequence[ParamInfo]) -> Adapters:
    """The adapters among these parameters; worked out once for the same names and shapes."""
    groups: dict[int, int] = {}
    keys = tuple(
        Key(info.name, tuple(info.param.shape), groups.setdefault(id(info.group), len(groups)), not info.param.is_complex())
        for info in infos
    )
    return _adapters(keys) if torch.compiler.is_compiling() else _remembered(keys)


def resting(infos: Sequence[ParamInfo]) -> list[ParamInfo]:
    """The other named parameters of the same groups, which have no gradient in this step: partners all the same."""
    here = {(id(info.group), info.name) for info in infos}
    rest: list[ParamInfo] = []
    for key, group in {id(info.group): info.group for info in infos}.items():
        named = zip(group.get("param_names", ()), group.get("params", ()), strict=False)
        rest += [ParamInfo(name, param, group) for name, param in named if (key, name) not in here]
    return rest


def values(measured: Sequence[Tensor], rest: Sequence[ParamInfo]) -> list[Tensor]:
    """What was measured, and the values of parameters that were not, in the dtype in which links compute."""
    wholes = [cast(Tensor, getattr(info.param.detach(), "full_tensor", info.param.detach)()) for info in rest]
    return [*measured, *(whole.to(torch.promote_types(whole.dtype, torch.float32)) for whole in wholes)]


def told(infos: Sequence[ParamInfo], family: str) -> Mapping[str, Any]:
    """The findings of a link that works on this family."""
    infos = [*infos, *resting(infos)]
    found = adapters(infos)
    names = [info.name for info in infos]
    if names and all(name.replace(".", "").isdigit() for name in names):
        return {"names": "the parameters have none, so no pair can be found; pass named_parameters() or call bind_names()"}
    pairs: list[dict[str, Any]] = []
    if family == "lora":
        pairs = [_pair(infos[a], infos[b]) for a, b in found.pairs]
    else:
        pairs = [{"W1": [names[i] for i in w1], "W2": [names[i] for i in w2]} for w1, w2 in found.kronecker]
    misses = [f"{names[i]}: {why}" for kind, i, why in found.misses if kind == family]
    return {"pairs": pairs, "near misses": misses} if misses else {"pairs": pairs}


def _pair(a: ParamInfo, b: ParamInfo) -> dict[str, Any]:
    """A pair as plain data; with the ratio of its groups' learning rates, by which any other ratio is multiplied."""
    told: dict[str, Any] = {"A": a.name, "B": b.name, "rank": a.param.shape[0]}
    if a.group is not b.group and "lr" in a.group and a.group["lr"] != b.group["lr"]:
        told["lr of B's group over A's"] = float(b.group["lr"]) / float(a.group["lr"]) if a.group["lr"] else float("inf")
    return told


def _parsed(name: str) -> tuple[str, str, str] | None:
    """Family, part, and what is left of the name."""
    words = bare(name).split(".")
    for i in range(len(words) - 1, max(-1, len(words) - 4), -1):
        if words[i].lower() in PARTS:
            rest = [word for word in words[i + 1 :] if word != "weight"]
            return (*PARTS[words[i].lower()], ".".join([*words[:i], "*", *rest])) if len(rest) <= 1 else None
    return None


def _adapters(keys: tuple[Key, ...]) -> Adapters:
    sets: dict[tuple[Any, ...], list[tuple[str, int]]] = {}
    leads: list[tuple[str, int]] = []
    misses: list[tuple[str, int, str]] = []
    for i, key in enumerate(keys):
        if (parsed := _parsed(key.name)) is not None:
            family, part, base = parsed
            sets.setdefault((family, base), []).append((part, i))
            leads += [(family, i)] if part in ("B", "w2", "w2_b") else []
        elif family := _resembles(key.name):
            misses.append((family, i, f"no form of name known here; those are {FORMS[family]}"))
    pairs: list[tuple[int, int]] = []
    kronecker: list[tuple[tuple[int, ...], tuple[int, ...]]] = []
    for (family, *_), members in _unique(sets, keys):
        parts = dict(members)
        if len(parts) < len(members):
            why = "its name stands more than once"
        elif family == "lora":
            why = _lora(parts, keys)
            pairs += [] if why else [(parts["A"], parts["B"])]
        else:
            why = _lokr(parts, keys)
            kronecker += [] if why else [(_factors(parts, "w1"), _factors(parts, "w2"))]
        misses += [(family, i, why) for _, i in members] if why else []
    return Adapters(tuple(pairs), tuple(kronecker), tuple(leads), tuple(misses))


_remembered = lru_cache(maxsize=64)(_adapters)


def _resembles(name: str) -> str:
    words = [word.lower() for word in name.split(".")][1:][-3:]  # the first is the module's: "lora_unet_mid_block"
    if any(word in KNOWN for word in words):
        return ""
    return next((family for family in FORMS for word in words if family in word), "")


def _unique(
    sets: Mapping[tuple[Any, ...], list[tuple[str, int]]], keys: tuple[Key, ...]
) -> list[tuple[tuple[Any, ...], list[tuple[str, int]]]]:
    """Sets of factors; one in which a part stands more than once is taken apart by parameter group."""
    found: list[tuple[tuple[Any, ...], list[tuple[str, int]]]] = []
    for label, members in sets.items():
        if len(dict(members)) == len(members):
            found.append((label, members))
        else:
            groups: dict[int, list[tuple[str, int]]] = {}
            for part, i in members:
                groups.setdefault(keys[i].group, []).append((part, i))
            found += [((*label, g), some) for g, some in groups.items()]
    return found


def _matrix(key: Key) -> tuple[int, int]:
    return key.shape[0], prod(key.shape[1:])


def _odd(positions: Sequence[int], keys: tuple[Key, ...]) -> str:
    for i in positions:
        if len(keys[i].shape) < 2 or not prod(keys[i].shape):
            return f"{keys[i].name} of shape {keys[i].shape} is no matrix"
        if not keys[i].real:
            return f"{keys[i].name} is complex"
    return ""


def _lora(parts: Mapping[str, int], keys: tuple[Key, ...]) -> str:
    """Why these are no pair; nothing if they are one."""
    if len(parts) < 2:
        missing = "B (lora_B or lora_up)" if "A" in parts else "A (lora_A or lora_down)"
        return f"no {missing} of the same name"
    if odd := _odd([*parts.values()], keys):
        return odd
    a, b = keys[parts["A"]], keys[parts["B"]]
    if _matrix(b)[1] != _matrix(a)[0]:
        return f"B of shape {b.shape} and A of shape {a.shape} have no rank in common"
    return ""


def _factors(parts: Mapping[str, int], w: str) -> tuple[int, ...]:
    """Positions of the factors of W1 or W2, none where some are missing."""
    if w in parts:
        return (parts[w],)
    if f"{w}_a" in parts and f"{w}_b" in parts:
        return (*((parts["t2"],) if w == "w2" and "t2" in parts else ()), parts[f"{w}_a"], parts[f"{w}_b"])
    return ()


def _lokr(parts: Mapping[str, int], keys: tuple[Key, ...]) -> str:
    for w in ("w1", "w2"):
        factors = _factors(parts, w)
        if not factors:
            return f"no whole lokr_{w} (or lokr_{w}_a with lokr_{w}_b) of the same name"
        if odd := _odd(factors, keys):
            return odd
        shapes = [_matrix(keys[i]) for i in factors]
        if len(shapes) == 2 and shapes[0][1] != shapes[1][0]:
            return f"lokr_{w}_a and lokr_{w}_b of shapes {keys[factors[0]].shape} and {keys[factors[1]].shape} do not multiply"
        if len(shapes) == 3 and keys[factors[0]].shape[:2] != (shapes[1][0], shapes[2][0]):
            return f"lokr_t2 of shape {keys[factors[0]].shape} does not fit between lokr_w2_a and lokr_w2_b"
    return ""


def dealt(measured: Sequence[Tensor], sizes: Mapping[int, Tensor], leads: Collection[int]) -> list[tuple[Tensor, Tensor]]:
    """(size of the adapter, 1 for the factor that starts at zero) for each measured parameter; 0 where there is none."""
    return [(sizes.get(i, w.new_zeros(())), w.new_full((), 1 if i in leads else 0)) for i, w in enumerate(measured)]


def itself(w: Tensor) -> Tensor:
    """The work on a whole tensor that leaves it as it is."""
    return w


def alike(work: Callable[..., Tensor], sets: Mapping[int, Sequence[Tensor]]) -> dict[int, Tensor]:
    """``work(*tensors)`` for each set of tensors; sets of the same shapes are stacked and worked on at once."""
    kinds: dict[Any, list[int]] = {}
    for i, tensors in sets.items():
        kinds.setdefault(tuple((x.shape, x.dtype, x.device) for x in tensors), []).append(i)
    found: dict[int, Tensor] = {}
    for members in kinds.values():
        stacks = map(torch.stack, zip(*(sets[i] for i in members), strict=True))
        found |= zip(members, work(*stacks).unbind(), strict=True)
    return found


def _within_one(x: Tensor, dims: int = 2) -> tuple[Tensor, Tensor]:
    """x over its largest element, and that element: squares neither overflow nor vanish. Of stacks, each for itself."""
    top = x.abs().flatten(-dims).amax(-1)
    top = torch.where(top > 0, top, 1)
    return x / top[(..., *[None] * dims)], top


def mean_row_length(left: Tensor, right: Tensor) -> Tensor:
    """Mean length of the rows of left @ right, by a Gram matrix of the rank's size instead of the product."""
    (left, left_top), (right, right_top) = _within_one(left), _within_one(right)
    squares = (left @ (right @ right.mT) * left).sum(-1)
    return squares.clamp(min=0).sqrt().mean(-1) * left_top * right_top


def product_norm(*factors: Tensor) -> Tensor:
    """Frobenius norm of w, of a @ b, or of a^T t_s b over all s (t of shape (r, q, s)), without forming the product."""
    scaled, tops = zip(*(_within_one(x, 3 if i == 0 and len(factors) == 3 else 2) for i, x in enumerate(factors)), strict=True)
    if len(factors) == 1:
        square = (scaled[0] * scaled[0]).sum((-2, -1))
    elif len(factors) == 2:
        a, b = scaled
        square = ((a.mT @ a) * (b @ b.mT)).sum((-2, -1))
    else:
        t, a, b = scaled
        square = torch.einsum("...ijs,...ik,...kls,...jl->...", t, a @ a.mT, t, b @ b.mT)
    norm = square.clamp(min=0).sqrt()
    for top in tops:
        norm = norm * top
    return norm


def kronecker_norms(measured: Sequence[Tensor], products: Sequence[tuple[Sequence[int], Sequence[int]]]) -> dict[int, Tensor]:
    """|W1 (x) W2| = |W1| |W2| by the position of each factor; products: positions of the factors of W1 and of W2."""

    def matrix(w: Sequence[int], i: int) -> Tensor:
        x = measured[i].to(measured[w[0]])
        kept = {1: 0, 2: 1, 3: 2 if i == w[0] else 1}[len(w)]  # extents that count by themselves; a whole W is one row
        return x.reshape(*(x.shape[:kept] or (1,)), -1)

    norms = alike(product_norm, {k: [matrix(w, i) for i in w] for k, w in enumerate(w for both in products for w in both)})
    found: dict[int, Tensor] = {}
    for k, (w1, w2) in enumerate(products):
        norm = norms[2 * k] * norms[2 * k + 1].to(norms[2 * k])
        found |= {i: norm.to(measured[i]) for i in (*w1, *w2)}
    return found
