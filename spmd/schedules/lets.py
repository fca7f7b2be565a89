"""Expressions that name a part of themselves are written out: TVM 0.27 shares what is common to their bodies before it is there."""

from __future__ import annotations

from typing import Any

import tvm
import tvm_ffi
from tvm import tirx

_MOST = 4096
"""Expressions that writing one out may add: bodies that double and double again stay as they are."""


@tirx.transform.prim_func_pass(opt_level=0, name="spmd.InlineLets")
class InlineLets:
    """``Let(x, value, body)`` becomes `body` with the value in the place of `x`, where that is not much longer.

    TVM looks for common subexpressions in values alone and replaces them in bodies, too. What a body shares with two statements after it
    is then used before it is defined, and the kernel does not build. Rotary embeddings that Llama 3 scales, in attention, are such bodies.
    What is written out twice is found to be common in the end.
    """

    def transform_function(self, func: tirx.PrimFunc, _mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tirx.PrimFunc:
        """`func` without `Let`; the same one where it has none."""
        body = without_lets(func.body)
        return func if body.same_as(func.body) else func.with_body(body)


def without_lets(body: Any) -> Any:
    """A statement or expression with its `Let`s written out; itself where it has none."""
    return tvm_ffi.structural_mutate(body, [((tirx.Let,), _inlined)])


def _inlined(node: Any, mutator: Any) -> Any:
    node = mutator.default_mutate(node)
    uses = sum(part.same_as(node.var) for part in _parts(node.body))
    if (uses - 1) * len(_parts(node.value)) > _MOST:
        return node
    return tvm_ffi.structural_mutate(node.body, [(tirx.Var, lambda var, _: node.value if var.same_as(node.var) else var)])


def _parts(expr: Any) -> list[Any]:
    """An expression and those that it consists of, each as often as it stands there."""
    found: list[Any] = []
    tvm_ffi.structural_walk(expr, (tvm.ir.Expr, found.append))
    return found
