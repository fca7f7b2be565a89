"""Operators that have no rule because no module that is handed to `shard` holds them."""

from __future__ import annotations

_MEMORY = "passes after sharding make it when they plan memory"
_CLOSURE = "LambdaLift makes it after sharding; a closure called before that is a private function"
_PARALLEL = "it is for modules that are parallel already"
_OURS = "lowering makes it"
_GRADIENT = "the Gradient pass takes it away, and nothing can run it before"

NOT_USER_OPS: dict[str, str] = {
    "relax.builtin.alloc_tensor": _MEMORY,
    "relax.memory.alloc_storage": _MEMORY,
    "relax.memory.alloc_tensor": _MEMORY,
    "relax.memory.kill_storage": _MEMORY,
    "relax.memory.kill_tensor": _MEMORY,
    "relax.vm.alloc_storage": _MEMORY,
    "relax.vm.alloc_tensor": _MEMORY,
    "relax.vm.kill_object": _MEMORY,
    "relax.vm.call_tir_dyn": "VMShapeLower makes it of a call_tir",
    "relax.call_builtin_with_ctx": "LowerRuntimeBuiltin makes it of operators that have rules",
    "relax.make_closure": _CLOSURE,
    "relax.invoke_closure": _CLOSURE,
    "relax.invoke_pure_closure": _CLOSURE,
    "relax.ccl.allgather": _PARALLEL,
    "relax.ccl.allreduce": _PARALLEL,
    "relax.ccl.broadcast_from_worker0": _PARALLEL,
    "relax.ccl.scatter_from_worker0": _PARALLEL,
    "relax.dist.annotate_sharding": _PARALLEL,
    "relax.dist.call_tir_local_view": _PARALLEL,
    "relax.dist.redistribute": _PARALLEL,
    "relax.dist.redistribute_replica_to_shard": _PARALLEL,
    "relax.spmd.all_gather": _OURS,
    "relax.spmd.all_reduce": _OURS,
    "relax.spmd.all_to_all": _OURS,
    "relax.spmd.axis_index": _OURS,
    "relax.spmd.broadcast": _OURS,
    "relax.spmd.permute": _OURS,
    "relax.spmd.reduce_scatter": _OURS,
    "relax.grad.start_checkpoint": _GRADIENT,
    "relax.grad.end_checkpoint": _GRADIENT,
    "relax.grad.no_grad": _GRADIENT,
}
"""Operator -> why no rule is wanted."""
