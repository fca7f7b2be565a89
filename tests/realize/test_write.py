"""The steps of a function, as text."""

from tvm.script import ir as I
from tvm.script import relax as R

import spmd
from spmd import Mesh, P
from spmd.testing.equivalence import FREE_LINKS


@I.ir_module
class Sum:
    @R.function
    def main(x: R.Tensor((24, 16), "float64"), y: R.Tensor((24, 16), "float64")):
        with R.dataflow():
            z = R.add(x, y)
            R.output(z)
        return z


def test_nothing_is_sent_to_where_nobody_takes_it():
    """The result goes on from what the operator makes: that `z` is kept in columns, as was asked, needs no gather over `dp`."""
    columns, grid = P(None, ("tp", 4, 12)), P("dp", "tp")
    specs = {"main.x": grid, "main.y": columns, "main.z": columns, "main.return": grid}
    sharded = spmd.shard(Sum, Mesh(dp=2, tp=2, hosts=2), specs, profile=FREE_LINKS)
    assert sharded.plan.listing("main").splitlines()[-5:] == [
        "  z = add(x [dp, tp:4|12], y [dp, tp:4|12]) [dp, tp:4|12]",
        "  z: all_to_all over tp, [dp, tp:4|12] -> [dp+tp, -], 768 bytes",
        "  z: put into its own order",
        "  z: all_to_all over tp, [dp+tp, -] -> [dp, tp], 768 bytes",
        "  return z [dp, tp]",
    ]
