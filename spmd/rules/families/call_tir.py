"""The rule of a call_tir is read off its PrimFunc."""

from __future__ import annotations

from spmd.rules.kernel import CallKernel, GroupGemm, Kernel, Unreadable, is_group_gemm, kernel_key, read_call, read_group_gemm
from spmd.rules.model import Exchange, Form, Rule, Spec
from spmd.rules.registry import OpCall

Readings = dict[tuple[object, ...], CallKernel | GroupGemm | str]


def kernel_rule(op: OpCall, readings: Readings) -> Rule | str:
    """The rule of a call of a PrimFunc, or why there is none. `readings` keeps what was read of each kernel."""
    if op.kernel is None:
        return "its kernel is not in the module"
    key = kernel_key(op.call, op.input_dims, op.output_dims)
    if key not in readings:
        try:
            groups = is_group_gemm(op.call.args[0].name_hint, op.kernel)
            readings[key] = read_group_gemm(op.kernel) if groups else read_call(op.kernel, op.call, op.input_dims, op.output_dims)
        except Unreadable as why:
            readings[key] = f"its kernel cannot be read: {why}"
    found = readings[key]
    if isinstance(found, str):
        return found
    if isinstance(found, GroupGemm):
        return _group_gemm(op, found)
    kernel = found.kernel
    specs = dict(zip(kernel.tensors, kernel.params, strict=True))
    inputs = kernel.tensors[: len(op.inputs)]
    return Rule(
        kernel.params[: len(inputs)],
        tuple(specs[p] for p in kernel.outputs),
        kernel.sizes,
        reduce=kernel.reduce,
        whole=kernel.whole,
        zero="all" if kernel.zero else "",
        linear=kernel.linear,
        forms={f: _form(kernel, f) for f in kernel.staged},
        sparse=tuple(sorted(i for i in kernel.gathered if i < len(inputs))),
        pointers=tuple(i for i, p in enumerate(inputs) if p in kernel.pointers),
        nests=tuple(tuple(dict.fromkeys(f for v in b.variables for f in kernel.iters[v])) for b in kernel.blocks),
        work="full" if kernel.reduce or kernel.staged else "pointwise",
    )


def _group_gemm(op: OpCall, gemm: GroupGemm) -> Rule:
    """The rows of each expert by its weight: features of the result split freely, those of x leave a partial sum."""
    weight = "e n (g w), e n g" if gemm.words else "e n (g c)"
    sizes = {"g": gemm.depth // gemm.unit, "c": gemm.unit}
    linear = ((0,),) if gemm.words else ((0,), (1,))
    text = f"m (g c), {weight}, p -> m n"
    pointers = (len(op.inputs) - 1,)
    nest = (("m", "n", "g", "c"),)
    return op.bind(
        text,
        sizes=sizes,
        whole="m e c p" + " w" * bool(gemm.words),
        zero="any",
        linear=linear,
        pointers=pointers,
        nests=nest,
        kernels="group_gemm",
    )


def _form(kernel: Kernel, factor: str) -> Form:
    staged = kernel.staged[factor]
    exchanges = tuple(
        Exchange("all_reduce", _written(kernel, kernel.buffers[buffer]), str(buffer.ty.dtype.dtype)) for buffer, _ in staged.reduced
    )
    return Form("kernel_stages", exchanges, partial=staged.partial, beside=not staged.reduced and staged.partial is None)


def _written(kernel: Kernel, spec: Spec) -> str:
    return " ".join(f for (piece,) in spec for f in piece if kernel.sizes[f] != 1)
