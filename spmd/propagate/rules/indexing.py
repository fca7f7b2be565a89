"""Reading at given indices."""

from __future__ import annotations

from ...expression import Form, Rule
from .helpers import axis_of, letters
from .registry import OpCall, rule


@rule("relax.take")
def take(op: OpCall) -> Rule | None:
    """Rows of a table; a table split over its rows gives a partial sum, each worker answering for the rows that it holds."""
    if op.attrs.axis is None or len(op.inputs) != 2:
        return None
    table, indices = len(op.inputs[0]), len(op.inputs[1])
    axis = axis_of(op.attrs.axis, table)
    names = letters(table + indices)
    rows, places = names[:table], names[table:]
    out = [*rows[:axis], *places, *rows[axis + 1 :]]
    text = f"{' '.join(rows)}, {' '.join(places)} -> {' '.join(out)}"
    if op.attrs.mode == "nan":  # an index that no worker holds must still give NaN
        return op.bind(text, whole=rows[axis], reduce=None)
    return op.bind(text, forms={rows[axis]: Form("lookup", partial="sum", ordered=True)}, sparse=(0,))
