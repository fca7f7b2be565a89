"""The wrong programs of this project's history are found without running them, and the reason names a value."""

import numpy as np
import pytest
from tvm import relax

import spmd
from spmd import Mesh, Sharding, ShardingError

from .history import special, symbolic, written

STORE, ROWS, PAIR = (10, 12, 2), (4, 12, 2), (10, 12)
NO_NUMBERS = np.array([[np.nan, -1, -4, -2, -8], [3, np.nan, -1, 2, -3], [5, 1, np.nan, 6, -4]], "float32")
TABLE = np.arange(1, 33, dtype="float32").reshape(8, 4)


def placed(**shardings):
    return {f"main.{name}": Sharding.parse(text, shape) for name, (text, shape) in shardings.items()}


def looked_up(operator, number):
    """A pair whose argument z holds a special number."""
    z = np.ones((3, 4), "float32")
    z[0, 1] = number
    arguments = {"main.table": TABLE, "main.rows": np.array([1, 5, 7]), "main.z": z}
    made = special.looked_up(operator), special.summed_late(operator), 2, placed(table=("[tp, -]", (8, 4))), None
    return *made, {"arguments": arguments}


CASES = {
    "a merged size over two axes": (
        symbolic.Unfolded, symbolic.OverTwoAxes, Mesh(dp=2, tp=2), placed(x=("[dp+tp:8*]", (-1,)), z=("[dp:2*, -]", (-1, 1))), None,
        {"sizes": {"n": 16}}, "add 'out' of 'main'",
    ),
    "a merged size over parts of an axis": (
        symbolic.Unfolded, symbolic.OverParts, Mesh(tp=4), placed(x=("[tp:8*]", (-1,)), z=("[tp(1)2:2*, -]", (-1, 1))),
        Sharding.parse("[tp(1)2:2*, tp(2)2]", (-1, 4)), {"sizes": {"n": 16}}, "add 'out' of 'main'",
    ),
    "from the major part of an axis to all of it": (
        symbolic.Chain, symbolic.FromTheMajorPart, Mesh(tp=4), placed(x=("[tp(1)2:8*, -]", (-1, 3))), None, {"sizes": {"n": 16}},
        "the result of 'main'",
    ),
    "from the minor part of an axis to all of it": (
        symbolic.Chain, symbolic.FromTheMinorPart, Mesh(tp=4), placed(x=("[tp(2)2:8*, -]", (-1, 3))), None, {"sizes": {"n": 16}},
        "the result of 'main'",
    ),
    "rows put by an index": (
        written.Rows, written.RowsLost, 2, placed(store=("[-, tp, -]", STORE), rows=("[-, tp, -]", ROWS)),
        Sharding.parse("[-, tp, -]", STORE), {}, "put 'out' of 'main'",
    ),
    "rows put from a position on": (
        written.From, written.FromLost, 2, placed(store=("[-, tp, -]", STORE), rows=("[-, tp, -]", ROWS)),
        Sharding.parse("[-, tp, -]", STORE), {}, "put 'out' of 'main'",
    ),
    "a sum with a factor by position": (
        written.Sum, written.SumLost, 2, placed(store=("[-, tp]", PAIR), rows=("[-, tp]", PAIR)), Sharding.parse("[-, tp]", PAIR), {},
        "add 'out' of 'main'",
    ),
    "a function writes to a copy": (
        written.Count, written.CountOfACopy, 2, placed(count=("[tp, -]", (4, 4))), None, {}, "what 'main' leaves in parameter 1",
    ),
    "rows divided by zero": (*looked_up(relax.op.divide, 0), "the result of 'main'"),
    "rows times infinity": (*looked_up(relax.op.multiply, np.inf), "the result of 'main'"),
    "the smallest of what is no number": (
        special.Smallest, special.SmallestOfEach, 3, placed(x=("[tp, -]", (3, 5))), None, {"arguments": {"main.x": NO_NUMBERS}},
        "the result of 'main'",
    ),
    "the largest of what is no number": (
        special.Largest, special.LargestOfEach, 2, placed(x=("[-, tp]", (3, 5))), None, {"arguments": {"main.x": NO_NUMBERS}},
        "the result of 'main'",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_it_is_found(name):
    mod, local, mesh, inputs, output, asked, text = CASES[name]
    outputs = {"main": output} if output is not None else None
    with pytest.raises(ShardingError, match="numbers wrong") as error:
        spmd.verify(mod, local, mesh=mesh, inputs=inputs, outputs=outputs, **asked)
    assert text in str(error.value)
