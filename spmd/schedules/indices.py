"""Indices that are read from memory get the type of the sizes that they index: TVM 0.27 puts them where variables of that type were."""

from __future__ import annotations

from typing import Any

import tvm
import tvm_ffi
from tvm import tirx
from tvm.ir import TensorLoad

from .scheduling import is_scheduled


@tirx.transform.prim_func_pass(opt_level=0, name="spmd.TypeIndices")
class TypeIndices:
    """``x[i, at[i]]``, where `at` is int32 and `x` has int64 sizes, becomes ``x[i, int64(at[i])]``.

    Where what makes `x` compares its indices, as a triangle does, and is put into who reads it, numbers of two types would be compared.
    """

    def transform_function(self, func: tirx.PrimFunc, _mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tirx.PrimFunc:
        """`func` with such indices cast, unless somebody has decided its loops."""
        if is_scheduled(func):
            return func
        body = tvm_ffi.structural_mutate(func.body, [(TensorLoad, _typed)])
        return func if body.same_as(func.body) else func.with_body(body)


def _typed(load: Any, mutator: Any) -> Any:
    load = mutator.default_mutate(load)
    kinds = [str(size.ty.dtype) for size in load.source.shape]
    casts = [kind if str(i.ty.dtype) != kind and reads_memory(i) else "" for i, kind in zip(load.indices, kinds, strict=True)]
    if not any(casts):
        return load
    return tirx.BufferLoad(load.source, [tirx.Cast(kind, i) if kind else i for i, kind in zip(load.indices, casts, strict=True)])


def reads_memory(value: Any) -> bool:
    """Whether there is a load in an expression."""
    found: list[TensorLoad] = []
    tvm_ffi.structural_walk(value, (TensorLoad, found.append))
    return bool(found)
