"""Softmax and look-ups: the rows that show how a family is written."""

import tvm
from tvm.script import ir as I
from tvm.script import relax as R


@I.ir_module
class MODULE:
    @R.function
    def softmax(x: R.Tensor((3, 7, 8), "float64")):
        return R.nn.softmax(x, axis=1)

    @R.function
    def log_softmax(x: R.Tensor((3, 7, 8), "float64")):
        return R.nn.log_softmax(x, axis=-1)

    @R.function
    def take(x: R.Tensor((4, 8), "float64"), i: R.Tensor((5, 2), "int32")):
        return R.take(x, i, axis=0, mode="clip")


ARGUMENTS: dict[str, list] = {}
"""Function -> arguments, where random ones (integers 0 to 3) would not do."""
MISSING: dict[str, str] = {}
"""Function -> why placements that `find_missing` finds are not in the rule."""

assert isinstance(MODULE, tvm.IRModule)
