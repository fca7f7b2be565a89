"""What the compiled program of a worker allocates, to hold against what its plan foresees."""

from typing import Any

import numpy as np
import tvm
from tvm import relax
from tvm.ir.instrument import pass_instrument

from spmd.ir.trees import leaves
from spmd.schedules import build

_ALLOCATIONS = ("relax.memory.alloc_tensor", "relax.builtin.alloc_tensor")


def allocated(sharded: Any) -> dict[str, int]:
    """Function -> the most bytes of its arguments but for weights, and of tensors that it has allocated and will read, at once.

    All sizes must be numbers.
    """
    planned = _after_planning(sharded.mod)
    return {name: _arguments(sharded.plan, name) + _live(planned[name]) for name in sharded.plan.functions}


def _after_planning(mod: tvm.IRModule) -> tvm.IRModule:
    found: list[tvm.IRModule] = []

    @pass_instrument
    class Snapshot:
        def run_after_pass(self, mod: tvm.IRModule, info: Any) -> None:
            if info.name == "StaticPlanBlockMemory":
                found.append(mod)

    with tvm.transform.PassContext(instruments=[Snapshot()]):
        build(mod)
    return found[-1]


def _arguments(plan: Any, name: str) -> int:
    signature = plan.functions[name]
    own = signature.params if signature.num_input is None else signature.params[: signature.num_input]
    total = 0
    for leaf in (leaf for leaf in leaves(own) if leaf.sharding is not None):
        total += int(np.prod(leaf.sharding.local_shape(leaf.shape, plan.mesh), dtype=np.int64)) * _item(leaf.dtype)
    return total


def _live(function: relax.Function) -> int:
    """Each tensor from when it is allocated to when it, or a view of it, is last read."""
    bindings = [b for block in function.body.blocks for b in block.bindings]
    owner: dict[int, int] = {}
    spans: dict[int, list[int]] = {}
    for at, binding in enumerate(bindings):
        value = binding.value
        read = [owner[hash(v)] for v in relax.analysis.free_vars(value) if hash(v) in owner]
        for tensor in read:
            spans[tensor][1] = at
        op = value.op.name if isinstance(value, tvm.ir.Call) and isinstance(value.op, tvm.ir.Op) else ""
        if op in _ALLOCATIONS:
            owner[hash(binding.var)] = hash(binding.var)
            sizes = [int(n) for n in value.ty.shape.values]
            spans[hash(binding.var)] = [at, at, int(np.prod(sizes, dtype=np.int64)) * _item(str(value.ty.dtype))]
        elif read and (not isinstance(value, tvm.ir.Call) or "reshape" in str(value)):
            owner[hash(binding.var)] = read[0]
    for var in relax.analysis.free_vars(function.body.body):
        if hash(var) in owner:
            spans[owner[hash(var)]][1] = len(bindings)
    return max((sum(n for first, last, n in spans.values() if first <= at <= last) for at in range(len(bindings) + 1)), default=0)


def _item(dtype: str) -> int:
    return (tvm.DataType(dtype).bits + 7) // 8
