"""Constants without elements: an executable that holds one can be written, but not loaded."""

from __future__ import annotations

from typing import Any

import tvm
from tvm import relax
from tvm.relax.expr_functor import PyExprMutator, mutator


@tvm.transform.module_pass(opt_level=0, name="spmd.schedules.AllocateEmpty")
class AllocateEmpty:
    """Allocates a tensor in the place of each constant that has no elements."""

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        """The module without such constants; `mod` itself where it has none."""
        changed: dict[Any, Any] = {}
        for var, func in mod.functions_items():
            if isinstance(func, relax.Function):
                without = _Allocate(mod).visit_expr(func)
                if not without.same_as(func):
                    changed[var] = without
        if not changed:
            return mod
        made = tvm.IRModule(dict(mod.functions_items()), attrs=mod.attrs, global_infos=mod.global_infos)
        for var, func in changed.items():
            made.update_func(var, func)
        return made


@mutator
class _Allocate(PyExprMutator):
    def visit_generic_const_(self, op: Any) -> Any:
        """A tensor of that shape, which there is nothing to write into."""
        if not isinstance(op.ty, relax.TensorType) or 0 not in op.value.shape:
            return op
        shape = relax.ShapeExpr([int(n) for n in op.value.shape])
        return self.builder_.emit(relax.op.builtin.alloc_tensor(shape, str(op.ty.dtype), 0))
