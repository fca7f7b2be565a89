"""What nothing uses is not planned, in branches too; what somebody may see stays."""

# ruff: noqa: F841, SIM108
# TVMScript has no conditional expression.

from tvm.script import ir as I
from tvm.script import relax as R
from tvm.script import tirx as T

from spmd.program.build import build_graph
from spmd.testing import assert_equivalent


def planned(mod):
    return [(n.op.removeprefix("relax."), n.branch) for n in build_graph(mod).functions["main"].nodes]


def test_a_chain_that_ends_nowhere():
    @I.ir_module
    class Chain:
        @R.function
        def main(x: R.Tensor((4, 6), "float32"), w: R.Tensor((6, 6), "float32")):
            with R.dataflow():
                a = R.matmul(x, w)
                b = R.split(a, 2)
                c = R.exp(b[0])
                parts = R.split(x, 2)
                y = R.negative(parts[1])
                R.output(y)
            return y

    assert planned(Chain) == [("split", ()), ("negative", ())]
    assert_equivalent(Chain, 2)


def test_shapes_that_are_cast_and_packed_functions_stay():
    @I.ir_module
    class Kept:
        @R.function(pure=False)
        def main(x: R.Tensor(("n", 6), "float32")):
            m = T.int64()
            y = R.match_cast(x, R.Tensor((m, 6), "float32"))
            s = R.shape_of(x)
            z = R.exp(x)
            u = R.call_packed("test.look", z, ty_args=(R.Tensor((m, 6), "float32"),))
            return x

    assert planned(Kept) == [("match_cast", ()), ("shape_of", ()), ("exp", ()), ("test.look", ())]


def test_branches():
    @I.ir_module
    class Branches:
        @R.function(pure=False)
        def main(more: R.Tensor((), "bool"), x: R.Tensor((4, 6), "float32")):
            if more:
                a = R.exp(x)
                used = R.negative(a)
            else:
                b = R.exp(x)
                used = x
            if more:
                unused = R.exp(x)
            else:
                unused = R.negative(x)
            if more:
                seen = R.call_packed("test.look", x, ty_args=(R.Tensor((4, 6), "float32"),))
            else:
                seen = R.negative(x)
            return used

    assert planned(Branches) == [
        ("If", ()),
        ("exp", (("used", True),)),
        ("negative", (("used", True),)),
        ("join", (("used", True),)),
        ("join", (("used", False),)),
        ("If", ()),
        ("test.look", (("seen", True),)),
        ("join", (("seen", True),)),
        ("negative", (("seen", False),)),
        ("join", (("seen", False),)),
    ]
