"""Symbolic sizes that were split over two axes, or over a part of one, by their pieces in the wrong places."""

from tvm.script import ir as I
from tvm.script import relax as R
from tvm.script import tirx as T

import spmd  # noqa: F401


@I.ir_module
class Unfolded:
    """n rows of 4, of one vector."""

    @R.function
    def main(x: R.Tensor(("n * 4",), "float32"), z: R.Tensor(("n", 1), "float32")):
        n = T.int64()
        with R.dataflow():
            rows = R.reshape(x, R.shape([n, 4]))
            out = R.add(rows, z)
            R.output(out)
        return out


@I.ir_module
class OverTwoAxes:
    """Each worker unfolds its quarter of the vector as a quarter of the columns."""

    @R.function
    def main(x: R.Tensor(("n",), "float32"), z: R.Tensor(("n // 2", 1), "float32")):
        n = T.int64()
        with R.dataflow():
            rows = R.reshape(x, R.shape([n // 2, 2]))
            out = R.add(rows, z)
            lv = R.spmd.all_gather(out, axis="dp", dim=0, value="out", workers=2)
            lv1 = R.reshape(lv, R.shape([n, 2]))
            lv2 = R.spmd.all_gather(lv1, axis="tp", dim=1, value="out", workers=2)
            R.output(lv2)
        return lv2


@I.ir_module
class OverParts:
    """The same, where the result stays in halves of rows and columns."""

    @R.function
    def main(x: R.Tensor(("n",), "float32"), z: R.Tensor(("n // 2", 1), "float32")):
        n = T.int64()
        with R.dataflow():
            rows = R.reshape(x, R.shape([n // 2, 2]))
            out = R.add(rows, z)
            R.output(out)
        return out


@I.ir_module
class Chain:
    @R.function
    def main(x: R.Tensor(("n", 3), "float32")):
        with R.dataflow():
            y = R.negative(x)
            z = R.negative(y)
            R.output(z)
        return z


@I.ir_module
class FromTheMajorPart:
    """From halves to quarters: what a worker keeps is of a number of rows that only planning knew."""

    @R.function
    def main(x: R.Tensor(("n", 3), "float32")):
        n = T.int64()
        with R.dataflow():
            lv = R.reshape(x, R.shape([2, 2, 3]))
            lv1 = R.spmd.axis_index(axis="tp(2)2", workers=2)
            lv2 = R.take(lv, lv1, axis=0, mode="fast")
            y = R.negative(lv2)
            lv3 = R.reshape(y, R.shape([n // 2, 3]))
            z = R.negative(lv3)
            lv4 = R.spmd.all_gather(z, axis="tp", dim=0, value="z", workers=4)
            lv5 = R.reshape(lv4, R.shape([n * 2, 3]))
            R.output(lv5)
        return lv5


@I.ir_module
class FromTheMinorPart:
    @R.function
    def main(x: R.Tensor(("n", 3), "float32")):
        n = T.int64()
        with R.dataflow():
            lv = R.spmd.all_gather(x, axis="tp(2)2", dim=0, value="x", workers=2)
            lv1 = R.reshape(lv, R.shape([4, 2, 3]))
            lv2 = R.spmd.axis_index(axis="tp", workers=4)
            lv3 = R.take(lv1, lv2, axis=0, mode="fast")
            y = R.negative(lv3)
            lv4 = R.reshape(y, R.shape([n // 2, 3]))
            z = R.negative(lv4)
            lv5 = R.spmd.all_gather(z, axis="tp", dim=0, value="z", workers=4)
            lv6 = R.reshape(lv5, R.shape([n * 2, 3]))
            R.output(lv6)
        return lv6
