"""Operators that ask about a tensor, say where it shall be, or have an effect; and a slice that is known only when it runs."""

import numpy as np
import tvm
from tvm import relax
from tvm.script import ir as I
from tvm.script import relax as R


@I.ir_module
class _WRITTEN:
    @R.function
    def shape_of(x: R.Tensor((5, 4), "float64")):
        return R.shape_of(x)

    @R.function
    def shape_to_tensor():
        return R.shape_to_tensor(R.shape([5, 4]))

    @R.function
    def tensor_to_shape(x: R.Tensor((2,), "int64")):
        return R.tensor_to_shape(x)

    @R.function
    def dynamic_strided_slice(
        x: R.Tensor((5, 4), "float64"), begin: R.Tensor((2,), "int64"), end: R.Tensor((2,), "int64"), step: R.Tensor((2,), "int64")
    ):
        return R.dynamic_strided_slice(x, begin, end, step)


def _module() -> tvm.IRModule:
    builder = relax.BlockBuilder()

    def add(name, call, shape=(5, 4), effect=False):
        x = relax.Var("x", relax.TensorType(shape, "float32"))
        with builder.function(name, [x], pure=not effect):
            made = builder.emit(call(x))
            builder.emit_func_output(x if effect else made)

    def inspect(name, *args):
        return lambda x: tvm.ir.Call(tvm.ir.Op.get(f"relax.inspect.tensor_{name}"), [x, *map(relax.prim_value, args)])

    for name in ("ndim", "dtype_bits", "dtype_code", "dtype_lanes", "byte_offset", "elem_offset"):
        add(f"tensor_{name}", inspect(name))
    for axis in (0, 1):
        add(f"tensor_shape_{axis}", inspect("shape_i", axis))
        add(f"tensor_stride_{axis}", inspect("stride_i", axis))
    add("null_value", lambda _: relax.op.null_value())
    add("to_vdevice", lambda x: relax.op.to_vdevice(x, relax.VDevice("llvm")))
    add("print", lambda x: relax.op.print(x, format="{}"), (3,), effect=True)
    add("assert_op", lambda _: relax.op.assert_op(relax.const(True), format="never"), (3,), effect=True)
    made = builder.finalize()
    made.update(_WRITTEN)
    return made


MODULE = _module()
ARGUMENTS: dict[str, list] = {
    "tensor_to_shape": [np.array([5, 4])],
    "dynamic_strided_slice": [np.arange(20.0).reshape(5, 4), np.array([4, 1]), np.array([0, 4]), np.array([-2, 1])],
}
MISSING: dict[str, str] = {}
