"""Torch's elementwise operations as C++ expressions."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import fx

from gradchain.optim_wrapper.execution.values import base_of, name_of, value_of

TYPES = {torch.float32: "float", torch.float64: "double", torch.bool: "bool", torch.int64: "int64_t"}
HEADER = """\
#include <cmath>
#include <cstdint>
#include <limits>
#define INLINE static inline __attribute__((always_inline))

// One comparison a line: with several in a condition the compiler gives up vector instructions. NaN is handed on.
template <class T> INLINE T maximum(T x, T y) {
    const T larger = x > y ? x : y;
    return x != x ? x : larger;
}
template <class T> INLINE T minimum(T x, T y) {
    const T smaller = x < y ? x : y;
    return x != x ? x : smaller;
}
template <class T> INLINE T sign(T x) { return T(x > 0) - T(x < 0); }
template <class T> INLINE bool is_inf(T x) { return std::abs(x) == std::numeric_limits<T>::infinity(); }
template <class T> INLINE T nan_to_num(T x, T nan, T top, T bottom) {
    const T inf = std::numeric_limits<T>::infinity();
    return x != x ? nan : x == inf ? top : x == -inf ? bottom : x;
}
template <class T> INLINE T remainder_(T x, T y) {
    const T r = std::fmod(x, y);
    return (r != 0) & ((r < 0) != (y < 0)) ? r + y : r;
}
"""
FUNCTIONS = {  # operations of floating point numbers that C++ has under another name, or under its own
    **{name: f"std::{name}" for name in ("sqrt", "exp", "expm1", "log", "log1p", "log2", "tanh", "sin", "cos", "atan", "erf")},
    **{name: f"std::{name}" for name in ("floor", "ceil", "trunc", "hypot", "atan2", "copysign", "fmod", "sinh", "cosh")},
    "abs": "std::abs",
    "sign": "sign",
    "sgn": "sign",
    "maximum": "maximum",
    "minimum": "minimum",
    "remainder": "remainder_",
}
INFIX = {
    **{"mul": "*", "div": "/", "eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">="},
    **{"bitwise_and": "&", "bitwise_or": "|", "bitwise_xor": "^", "logical_and": "&&", "logical_or": "||"},
}
COMPARISONS = ("eq", "ne", "lt", "le", "gt", "ge", "isnan", "isinf", "isfinite")
COPIES = ("_to_copy", "clone", "lift_fresh_copy", "detach", "alias")
LOGIC = ("bitwise_and", "bitwise_or", "bitwise_xor", "logical_and", "logical_or", "bitwise_not", "logical_not")


class Unwritten(ValueError):
    """An operation that is not written in C++ here."""


def type_of(dtype: torch.dtype) -> str:
    """The C++ type of a dtype."""
    if dtype not in TYPES:
        raise Unwritten(f"numbers of {dtype}")
    return TYPES[dtype]


def literal(value: float | bool, kind: str) -> str:
    """A number of a C++ type, exactly."""
    if isinstance(value, bool) or kind in ("bool", "int64_t"):
        return f"{kind}({int(value)})"
    if math.isnan(value) or math.isinf(value):
        limit = "quiet_NaN()" if math.isnan(value) else "infinity()"
        return f"{'-' if value == -math.inf else ''}std::numeric_limits<{kind}>::{limit}"
    return f"{kind}({float(value)!r})"


def converted(text: str, kind: str, wanted: str) -> str:
    """An expression of one type as one of another."""
    if kind == wanted:
        return text
    if kind == "bool":  # a cast keeps compilers from vector instructions
        return f"({text} ? {wanted}(1) : {wanted}(0))"
    return f"({text} != 0)" if wanted == "bool" else f"static_cast<{wanted}>({text})"


def computed_in(node: fx.Node) -> str:
    """The type in which an operation computes: that of its result, or of its operands where it compares."""
    base, out = base_of(node), value_of(node).dtype
    if base not in COMPARISONS:
        return type_of(out)
    operands: list[Any] = [value_of(arg) if isinstance(arg, fx.Node) else arg for arg in node.args]
    return type_of(operands[0].dtype if len(operands) == 1 else torch.result_type(operands[0], operands[1]))


def expression(node: fx.Node, operand: Callable[[Any, str], str]) -> str:
    """The C++ expression of one element; ``operand(argument, type)`` gives that of an argument in a type."""
    base, kind = base_of(node), computed_in(node)
    if base in LOGIC and value_of(node).dtype != torch.bool:
        raise Unwritten(name_of(node))
    if base == "where":
        condition, *ways = node.args
        chosen = [operand(way, kind) for way in ways]
        return f"({operand(condition, 'bool')} ? {chosen[0]} : {chosen[1]})"
    plain = {"alpha", "value"} & set(node.kwargs)
    if node.kwargs and base not in COPIES and not plain:
        raise Unwritten(name_of(node))
    if base in COPIES:
        return operand(node.args[0], kind)
    args = [operand(arg, kind) for arg in node.args if arg is not None]
    if base in INFIX and len(args) == 2:
        return f"({args[0]} {INFIX[base]} {args[1]})"
    if base in FUNCTIONS and value_of(node).is_floating_point():
        return f"{FUNCTIONS[base]}({', '.join(args)})"
    return _special(node, base, kind, args, operand)


def _special(node: fx.Node, base: str, kind: str, args: Sequence[str], operand: Callable[[Any, str], str]) -> str:
    """Operations that are written in more than one call."""
    scale = node.kwargs.get("alpha", node.kwargs.get("value", 1))
    if base == "rsub":
        scale = node.args[2] if len(node.args) > 2 else scale
        return f"({args[1]} - {_times(args[0], scale, kind)})"
    if base in ("add", "sub"):
        return f"({args[0]} {'+' if base == 'add' else '-'} {_times(args[1], scale, kind)})"
    if base == "addcmul":
        return f"({args[0]} + {_times(args[1], scale, kind)} * {args[2]})"
    if base == "addcdiv":
        return f"({args[0]} + {_times(args[1], scale, kind)} / {args[2]})"
    if base == "lerp":
        return f"({args[0]} + {args[2]} * ({args[1]} - {args[0]}))"
    if base in ("clamp", "clamp_min", "clamp_max"):
        return _clamp(node, base, kind, operand)
    if base == "pow":
        return _power(node, kind, args)
    if base == "nan_to_num":
        limits = torch.finfo(value_of(node).dtype)
        given: list[Any] = [*node.args[1:], None, None, None]
        numbers = [usual if one is None else one for one, usual in zip(given, (0.0, limits.max, limits.min), strict=False)]
        return f"nan_to_num({args[0]}, {', '.join(literal(number, kind) for number in numbers)})"
    simple = {
        "neg": "(-{0})",
        "reciprocal": "(" + kind + "(1) / {0})",
        "rsqrt": "(" + kind + "(1) / std::sqrt({0}))",
        "square": "({0} * {0})",
        "sigmoid": "(" + kind + "(1) / (" + kind + "(1) + std::exp(-{0})))",
        "isnan": "({0} != {0})",
        "isinf": "is_inf({0})",
        "isfinite": "!(is_inf({0}) | ({0} != {0}))",
        "bitwise_not": "(!{0})",
        "logical_not": "(!{0})",
    }
    if base not in simple:
        raise Unwritten(name_of(node))
    return simple[base].format(*args)


def _times(factor: str, scale: Any, kind: str) -> str:
    if isinstance(scale, fx.Node):
        raise Unwritten("a factor that is a tensor")
    return factor if scale == 1 else f"{literal(scale, kind)} * {factor}"


def _clamp(node: fx.Node, base: str, kind: str, operand: Callable[[Any, str], str]) -> str:
    low, high = ([*node.args[1:], None, None] if base != "clamp_max" else [None, node.args[1]])[:2]
    value = operand(node.args[0], kind)
    value = value if low is None else f"maximum<{kind}>({value}, {operand(low, kind)})"
    return value if high is None else f"minimum<{kind}>({value}, {operand(high, kind)})"


def _power(node: fx.Node, kind: str, args: Sequence[str]) -> str:
    exponent = node.args[1]
    known = {2: "({0} * {0})", 1: "{0}", 0.5: "std::sqrt({0})", 3: "({0} * {0} * {0})", -1: "(" + kind + "(1) / {0})"}
    if isinstance(exponent, int | float) and exponent in known:
        return known[exponent].format(args[0])
    return f"std::pow({args[0]}, {args[1]})"
