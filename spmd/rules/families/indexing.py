"""Reading at given indices: a table split over its rows gives a partial sum, each worker answering for the rows that it holds."""

from __future__ import annotations

from spmd.ir.expressions import static
from spmd.rules.model import Form, Rule
from spmd.rules.registry import OpCall, rule

from .helpers import axis_of, letters, whole

_LOOKUP = Form("lookup", partial="sum", ordered=True)
_LINEAR = ((0,),)


@rule("relax.take")
def take(op: OpCall) -> Rule:
    """Rows of a table; without an axis the table has one dimension. The index may be a number."""
    table = len(op.inputs[0])
    axis = axis_of(op.attrs.axis if op.attrs.axis is not None else 0, table)
    names = letters(table + len(op.inputs[1]) if len(op.inputs) > 1 else table)
    rows, places = names[:table], names[table:]
    out = [*rows[:axis], *places, *rows[axis + 1 :]]
    ins = ", ".join(" ".join(part) for part in (rows, places)[: len(op.inputs)])
    linear = () if op.attrs.mode == "nan" or str(op.call.ty.dtype) == "bool" else _LINEAR
    if len(op.inputs) == 1 and static(op.call.args[1]) is None:  # a number that is known only when the program runs
        return op.bind(f"{ins} -> {' '.join(out)}", whole=rows[axis], reduce=None, linear=linear)
    return op.bind(f"{ins} -> {' '.join(out)}", forms={rows[axis]: _LOOKUP}, sparse=(0,), linear=linear)


@rule("relax.gather_elements")
def gather_elements(op: OpCall) -> Rule:
    """One index for each element of the result; the other dimensions go together where they are equally long."""
    rank = len(op.inputs[0])
    axis = axis_of(op.attrs.axis, rank)
    rows, places, apart = aligned(op, axis)
    out = " ".join(places)
    return op.bind(f"{' '.join(rows)}, {out} -> {out}", whole=apart, forms={rows[axis]: _LOOKUP}, sparse=(0,), linear=_LINEAR, reduce=None)


@rule("relax.gather_nd")
def gather_nd(op: OpCall) -> Rule:
    """The last dimension of the indices holds an index for each of as many dimensions of the table, after the batch dimensions."""
    batch, count = int(op.attrs.batch_dims), op.inputs[1][-1]
    if count is None:
        return whole(op)
    names = letters(len(op.inputs[0]), skip="ik")
    found, rest = names[batch : batch + count], names[batch + count :]
    places = [*names[:batch], *(f"i{d}" for d in range(len(op.inputs[1]) - 1 - batch))]
    text = f"{' '.join(names)}, {' '.join(places)} k -> {' '.join((*places, *rest))}"
    return op.bind(text, whole="k", forms=dict.fromkeys(found, _LOOKUP), sparse=(0,), linear=_LINEAR)


@rule("relax.index_tensor")
def index_tensor(op: OpCall) -> Rule:
    """An index tensor for each of the first dimensions, broadcast together."""
    names, count = letters(len(op.inputs[0])), len(op.inputs) - 1
    rest = " ".join(names[count:])
    text = f"{' '.join(names)}, {', '.join(['...'] * count)} -> ...{rest}"
    return op.bind(text, forms=dict.fromkeys(names[:count], _LOOKUP), sparse=(0,), linear=_LINEAR)


def aligned(op: OpCall, axis: int) -> tuple[list[str], list[str], frozenset[str]]:
    """Factors of data and of indices that pick along `axis` only. A dimension in which they differ stays whole, as indices
    stand for the first elements of the data.
    """
    rows = letters(len(op.inputs[0]), skip="it")
    places = [name if size == other and size is not None else f"{name}_" for name, size, other in zip(rows, *op.inputs[:2], strict=True)]
    places[axis] = "i"
    rows[axis] = "t"
    apart = {f for d, pair in enumerate(zip(rows, places, strict=True)) if d != axis and pair[0] != pair[1] for f in pair}
    return rows, places, frozenset(apart)
