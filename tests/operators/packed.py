"""Calls of packed functions, which have the rules that are registered under their names."""

import tvm
import tvm_ffi
from tvm.script import ir as I
from tvm.script import relax as R

import spmd


@tvm_ffi.register_global_func("tests.product", override=True)
def _product(a, b, out):
    out.copyfrom(a.numpy() @ b.numpy() * 2)


@tvm_ffi.register_global_func("tests.halved", override=True)
def _halved(a):
    return tvm.runtime.tensor(a.numpy() / 2)


@tvm_ffi.register_global_func("tests.added", override=True)
def _added(a, b):
    a.copyfrom(a.numpy() + b.numpy())
    return a


spmd.rule("tests.halved", expression="... -> ...")
spmd.rule("tests.added", expression="..., ... -> ...")


@spmd.rule("tests.product")
def _rule(op):
    return op.bind("m k, k n -> m n", zero="any", linear=((0,), (1,)))


@I.ir_module
class MODULE:
    @R.function
    def call_dps_packed(x: R.Tensor((5, 7), "float64"), w: R.Tensor((7, 4), "float64")):
        return R.call_dps_packed("tests.product", (x, w), out_ty=R.Tensor((5, 4), "float64"))

    @R.function
    def call_pure_packed(x: R.Tensor((5, 7), "float64")):
        return R.call_pure_packed("tests.halved", x, ty_args=(R.Tensor((5, 7), "float64"),))

    @R.function
    def call_inplace_packed(x: R.Tensor((5, 7), "float64"), y: R.Tensor((5, 7), "float64")):
        return R.call_inplace_packed("tests.added", x, y, inplace_indices=[0], ty_args=(R.Tensor((5, 7), "float64"),))


ARGUMENTS: dict[str, list] = {}
MISSING: dict[str, str] = {}
