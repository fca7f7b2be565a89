"""Operators that compare elements along one dimension: the largest, the k largest, all in order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from spmd.placement.mesh import Mesh
from spmd.placement.sharding import Split
from spmd.rules.model import Exchange, Form, Rule
from spmd.rules.registry import OpCall, rule

from .helpers import axis_of, input_is_float, letters, whole


@rule("relax.argmax", "relax.argmin")
def extreme_index(op: OpCall) -> Rule:
    """The index of the extreme element along one axis, or of all elements as one row.

    Split, workers bring where the last NaN is, then their best values, then the first places of the best of all.
    """
    shape = op.inputs[0]
    names = letters(len(shape))
    axes = range(len(names)) if op.attrs.axis is None else (axis_of(op.attrs.axis, len(names)),)
    out = [("1" if op.attrs.keepdims else "") if i in axes else n for i, n in enumerate(names)]
    text = f"{' '.join(names)} -> {' '.join(o for o in out if o)}"
    if op.attrs.axis is None and None in shape:  # a place in the flattened tensor cannot be worked out
        return op.bind(text, whole=" ".join(names), reduce=None)
    rest = " ".join(n for i, n in enumerate(names) if i not in axes)
    places = Exchange("all_reduce", rest, "int64")
    form = Form("extreme_index", (*[places] * input_is_float(op), Exchange("all_reduce", rest), places))
    return op.bind(text, forms={names[a]: form for a in axes}, reduce=None)


@dataclass(frozen=True)
class _Candidates:
    """What each worker brings to a topk: the k best of its shard, or all where it holds fewer, and where they are."""

    factor: str
    rest: str
    k: int
    places: bool

    def __call__(self, splits: Mapping[str, Split], mesh: Mesh) -> tuple[Exchange, ...]:
        spec = f"{self.rest} {min(self.k, splits[self.factor].local_size(mesh))}"
        values, places = Exchange("all_gather", spec), Exchange("all_gather", spec, "int32")
        return (values, places) if self.places else (values,)


@rule("relax.topk")
def topk(op: OpCall) -> Rule:
    """The k first of each row in order; split along it, each worker brings its own k first. Where all are asked for, it is a sort."""
    shape = op.inputs[0]
    names = letters(len(shape), skip="k")
    axis = axis_of(op.attrs.axis, len(names))
    name, k = names[axis], int(op.attrs.k)
    ins, out = " ".join(names), " ".join("k" if n == name else n for n in names)
    text = f"{ins} -> {', '.join([out] * len(op.outputs))}"
    size = shape[axis]
    if k < 1 or size is None or k >= size:
        return op.bind(text, whole=f"{name} k", reduce=None)
    rest = " ".join(n for n in names if n != name)
    form = Form("topk", _Candidates(name, rest, k, op.attrs.ret_type != "values"), ordered=True)
    return op.bind(text, whole="k", forms={name: form}, reduce=None)


@rule("relax.sort", "relax.argsort")
def sort(op: OpCall) -> Rule:
    """Any element may go anywhere along the sorted axis."""
    names = letters(len(op.inputs[0]))
    text = " ".join(names)
    return op.bind(f"{text} -> {text}", whole=names[axis_of(op.attrs.axis, len(names))], zero="all" if op.name == "relax.sort" else "")


@rule("relax.unique", "relax.nonzero", "relax.dynamic_strided_slice")
def found(op: OpCall) -> Rule:
    """How many elements there are in the result depends on all the data, and so does the place of each."""
    return whole(op)


@rule("relax.reverse_sequence")
def reverse_sequence(op: OpCall) -> Rule:
    """The first elements of each row in reverse: how many of them, another input says, so that one may come from anywhere in the row."""
    names = letters(len(op.inputs[0]))
    row, batch = names[axis_of(op.attrs.seq_axis, len(names))], names[axis_of(op.attrs.batch_axis, len(names))]
    text = " ".join(names)
    return op.bind(f"{text}, {batch} -> {text}", whole=row)
