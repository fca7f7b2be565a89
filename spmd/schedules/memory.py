"""Memory planned ahead, but in functions with branches: TVM's planner reuses there what only the other branch has allocated."""

from __future__ import annotations

from typing import Any

import tvm
import tvm_ffi
from tvm import relax


@tvm.transform.module_pass(opt_level=0, name="spmd.PlanMemory")
class PlanMemory:
    """`StaticPlanBlockMemory` for functions without `If`; the others allocate each tensor as they come to it."""

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        """A new module, with storages in the place of most tensors."""
        branching = {gv: f for gv, f in mod.functions_items() if isinstance(f, relax.Function) and _branches(f)}
        if not branching:
            return relax.transform.StaticPlanBlockMemory()(mod)
        names = {gv.name_hint for gv in branching}
        others = {gv: f for gv, f in mod.functions_items() if gv.name_hint not in names}
        planned = relax.transform.StaticPlanBlockMemory()(tvm.IRModule(others, attrs=mod.attrs, global_infos=mod.global_infos))
        return tvm.IRModule({**dict(planned.functions_items()), **branching}, attrs=mod.attrs, global_infos=mod.global_infos)


def _branches(function: relax.Function) -> bool:
    found: list[Any] = []
    tvm_ffi.structural_walk(function.body, (relax.If, found.append))
    return bool(found)
