"""Attention with capped scores, `cap * tanh(score / cap)`, as Gemma 2 has it: TVM's kernels of a KV cache know none, and get it here.

A cap is written into the one place of each kernel where scores are whole and not yet masked. Kernels hold scores times log2(e).
"""

from __future__ import annotations

import json
import math
from typing import Any

import tvm
import tvm_ffi
from tvm import relax, tirx
from tvm.ir import TensorLoad

from spmd.errors import ShardingError

ATTRIBUTE = "score_cap"
"""The attribute of the Relax function that creates a cache: the cap, a number as JSON text."""
_CREATE = "vm.builtin.paged_attention_kv_cache_create"
_SCALE = "sm_scale"
_COPIES = (("S_local", "S_smem"), ("t0", "S_local"))
"""Where GPUs have whole scores: (what is read, what is written)."""
_SCALED = ("S_val", "attention_score")
"""What is written on CPUs, where scores are scaled at last."""


def cap_of(attrs: Any, where: str) -> float:
    """The cap that a function's attributes name, 0.0 where they name none; raises ShardingError for what is no positive number."""
    text = (attrs or {}).get(ATTRIBUTE)
    if text is None:
        return 0.0
    try:
        found = float(json.loads(str(text)))
    except (TypeError, ValueError):
        found = math.nan
    if not (0.0 < found < math.inf):
        raise ShardingError(where, f"the attribute {ATTRIBUTE}, {text}, is no positive number", "Use spmd.transform.CapScores(cap).")
    return found


def capped(kernel: tirx.PrimFunc, cap: float, where: str) -> tirx.PrimFunc:
    """`kernel` with its scores capped, and a kernel that has no scores as it is. Raises ShardingError where its scores are not found."""
    if not any(isinstance(param, tirx.Var) and param.name == _SCALE for param in kernel.params):
        return kernel
    sites: list[Any] = []

    def store(node: Any, _: Any) -> Any:
        if not _has_whole_scores(node):
            return node
        sites.append(node)
        limit = tirx.const(cap * math.log2(math.e), "float32")
        return tirx.BufferStore(node.buffer, tirx.tanh(node.value / limit) * limit, node.indices)

    found = kernel.with_body(tvm_ffi.structural_mutate(kernel.body, [(tirx.BufferStore, store)]))
    if len(sites) != 1:
        what = f"{len(sites)} places of it look like scores, where one was expected"
        raise ShardingError(where, what, "Cap scores in the kernels as TIRPagedKVCache of this TVM made them.")
    return found


def cap_scores(mod: tvm.IRModule, cap: float) -> tvm.IRModule:
    """A module whose paged KV caches attend with capped scores: the kernels that it passes to the call that makes a cache are capped.

    Raises ShardingError where no call passes kernels, and where a cache has a cap already.
    """
    functions = dict(mod.functions_items())
    created = {var: f for var, f in functions.items() if isinstance(f, relax.Function) and _creates(f)}
    if not created:
        what = f"no function of it calls {_CREATE} with kernels"
        raise ShardingError("module", what, "Give a module whose cache TIRPagedKVCache made.")
    for var, function in created.items():
        if cap_of(function.attrs, f"'{var.name_hint}'"):
            raise ShardingError(f"'{var.name_hint}'", "its cache caps scores already", "Cap them once.")
        functions[var] = function.with_attr(ATTRIBUTE, json.dumps(cap))
    used = {name for function in created.values() for name in _names(function)}
    for var, kernel in functions.items():
        if var.name_hint in used and isinstance(kernel, tirx.PrimFunc):
            functions[var] = capped(kernel, cap, f"kernel '{var.name_hint}'")
    return tvm.IRModule(functions, attrs=mod.attrs, global_infos=mod.global_infos)


def _creates(function: relax.Function) -> bool:
    found: list[str] = []
    tvm_ffi.structural_walk(function.body, [((relax.ExternFunc,), lambda called: found.append(str(called.global_symbol)))])
    return _CREATE in found


def _names(function: relax.Function) -> list[str]:
    found: list[str] = []
    tvm_ffi.structural_walk(function.body, [((tvm.ir.GlobalVar,), lambda var: found.append(str(var.name_hint)))])
    return found


def _has_whole_scores(store: tirx.BufferStore) -> bool:
    target, loads, scaled = str(store.buffer.name), _loads(store.value), _scaled(store.value)
    if target in _SCALED:
        return bool(loads) and scaled
    return any(target == written and loads == [read] for read, written in _COPIES)


def _loads(value: Any) -> list[str]:
    found: list[str] = []
    tvm_ffi.structural_walk(value, [((TensorLoad,), lambda load: found.append(str(load.source.name)))])
    return found


def _scaled(value: Any) -> bool:
    found: list[bool] = []
    tvm_ffi.structural_walk(value, [((tirx.Var,), lambda var: found.append(var.name == _SCALE))])
    return any(found)
