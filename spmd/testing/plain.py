"""The reference that sharded programs are compared with: each operator a kernel of its own, in loops as TVM writes them."""

from __future__ import annotations

import shutil
import tempfile
from typing import Any

import tvm
from tvm import relax
from tvm.target import Target

from spmd.run.library import Bound, Library, load, resolved_target
from spmd.schedules.build import TURN

UNOPTIMIZED = {"kind": "llvm", "opt-level": 0}
"""The target of programs that run once: LLVM's optimizer would take longer than they do."""
_LEFT_OUT = ("AnnotateTIROpPattern", "FoldConstant", "FuseOps", "FuseTIR", "RewriteDataflowReshape", "StaticPlanBlockMemory")
"""Passes of TVM's default pipeline that a program does not need."""


def plain(mod: tvm.IRModule) -> Library:
    """`mod` compiled without fusion, folding, schedules or shared memory, ours or TVM's: what these do wrong, it does not."""
    target = resolved_target("plain(), target", UNOPTIMIZED)
    bound = Bound.of(mod, rows=True)
    with TURN:
        executable = tvm.compile(bound.mod, target, relax_pipeline=_pipeline(target))
    return linked(bound.library(executable, target))


def linked(library: Library) -> Library:
    """`library` as loaded from a file: LLVM's just-in-time compiler optimizes whatever it is told, and takes four times as long.

    It stays as it is where there is no C compiler to link it.
    """
    if shutil.which("cc") is None:
        return library
    with tempfile.TemporaryDirectory(prefix="spmd-") as folder:
        return load(library.export(folder))


def _pipeline(target: Target) -> tvm.transform.Pass:
    stages: Any = relax.backend.cpu_generic.pipeline
    listed = (stages.library_dispatch_passes, stages.legalize_passes, stages.dataflow_lower_passes, stages.finalize_passes)
    kept = [step for passes in listed for step in passes(target) if step.info.name not in _LEFT_OUT]

    @tvm.transform.module_pass(opt_level=0, name="spmd.testing.plain")
    def run(mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        with target:
            return tvm.transform.Sequential(kept)(mod)

    return run
