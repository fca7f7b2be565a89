"""A kernel on a factor that it reduces on the way or whose position counts: cut into several, reduced in between."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tvm import relax

from spmd.lower.kernel import stage_kernels

from .context import FormContext, form


@form("kernel_stages")
def kernel_stages(f: FormContext) -> Any:
    """One call_tir a stage; a buffer that a stage leaves partial is reduced before the next one reads it.

    What the kernel writes in place it writes into the shard that it is given.
    """
    read = f.kernel()
    kernel = read.kernel
    factors = [factor for factor in f.splits if factor in kernel.staged]
    made: dict[Any, Any] = dict(zip(kernel.tensors, f.args, strict=False))
    places = [replace(f, factor=factor, split=f.splits[factor]).positions() for factor in factors]

    def size(piece: tuple[str, ...], whole: Any) -> Any:
        if any(factor in f.splits for factor in piece):
            total = 1
            for factor in piece:
                total *= f.splits[factor].local_size(f.mesh) if factor in f.splits else kernel.sizes[factor] or 1
            return total
        return read.symbols.get(whole, whole)

    for number, stage in enumerate(stage_kernels(kernel, factors, f.splits, f.mesh)):
        function = f.add_function(stage.func, f"{f.call.args[0].name_hint}_stage{number}")
        types = [
            relax.TensorType([size(piece, s) for (piece,), s in zip(kernel.buffers[b], b.ty.shape, strict=True)], str(b.ty.dtype.dtype))
            for b in stage.outputs
        ]
        numbers = [f.number(read.scalars[p]) for p in stage.scalars]
        args = relax.Tuple([*(made[b] for b in stage.inputs), *numbers, *places])
        written = [stage.inputs.index(b) if b in stage.inputs else -1 for b in stage.outputs]
        in_place = any(i >= 0 for i in written)
        result = f.emit(relax.op.call_tir_inplace(function, args, written, types) if in_place else relax.call_tir(function, args, types))
        for i, buffer in enumerate(stage.outputs):
            made[buffer] = result if len(stage.outputs) == 1 else f.emit(relax.TupleGetItem(result, i))
        for buffer, kind in kernel.staged[f.factor].reduced:
            if buffer in stage.outputs:
                made[buffer] = f.all_reduce(made[buffer], kind)
    results = tuple(made[b] for b in kernel.outputs)
    return results[0] if len(results) == 1 else results
