"""The rule of a call_tir is read off its PrimFunc."""

from __future__ import annotations

from ...expression import Rule
from ...kernel import Kernel, Unreadable, read_kernel
from .registry import OpCall


def kernel_rule(op: OpCall, readings: dict[str, Kernel | str]) -> Rule | str:
    """The rule of a call_tir, or why there is none. `readings` keeps what was read of each kernel, by name."""
    if op.kernel is None:
        return "its kernel is not in the module"
    if len(op.call.args) > 2:
        return "it passes symbolic sizes to its kernel"
    name = op.call.args[0].name_hint
    if name not in readings:
        try:
            readings[name] = read_kernel(op.kernel, len(op.outputs))
        except Unreadable as why:
            readings[name] = f"its kernel cannot be read: {why}"
    kernel = readings[name]
    if isinstance(kernel, str):
        return kernel
    if len(kernel.params) != len(op.inputs) + len(op.outputs):
        return f"its kernel takes {len(kernel.params)} buffers for {len(op.inputs)} inputs and {len(op.outputs)} outputs"
    ins, outs = kernel.params[: len(op.inputs)], kernel.params[len(op.inputs) :]
    return Rule(ins, outs, kernel.sizes, reduce=kernel.reduce, whole=kernel.whole, zero="all" if kernel.zero else "")
