"""The number that a symbolic size is, as TVM writes it: ``n * 8``, ``(n + T.int64(1)) // T.int64(2)``."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping
from typing import Any

_BINARY: dict[type[ast.operator], Callable[[int, int], int]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}
_CALLS: dict[str, Callable[..., int]] = {"int64": int, "int32": int, "min": min, "max": max}


def evaluated(text: str, sizes: Mapping[str, int]) -> int | None:
    """The size that `text` stands for where the symbols in it have these sizes; None where it cannot be told."""
    try:
        return _value(ast.parse(text, mode="eval").body, sizes)
    except (SyntaxError, _UntoldError, ZeroDivisionError):
        return None


class _UntoldError(Exception):
    """Something in a size that is no number."""


def _value(node: Any, sizes: Mapping[str, int]) -> int:
    if isinstance(node, ast.Constant) and isinstance(node.value, int):
        return node.value
    if isinstance(node, ast.Name) and node.id in sizes:
        return sizes[node.id]
    if isinstance(node, ast.BinOp) and type(node.op) in _BINARY:
        return _BINARY[type(node.op)](_value(node.left, sizes), _value(node.right, sizes))
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in _CALLS and not node.keywords:
        return _CALLS[node.func.attr](*(_value(arg, sizes) for arg in node.args))
    raise _UntoldError
