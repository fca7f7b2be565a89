"""Operators that only move elements: reshape, transpose, split, concat, repeat, broadcast."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvm import tirx

from ...expression import Rule, Size, bind
from .helpers import all_but, axis_of, letters, static
from .registry import OpCall, rule
from .reshape import match_shapes

_LINEAR = ((0,),)


@rule("relax.reshape", "relax.flatten", "relax.squeeze", "relax.expand_dims")
def reshape(op: OpCall) -> Rule:
    """The same elements in row-major order under another shape."""
    inputs, outputs, sizes, whole = match_shapes(op.input_dims[0], op.output_dims[0])
    shape_args = {1: 0} if op.name == "relax.reshape" else {}
    return Rule((inputs,), (outputs,), sizes, whole=whole, zero="all", linear=_LINEAR, shape_args=shape_args, work="view")


@rule("relax.permute_dims")
def permute_dims(op: OpCall) -> Rule:
    """A transpose; no axes means reversed."""
    names = letters(len(op.inputs[0]))
    axes = [axis_of(a, len(names)) for a in op.attrs.axes] if op.attrs.axes is not None else list(reversed(range(len(names))))
    # A transposed weight is fused into the matmul that reads it.
    return op.bind(f"{' '.join(names)} -> {' '.join(names[a] for a in axes)}", zero="all", linear=_LINEAR, work="view")


@rule("relax.split")
def split(op: OpCall) -> Rule:
    """One dimension seen as a concatenation, each piece an output."""
    shape = op.inputs[0]
    axis = axis_of(op.attrs.axis, len(shape))
    parts = [f"p{i}" for i in range(len(op.outputs))]
    whole = " ".join(_named(shape, axis, "[" + " ".join(parts) + "]"))
    outs = ", ".join(" ".join(_named(shape, axis, p)) for p in parts)

    def local(size: Callable[[str], int]) -> dict[str, Any]:
        sizes = [size(p) for p in parts]
        ends = [sum(sizes[: i + 1]) for i in range(len(sizes) - 1)]
        return {
            "indices_or_sections": tirx.IntImm("int64", len(sizes)) if len(set(sizes)) == 1 else [tirx.IntImm("int64", e) for e in ends],
            "axis": axis,
        }

    local_attrs = local if all(o[axis] is not None for o in op.outputs) else None
    return op.bind(f"{whole} -> {outs}", zero="all", linear=_LINEAR, local_attrs=local_attrs, work="view")


@rule("relax.concat")
def concat(op: OpCall) -> Rule:
    """Inputs one after another along one dimension."""
    shape = op.inputs[0]
    axis = axis_of(op.attrs.axis if op.attrs.axis is not None else 0, len(shape))
    parts = [f"p{i}" for i in range(len(op.inputs))]
    ins = ", ".join(" ".join(_named(shape, axis, p)) for p in parts)
    out = " ".join(_named(shape, axis, "[" + " ".join(parts) + "]"))
    return op.bind(f"{ins} -> {out}", zero="all", linear=(tuple(range(len(parts))),))


@rule("match_cast")
def match_cast(_: OpCall) -> str:
    """A claim about a shape."""
    return "... -> ..."


@rule("relax.broadcast_to")
def broadcast_to(op: OpCall) -> Rule:
    """NumPy's broadcasting to a given shape."""
    return op.bind("... -> ...", zero="all", linear=_LINEAR, shape_args={1: 0}, work="view")


@rule("relax.repeat")
def repeat(op: OpCall) -> Rule | None:
    """Each element `repeats` times in a row: a merged dimension whose minor factor is new."""
    if op.attrs.axis is None:
        return None
    shape = op.inputs[0]
    axis = axis_of(op.attrs.axis, len(shape))
    inner: dict[str, Size] = {"r": static(op.attrs.repeats)}
    names = all_but(shape, axis, "h")
    names = [n if n != "r" else "r_" for n in names]
    out = [*names[:axis], "(h r)", *names[axis + 1 :]]
    return bind(f"{' '.join(names)} -> {' '.join(out)}", op.inputs, op.outputs, inner, whole="r", zero="all", linear=_LINEAR)


def _named(shape: tuple[Size, ...], axis: int, name: str) -> list[str]:
    names = letters(len(shape), skip="p")
    names[axis] = name
    return names
