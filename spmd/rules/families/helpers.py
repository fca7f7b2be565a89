"""Small pieces that several families of rules use."""

from __future__ import annotations

import string
from typing import Any

from spmd.rules.expression import bind
from spmd.rules.model import Rule, Shape
from spmd.rules.registry import OpCall


def letters(rank: int, skip: str = "") -> list[str]:
    """`rank` different factor names."""
    names = [c for c in string.ascii_lowercase if c not in skip] + [f"f{i}" for i in range(rank)]
    return names[:rank]


def axis_of(axis: Any, rank: int) -> int:
    """`axis` counted from the front."""
    number = int(axis)
    return number + rank if number < 0 else number


def all_but(shape: Shape, axis: int, name: str) -> list[str]:
    """Factor names of a tensor whose dimension `axis` is called `name`."""
    names = letters(len(shape), skip=name)
    names[axis] = name
    return names


def whole(op: OpCall) -> Rule:
    """The rule of a call of which nothing can be split."""
    texts: list[list[str]] = []
    names = iter(letters(sum(map(len, (*op.inputs, *op.outputs)))))
    for shapes in (op.inputs, op.outputs):
        texts.append([" ".join(next(names) for _ in shape) for shape in shapes])
    text = f"{', '.join(texts[0])} -> {', '.join(texts[1])}"
    return bind(text, op.inputs, op.outputs, whole=frozenset(text.replace(",", " ").replace("->", " ").split()), reduce=None).touching()


def is_float(op: OpCall) -> bool:
    """Whether the call gives floats."""
    return "float" in str(op.call.ty.dtype)


def input_is_float(op: OpCall) -> bool:
    """Whether the first input holds floats."""
    return "float" in str(op.call.args[0].ty.dtype)


def is_narrow(op: OpCall) -> bool:
    """Whether the first input holds floats of 8 bits, for which TVM has no roots and no exponentials."""
    return "float8" in str(op.call.args[0].ty.dtype)


def wide(op: OpCall) -> str:
    """The dtype of sums of the first input that workers exchange, as `Exchange` takes it: floats of 8 and 16 bits are summed in float32."""
    half = str(op.call.args[0].ty.dtype) in ("float16", "bfloat16")
    return "float32" if half or is_narrow(op) else ""
