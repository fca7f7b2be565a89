"""The rule of a call_tir is read off its PrimFunc."""

from __future__ import annotations

from ...expression import Exchange, Form, Rule, Spec
from ...kernel import CallKernel, Kernel, Unreadable, kernel_key, read_call
from .registry import OpCall

Readings = dict[tuple[object, ...], CallKernel | str]


def kernel_rule(op: OpCall, readings: Readings) -> Rule | str:
    """The rule of a call of a PrimFunc, or why there is none. `readings` keeps what was read of each kernel."""
    if op.kernel is None:
        return "its kernel is not in the module"
    key = kernel_key(op.call, op.input_dims, op.output_dims)
    if key not in readings:
        try:
            readings[key] = read_call(op.kernel, op.call, op.input_dims, op.output_dims)
        except Unreadable as why:
            readings[key] = f"its kernel cannot be read: {why}"
    found = readings[key]
    if isinstance(found, str):
        return found
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
    )


def _form(kernel: Kernel, factor: str) -> Form:
    staged = kernel.staged[factor]
    exchanges = tuple(
        Exchange("all_reduce", _written(kernel, kernel.buffers[buffer]), str(buffer.ty.dtype.dtype)) for buffer, _ in staged.reduced
    )
    return Form("kernel_stages", exchanges, partial=staged.partial)


def _written(kernel: Kernel, spec: Spec) -> str:
    return " ".join(f for (piece,) in spec for f in piece if kernel.sizes[f] != 1)
