"""Sums along the last axis for GPUs whose threads do not run in step: TVM 0.27's kernel for them needs 32 that do."""

from __future__ import annotations

import tvm
from tvm import relax
from tvm.relax.expr_functor import PyExprMutator, mutator

_CUMSUM = tvm.ir.Op.get("relax.cumsum")


@relax.transform.function_pass(opt_level=0, name="spmd.BarrierScans")
class BarrierScans:
    """`cumsum` along the last axis becomes one along the last but one, for which TVM has a kernel with barriers.

    The other one reads what its neighbours write, in one statement: right on NVIDIA, AMD and Apple, wrong where OpenCL has narrower
    subgroups or a CPU below it. Runs before DispatchSortScan.
    """

    def transform_function(self, func: relax.Function, _mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> relax.Function:
        """`func` with no sums along the last axis."""
        return _Rewriter().visit_expr(func)


@mutator
class _Rewriter(PyExprMutator):
    def visit_call_(self, op: relax.Call) -> relax.Expr:
        """Write calls of `cumsum` so that threads need not wait for each other inside a warp."""
        op = super().visit_call_(op)
        if op.op != _CUMSUM or op.attrs.axis is None or op.ty.shape is None:
            return op
        shape, axis = op.ty.shape, int(op.attrs.axis)
        if axis % len(shape) != len(shape) - 1:
            return op
        columns = relax.op.reshape(op.args[0], [*shape, 1])
        summed = relax.op.cumsum(columns, len(shape) - 1, op.attrs.dtype, op.attrs.exclusive)
        return relax.op.reshape(summed, shape)
