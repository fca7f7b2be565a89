"""The rule of a call_tir is read off its PrimFunc."""

from __future__ import annotations

from ...expression import Rule
from ...kernel import Unreadable, read_kernel
from .registry import OpCall


def kernel_rule(op: OpCall) -> Rule | str:
    """The rule of a call_tir, or why there is none."""
    if op.kernel is None:
        return "its kernel is not in the module"
    if len(op.call.args) > 2:
        return "it passes symbolic sizes to its kernel"
    try:
        kernel = read_kernel(op.kernel, len(op.outputs))
    except Unreadable as why:
        return f"its kernel cannot be read: {why}"
    if len(kernel.params) != len(op.inputs) + len(op.outputs):
        return f"its kernel takes {len(kernel.params)} buffers for {len(op.inputs)} inputs and {len(op.outputs)} outputs"
    ins, outs = kernel.params[: len(op.inputs)], kernel.params[len(op.inputs) :]
    return Rule(ins, outs, kernel.sizes, reduce=kernel.reduce, whole=kernel.whole, zero="all" if kernel.zero else "")
