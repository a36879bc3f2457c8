"""Operations on Python numbers with the results that torch's have on 0-d float64 tensors: infinities and NaN, no exceptions."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

import torch

__all__ = ["FORMULAS"]


def add(a: float, b: float, alpha: float = 1) -> float:
    return a + b * alpha


def sub(a: float, b: float, alpha: float = 1) -> float:
    return a - b * alpha


def rsub(a: float, b: float, alpha: float = 1) -> float:
    return b - a * alpha


def div(a: float, b: float) -> float:
    if b:
        return a / b
    if a != a or b != b or a == 0:
        return math.nan
    return math.copysign(math.inf, a) * math.copysign(1.0, b)


def reciprocal(a: float) -> float:
    return div(1.0, a)


def power(a: float, b: float) -> float:
    try:
        return math.pow(a, b)
    except OverflowError:
        return -math.inf if a < 0 and b % 2 == 1 else math.inf
    except ValueError:  # a negative base with a broken exponent, or zero with a negative one
        if a == 0:
            return math.copysign(math.inf, a) if b % 2 == 1 else math.inf
        return math.nan


def sqrt(a: float) -> float:
    return math.sqrt(a) if a >= 0 else math.nan


def exp(a: float) -> float:
    try:
        return math.exp(a)
    except OverflowError:
        return math.inf


def expm1(a: float) -> float:
    try:
        return math.expm1(a)
    except OverflowError:
        return math.inf


def log(a: float) -> float:
    return math.log(a) if a > 0 else (-math.inf if a == 0 else math.nan)


def largest(a: float, b: float) -> float:
    return a if a >= b or a != a else b


def smallest(a: float, b: float) -> float:
    return a if a <= b or a != a else b


def clamp(a: float, low: float | None = None, high: float | None = None) -> float:
    if a != a:
        return a
    a = a if low is None else largest(low, a)
    return a if high is None else smallest(high, a)


def converted(a: Any, *, dtype: torch.dtype | None = None, **rest: Any) -> Any:
    """A number in another dtype. A float stays in double precision, whatever the dtype: more digits than on a tensor."""
    if dtype is None:
        return a
    if dtype == torch.bool:
        return bool(a)
    return float(a) if dtype.is_floating_point else int(a)


def select(condition: bool, a: Any, b: Any) -> Any:
    return a if condition else b


def floor(a: float) -> float:
    return float(math.floor(a)) if math.isfinite(a) else a


def both(a: Any, b: Any) -> Any:
    return a and b


def either(a: Any, b: Any) -> Any:
    return a or b


def itself(a: Any, **rest: Any) -> Any:
    return a


FORMULAS: dict[str, Callable[..., Any]] = {
    **{f"add.{kind}": add for kind in ("Tensor", "Scalar")},
    **{f"sub.{kind}": sub for kind in ("Tensor", "Scalar")},
    **{f"rsub.{kind}": rsub for kind in ("Tensor", "Scalar")},
    **{f"mul.{kind}": operator.mul for kind in ("Tensor", "Scalar")},
    **{f"div.{kind}": div for kind in ("Tensor", "Scalar")},
    **{f"pow.{kind}": power for kind in ("Tensor_Tensor", "Tensor_Scalar", "Scalar")},
    **{
        f"{name}.{kind}": getattr(operator, name)
        for name in ("lt", "le", "eq", "ne", "gt", "ge")
        for kind in ("Tensor", "Scalar")
    },
    "reciprocal.default": reciprocal,
    "sqrt.default": sqrt,
    "exp.default": exp,
    "expm1.default": expm1,
    "log.default": log,
    "neg.default": operator.neg,
    "abs.default": abs,
    "floor.default": floor,
    "maximum.default": largest,
    "minimum.default": smallest,
    "clamp.default": clamp,
    "clamp.Tensor": clamp,
    "clamp_min.default": clamp,
    "bitwise_and.Tensor": both,
    "bitwise_or.Tensor": either,
    "logical_not.default": operator.not_,
    "where.self": select,
    "_to_copy.default": converted,
    "detach.default": itself,
    "alias.default": itself,
    "clone.default": itself,
    "lift_fresh_copy.default": itself,
}
