"""Operators that only arrange elements anew: reshape, transpose, split, concat, stack, repeat, tile, broadcast, grids."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tvm
from tvm import tirx

from spmd.ir.expressions import static
from spmd.rules.expression import bind
from spmd.rules.model import Rule, Size
from spmd.rules.registry import OpCall, rule

from .helpers import all_but, axis_of, letters, whole
from .reshape import match_shapes

_LINEAR = ((0,),)


@rule("relax.reshape", "relax.flatten", "relax.nn.batch_flatten", "relax.squeeze", "relax.expand_dims")
def reshape(op: OpCall) -> Rule:
    """The same elements in row-major order under another shape."""
    inputs, outputs, sizes, whole = match_shapes(op.input_dims[0], op.output_dims[0])
    shape_args = {1: 0} if op.name == "relax.reshape" else {}
    # A squeeze would take away dimensions of which a shard holds one element, if it names no axis or also those that it leaves.
    named = range(len(op.inputs[0])) if op.name != "relax.squeeze" or op.attrs.axis is None else op.attrs.axis
    ones = [i for i in (axis_of(a, len(op.inputs[0])) for a in named) if op.inputs[0][i] == 1]
    local = (lambda _: {"axis": ones}) if op.name == "relax.squeeze" and None not in op.inputs[0] else None
    return Rule(
        (inputs,), (outputs,), sizes, whole=whole, zero="all", linear=_LINEAR, shape_args=shape_args, local_attrs=local, work="view"
    )


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
def match_cast(op: OpCall) -> str | Rule:
    """A claim about a shape; of several tensors at once, or of none, nothing is split."""
    return "... -> ..." if len(op.inputs) == len(op.outputs) == 1 else whole(op)


@rule("relax.broadcast_to")
def broadcast_to(op: OpCall) -> Rule:
    """NumPy's broadcasting to a given shape."""
    return op.bind("... -> ...", zero="all", linear=_LINEAR, shape_args={1: 0}, work="view")


@rule("relax.stack")
def stack(op: OpCall) -> Rule:
    """Equal shapes beside each other along a new dimension, which is whole."""
    rank = len(op.outputs[0])
    names = letters(rank - 1, skip="s")
    axis = axis_of(op.attrs.axis if op.attrs.axis is not None else 0, rank)
    out = [*names[:axis], "s", *names[axis:]]
    ins = ", ".join([" ".join(names)] * len(op.inputs))
    return op.bind(f"{ins} -> {' '.join(out)}", whole="s", zero="all", linear=(tuple(range(len(op.inputs))),))


@rule("relax.meshgrid")
def meshgrid(op: OpCall) -> Rule:
    """Each vector along a dimension of its own. Indexing "xy" swaps the first two, which the shapes that TVM infers do not tell."""
    if op.attrs.indexing == "xy" and len(op.inputs) > 1:
        return whole(op)
    names = letters(len(op.inputs))
    grid = " ".join(names)
    return op.bind(f"{', '.join(names)} -> {', '.join([grid] * len(names))}", work="view")


@rule("relax.tile")
def tile(op: OpCall) -> Rule:
    """The whole tensor over and over: merged dimensions whose major factors are new. Nothing of it has nothing to split."""
    names, rank = letters(len(op.inputs[0]), skip="r"), len(op.outputs[0])
    counts = [int(r) for r in op.attrs.repeats]
    counts = [1] * (rank - len(counts)) + counts
    if 0 in counts:
        return whole(op)
    new = [""] * (rank - len(names)) + names
    out = [f"(r{i} {n})" if count > 1 else f"({n})" for i, (n, count) in enumerate(zip(new, counts, strict=True))]

    def local(size: Callable[[str], int]) -> dict[str, Any]:
        return {"repeats": [size(f"r{i}") if count > 1 else count for i, count in enumerate(counts)]}

    sizes: dict[str, Size] = {f"r{i}": count for i, count in enumerate(counts) if count > 1}
    return op.bind(f"{' '.join(names)} -> {' '.join(out)}", sizes=sizes, zero="all", linear=_LINEAR, local_attrs=local)


@rule("relax.memory.view")
def view(op: OpCall) -> Rule:
    """A reshape, unless the bytes are read as another dtype or from elsewhere: then nothing can be said."""
    _, shape, _, offset = op.call.args
    # An offset that is left out is an empty tuple, or a null object.
    moved = not isinstance(offset.ty, tvm.relax.TupleType | tvm.relax.AnyType) and static(offset) != 0
    if moved or op.call.ty.dtype != op.call.args[0].ty.dtype or not isinstance(shape, tvm.relax.ShapeExpr):
        return whole(op)
    inputs, outputs, sizes, left = match_shapes(op.input_dims[0], op.output_dims[0])
    extra = ((),) * (len(op.inputs) - 1)  # a dtype that is a variable counts as an input
    return Rule((inputs, *extra), (outputs,), sizes, whole=left, zero="all", linear=_LINEAR, shape_args={1: 0}, work="view")


@rule("relax.repeat")
def repeat(op: OpCall) -> Rule:
    """Each element `repeats` times in a row: a merged dimension whose minor factor is new."""
    shape = op.inputs[0]
    if static(op.attrs.repeats) == 0:
        return whole(op)
    if op.attrs.axis is None:
        names = letters(len(shape), skip="r")
        text = f"{' '.join(names)} -> ({' '.join(names)} r)"
        return bind(text, op.inputs, op.outputs, {"r": static(op.attrs.repeats)}, whole="r", zero="all", linear=_LINEAR)
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
