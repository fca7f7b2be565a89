"""Writing at given indices: where the data is split, each worker writes what falls into its shard; where the updates are, the
results are reduced over the workers.
"""

from __future__ import annotations

from spmd.rules.model import Form, Rule
from spmd.rules.registry import OpCall, rule

from .helpers import axis_of, letters, whole
from .indexing import aligned

_SHARD = Form("scatter", ordered=True)
_KINDS = {"add": "sum", "mul": "prod", "min": "min", "max": "max"}


def _forms(data: list[str], updates: list[str], reduction: str) -> tuple[dict[str, Form], frozenset[str]]:
    """The forms of the data's and of the updates' factors, and which stay whole: what is written last wins, or a mean goes in turn."""
    kind = _KINDS.get(reduction)
    forms = dict.fromkeys(data, _SHARD)
    if kind is not None:
        forms |= dict.fromkeys(updates, Form("scatter_terms", partial=kind))
    return forms, frozenset(() if kind is not None else updates)


@rule("relax.scatter_elements")
def scatter_elements(op: OpCall) -> Rule:
    """One index for each update, along one axis; the other dimensions go together where they are equally long."""
    axis = axis_of(op.attrs.axis, len(op.inputs[0]))
    rows, places, apart = aligned(op, axis)
    forms, last = _forms([rows[axis]], [places[axis]], str(op.attrs.reduction))
    data, given = " ".join(rows), " ".join(places)
    linear = ((0, 2),) if op.attrs.reduction in ("update", "add") else ()
    return op.bind(f"{data}, {given}, {given} -> {data}", whole=apart | last, forms=forms, linear=linear)


@rule("relax.scatter_nd")
def scatter_nd(op: OpCall) -> Rule:
    """The last dimension of the indices holds an index for each of as many dimensions of the data."""
    count = op.inputs[1][-1]
    if count is None:
        return whole(op)
    names = letters(len(op.inputs[0]), skip="ik")
    places = [f"i{d}" for d in range(len(op.inputs[1]) - 1)]
    forms, last = _forms(names[:count], places, str(op.attrs.reduction))
    data, given = " ".join(names), " ".join(places)
    linear = ((0, 2),) if op.attrs.reduction in ("update", "add") else ()
    text = f"{data}, {given} k, {given} {' '.join(names[count:])} -> {data}"
    return op.bind(text, whole=last | {"k"}, forms=forms, linear=linear)


@rule("relax.index_put")
def index_put(op: OpCall) -> Rule:
    """An index tensor for each dimension, broadcast together; the values are as many as the places."""
    names, count = letters(len(op.inputs[0]), skip="i"), len(op.inputs) - 2
    rank = max(len(shape) for shape in op.inputs[1:-1])
    places = [f"i{d}" for d in range(rank)]
    broadcast = tuple(max((shape[d - rank] for shape in op.inputs[1:-1] if len(shape) >= rank - d), key=_longest) for d in range(rank))
    if count != len(names) or op.inputs[-1] != broadcast:  # values that are spread out in another way
        return whole(op)
    forms, last = _forms(names, places, "add" if op.attrs.accumulate else "update")
    data, given = " ".join(names), ", ".join(_of(places, shape) for shape in op.inputs[1:])
    return op.bind(f"{data}, {given} -> {data}", whole=last, forms=forms, linear=((0, len(op.inputs) - 1),))


def _of(places: list[str], shape: tuple[int | None, ...]) -> str:
    """The factors of an index tensor: those of its own dimensions that are not stretched."""
    mine = places[len(places) - len(shape) :]
    return " ".join("1" if size == 1 else name for name, size in zip(mine, shape, strict=True))


def _longest(size: int | None) -> float:
    return float("inf") if size is None else size


@rule("relax.grad.take_backward")
def take_backward(op: OpCall) -> Rule:
    """The gradient of the table of a take by a vector of indices: a sum at each index over zeros."""
    names = letters(len(op.inputs[1]), skip="it")
    axis = axis_of(op.attrs.axis if op.attrs.axis is not None else 0, len(names))
    names[axis] = "t"
    rows = " ".join(names)
    made = rows.replace("t", "i")
    forms, _ = _forms(["t"], ["i"], "add")
    return op.bind(f"{made}, {rows}, i -> {rows}", forms=forms, linear=((0,),))
