"""A kernel on a factor that it reduces on the way or whose position counts: cut into several, reduced in between."""

from __future__ import annotations

from typing import Any

from tvm import relax

from ..kernel import stage_kernels
from .context import FormContext, form


@form("kernel_stages")
def kernel_stages(f: FormContext) -> Any:
    """One call_tir a stage; a buffer that a stage leaves partial is reduced before the next one reads it."""
    read = f.kernel()
    kernel = read.kernel
    staged = kernel.staged[f.factor]
    made: dict[Any, Any] = dict(zip(kernel.tensors, f.args, strict=False))
    places = f.positions()

    def size(piece: tuple[str, ...], whole: Any) -> Any:
        if any(factor in f.splits for factor in piece):
            total = 1
            for factor in piece:
                total *= f.splits[factor].local_size(f.mesh) if factor in f.splits else kernel.sizes[factor] or 1
            return total
        return read.symbols.get(whole, whole)

    for number, stage in enumerate(stage_kernels(kernel, f.factor, f.splits, f.mesh)):
        function = f.add_function(stage.func, f"{f.call.args[0].name_hint}_stage{number}")
        types = [
            relax.TensorType([size(piece, s) for (piece,), s in zip(kernel.buffers[b], b.ty.shape, strict=True)], str(b.ty.dtype.dtype))
            for b in stage.outputs
        ]
        numbers = [f.number(read.scalars[p]) for p in stage.scalars]
        result = f.emit(relax.call_tir(function, relax.Tuple([*(made[b] for b in stage.inputs), *numbers, places]), types))
        for i, buffer in enumerate(stage.outputs):
            made[buffer] = result if len(stage.outputs) == 1 else f.emit(relax.TupleGetItem(result, i))
        for buffer, kind in staged.reduced:
            if buffer in stage.outputs:
                made[buffer] = f.all_reduce(made[buffer], kind)
    results = tuple(made[b] for b in kernel.outputs)
    return results[0] if len(results) == 1 else results
