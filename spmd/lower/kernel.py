"""The PrimFunc that one worker runs: the same blocks over smaller loops and buffers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tvm
import tvm_ffi
from tvm import s_tir, tirx

from ..expression import Dim
from ..kernel import read_kernel
from ..mesh import Mesh
from ..sharding import Split


def local_kernel(func: tirx.PrimFunc, outputs: int, splits: Mapping[str, Split], mesh: Mesh) -> tirx.PrimFunc:
    """`func` with the factors in `splits` cut to what each worker holds; `func` itself is not changed."""
    kernel = read_kernel(func, outputs)

    def size(dim: Dim, whole: Any) -> Any:
        """The local size of a dimension or loop."""
        (piece,) = dim
        if not any(f in splits for f in piece):
            return whole
        total = 1
        for f in piece:
            total *= splits[f].local_size(mesh) if f in splits else (kernel.sizes[f] or 1)
        return tirx.IntImm(whole.ty.dtype, total)

    buffers: dict[Any, Any] = {}
    for buffer, spec in kernel.buffers.items():
        shape = [size(dim, s) for dim, s in zip(spec, buffer.ty.shape, strict=True)]
        layout = None if buffer.ty.layout is None else "default"
        buffers[buffer] = tirx.decl_buffer(shape, str(buffer.ty.dtype.dtype), buffer.name, scope=buffer.ty.storage_scope, layout=layout)

    def on_loop(loop: Any, mutator: Any) -> Any:
        body = mutator.mutate(loop.body)
        extent = size((kernel.loops[loop.loop_var],), loop.extent) if loop.loop_var in kernel.loops else loop.extent
        return tirx.For(loop.loop_var, loop.min, extent, loop.kind, body, loop.thread_binding, loop.annotations)

    def on_iter(iter_var: Any, _: Any) -> Any:
        factors = kernel.iters.get(iter_var.var)
        extent = iter_var.dom.extent if factors is None else size((factors,), iter_var.dom.extent)
        return tirx.IterVar(tvm.ir.Range.from_min_extent(iter_var.dom.min, extent), iter_var.var, iter_var.iter_type, iter_var.thread_tag)

    def on_var(var: Any, _: Any) -> Any:
        return buffers.get(var, var)

    body = tvm_ffi.structural_mutate(func.body, [(tirx.For, on_loop), (tirx.IterVar, on_iter), (tvm.ir.Var, on_var)])
    assert isinstance(body, s_tir.SBlockRealize)
    return tirx.PrimFunc([buffers[p] for p in func.params], body, func.ret_type, func.attrs)
