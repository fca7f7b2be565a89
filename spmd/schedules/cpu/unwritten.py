"""Local memory that is read before anybody has written it, as TVM 0.27's attention to cached tokens on CPUs does.

What is found there depends on how LLVM optimizes: mostly the right number, without optimization any.
"""

from __future__ import annotations

from typing import Any

import tvm
import tvm_ffi
from tvm import s_tir, tirx
from tvm.ir import TensorLoad

from .analysis import is_unit


@tirx.transform.prim_func_pass(opt_level=0, name="spmd.ReadWritten")
class ReadWritten:
    """A buffer of one element is read at its element, and a running maximum is kept where a key is masked.

    TVM scales the features of a head by ``scale_O[d]``, of which there is one element. In ``if seen: new_m[0] = max(m[0], s[0]) else:
    s[0] = -5e4`` the new maximum is not written where the key is masked: it is that of the query before, or of nobody.
    """

    def transform_function(self, func: tirx.PrimFunc, _mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tirx.PrimFunc:
        """`func`, in which what is read has been written; the same one where it is so already."""
        local: set[int] = set()

        def see(block: s_tir.SBlock) -> None:
            local.update(hash(buffer) for buffer in block.alloc_buffers)

        tvm_ffi.structural_walk(func.body, ((s_tir.SBlock,), see))
        if not local:
            return func

        def load(node: Any, mutator: Any) -> Any:
            node = mutator.default_mutate(node)
            if hash(node.source) not in local or not all(map(is_unit, node.source.shape)) or all(map(_is_zero, node.indices)):
                return node
            return tirx.BufferLoad(node.source, [tirx.const(0, index.ty.dtype) for index in node.indices])

        def branch(node: Any, mutator: Any) -> Any:
            node = mutator.default_mutate(node)
            kept = _kept(node)
            if kept is None or hash(kept.buffer) not in local:
                return node
            return tirx.IfThenElse(node.condition, node.then_case, tirx.SeqStmt([node.else_case, kept]))

        body = tvm_ffi.structural_mutate(func.body, [(TensorLoad, load), (tirx.IfThenElse, branch)])
        return func if body.same_as(func.body) else func.with_body(body)


def _kept(node: tirx.IfThenElse) -> tirx.BufferStore | None:
    """What keeps a running maximum: ``new = old``, beside ``new = max(old, one)``, where the branch that masks `one` does not write it."""
    seen, masked = node.then_case, node.else_case
    if not isinstance(seen, tirx.BufferStore) or not isinstance(masked, tirx.BufferStore) or not isinstance(seen.value, tirx.Max):
        return None
    old, one = seen.value.a, seen.value.b
    if not isinstance(old, TensorLoad) or not isinstance(one, TensorLoad) or not one.source.same_as(masked.buffer):
        return None
    return None if masked.buffer.same_as(seen.buffer) else tirx.BufferStore(seen.buffer, old, seen.indices)


def _is_zero(index: Any) -> bool:
    return isinstance(index, tirx.IntImm) and index.value == 0
