"""`build`: a whole-model Relax module to an executable, for any target."""

from __future__ import annotations

import threading
from typing import Any

import tvm
from tvm import relax, tirx
from tvm.target import Target

from .conditions import OpaqueConditions
from .cpu.known import KnownAttention
from .cpu.shared import ShareCostly
from .cpu.unwritten import ReadWritten
from .donation import WriteDonated
from .empty import AllocateEmpty
from .gpu import BoundRegisters, FuseAddNorm, quick_imports
from .indices import TypeIndices
from .kv_cache import CreateCaches
from .lets import InlineLets
from .memory import PlanMemory
from .merges import ReadBeforeMerge
from .mirror import MirrorIndices
from .optional import FuseGroups, Optional
from .producers import FuseProducers
from .rounding import KeepRounding
from .scans import BarrierScans
from .scheduling import CPUSchedules, GPUSchedules
from .single import SingleTerms
from .targets import TargetLike, is_cpu, resolve
from .widen import WidenHalf
from .wrapping import WrapIntegers
from .writes import SeparateWrites

TURN = threading.RLock()
"""One thread compiles at a time: TVM writes kernels under tags that it keeps in one place for all threads."""
_OPTIMIZATIONS = ("FoldConstant", "FuseOps", "RewriteDataflowReshape")
"""Passes of TVM's that a program does not need."""


def build(
    mod: tvm.IRModule,
    target: TargetLike = "llvm",
    *,
    parallel: bool = False,
) -> Any:
    """Compile `mod`, which stays as it is, to an executable for `relax.VirtualMachine`.

    `target`: see `targets.resolve`. `parallel` (CPU): spread outer loops over TVM's thread pool; each calling thread
    has a pool of its own, so leave it off where several workers share the machine.
    Threads that call this at once wait for one another. Raises ValueError for a target that cannot be compiled for.
    """
    resolved = resolve(target)
    copy = tvm.IRModule(dict(mod.functions_items()), attrs=mod.attrs, global_infos=mod.global_infos)
    with TURN:
        return tvm.compile(copy, resolved, relax_pipeline=pipeline(resolved, parallel=parallel))


def pipeline(target: Target, *, parallel: bool = False) -> tvm.transform.Pass:
    """Relax's default pipeline for `target`, plus: weights' producers fused into matmuls, and loops for every kernel."""

    @tvm.transform.module_pass(opt_level=0, name="spmd.schedules.pipeline")
    def run(mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        with TURN, target:
            return tvm.transform.Sequential(_passes(target, parallel))(mod)

    return run


def _passes(target: Target, parallel: bool) -> list[tvm.transform.Pass]:
    stages = _stages(target)
    passes: list[tvm.transform.Pass] = [CreateCaches()]
    passes += [Optional(KnownAttention(parallel=parallel), tirx.PrimFunc)] if is_cpu(target) else []
    passes += [SeparateWrites()]
    passes += [BarrierScans()] if target.kind.name == "opencl" else []  # whose threads need not run in step
    passes += stages.library_dispatch_passes(target)
    if not is_cpu(target):
        quick_imports()
        passes += [Optional(relax.transform.CanonicalizeBindings()), Optional(FuseAddNorm())]
    for step in stages.legalize_passes(target):
        if step.info.name == "FuseOps":  # which breaks on the field of a tuple that is written out
            passes += [Optional(relax.transform.CanonicalizeBindings()), KeepRounding(), Optional(FuseProducers())]
        passes.append(GPUSchedules(step.rules) if step.info.name == "ApplyDefaultSchedule" else _tried(step))
        if step.info.name == "FoldConstant":
            passes.append(AllocateEmpty())
        if step.info.name == "FuseTIR":
            passes += [SingleTerms(), TypeIndices(), WrapIntegers(), MirrorIndices()]  # before schedules simplify indices
    if is_cpu(target):
        passes += [ReadWritten()]
        passes += [Optional(step, tirx.PrimFunc) for step in (WidenHalf(), ShareCostly(), CPUSchedules(parallel=parallel))]
    else:
        passes += [ReadBeforeMerge()] + [BoundRegisters()] * (target.kind.name == "cuda")
    passes += [MirrorIndices(), OpaqueConditions(), InlineLets()]  # and after they put them together
    passes += [*map(_tried, stages.dataflow_lower_passes(target)), Optional(WriteDonated())]
    return [*passes, *map(_tried, stages.finalize_passes(target))]


def _tried(step: tvm.transform.Pass) -> tvm.transform.Pass:
    """A pass of TVM's; an optimization is left out where it fails."""
    if step.info.name == "FuseTIR":
        return FuseGroups()
    if step.info.name == "StaticPlanBlockMemory":
        return Optional(PlanMemory())
    return Optional(step) if step.info.name in _OPTIMIZATIONS else step


def _stages(target: Target) -> Any:
    """The module that lists Relax's default passes for `target` (`relax.pipeline` misses two of them on CUDA)."""
    backend = relax.backend
    if is_cpu(target):
        return backend.cpu_generic.pipeline
    if "adreno" in target.keys:
        return backend.adreno.pipeline
    return {"cuda": backend.cuda, "rocm": backend.rocm}.get(target.kind.name, backend.gpu_generic).pipeline
