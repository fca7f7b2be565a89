"""The program of a worker as MLC-LLM's engine calls it: weights in one tuple, tokens from worker 0, and functions beside the model's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tvm
from tvm import relax, te, tirx

import spmd
from examples.llm.errors import ModelError
from spmd.placement.layout import pieces

from .logits import kernels
from .samplers import add_samplers

FROM_WORKER_0 = {"embed": "input_ids", "batch_prefill": "logit_positions", "batch_extend": "logit_positions"}
"""{function: the argument that the engine copies to worker 0 alone}."""
RENAMED = {"create_paged_kv_cache": "create_tir_paged_kv_cache"}
"""What the engine has another name for."""
CUT = "_shard_{}"
"""The functions that cut weights for all workers."""

Cuts = Mapping[str, tuple[str, tuple[int, ...]]]
"""{weight that is cut: (the function that cuts it, what a worker has of it)}."""


def worker_module(mod: tvm.IRModule, workers: int, target: str, chunk: int) -> tvm.IRModule:
    """`mod`, the program of a worker in which collectives are `R.ccl`'s, with all functions of the engine but `_metadata`.

    target: the kind of target; chunk: tokens of the largest prefill.
    """
    made = dict(mod.functions_items())
    for var, function in mod.functions_items():
        if isinstance(function, relax.Function) and int((function.attrs or {}).get("num_input", len(function.params))) < len(
            function.params
        ):
            made[var] = _called(function, FROM_WORKER_0.get(var.name_hint, "") if workers > 1 else "")
        if var.name_hint in RENAMED:
            name = RENAMED[var.name_hint]
            made[tvm.ir.GlobalVar(name)] = made.pop(var).with_attr("global_symbol", name)
    builder = relax.BlockBuilder(tvm.IRModule(made, attrs=mod.attrs, global_infos=mod.global_infos))
    add_samplers(builder, target)
    hidden = mod["embed"].ret_ty
    with builder.function("alloc_embedding_tensor", []):
        size = relax.ShapeExpr([chunk, hidden.shape[-1]])
        builder.emit_func_output(builder.emit(relax.op.builtin.alloc_tensor(size, str(hidden.dtype), 0)))
    whole = builder.finalize()
    return tvm.IRModule(
        {**dict(whole.functions_items()), **{tvm.ir.GlobalVar(n): f for n, f in kernels(target != "llvm").items()}}, attrs=mod.attrs
    )


def _called(function: relax.Function, sent: str) -> relax.Function:
    """A function whose weights come as one tuple, and the argument `sent` from worker 0."""
    count = int(function.attrs["num_input"])
    given, weights = list(function.params[:count]), list(function.params[count:])
    packed = relax.Var("packed_params", relax.TupleType([weight.ty for weight in weights]))
    bindings = [relax.VarBinding(weight, relax.TupleGetItem(packed, i)) for i, weight in enumerate(weights)]
    for i, var in enumerate(given):
        if var.name == sent:
            given[i] = relax.Var(f"{sent}_of_worker_0", var.ty)
            bindings.append(relax.VarBinding(var, relax.BlockBuilder().normalize(relax.op.ccl.broadcast_from_worker0(given[i]))))
    body = function.body
    body = relax.SeqExpr([relax.BindingBlock(bindings), *body.blocks], body.body)
    return relax.Function([*given, packed], body, function.ret_ty, function.is_pure, function.attrs)


def add_cuts(mod: tvm.IRModule, plan: spmd.Plan, weights: Mapping[str, tuple[tuple[int, ...], str]]) -> tuple[tvm.IRModule, Cuts]:
    """`mod` with a kernel for each way in which weights are cut; `weights` are the whole ones, {name: (shape, element type)}."""
    named: dict[tuple[Any, ...], str] = {}
    kernels: dict[tvm.ir.GlobalVar, tirx.PrimFunc] = {}
    cuts: dict[str, tuple[str, tuple[int, ...]]] = {}
    for name, (shape, dtype) in weights.items():
        sharding = plan.params[name]
        if sharding.is_replicated:
            continue
        key = (shape, dtype, sharding)
        if key not in named:
            named[key] = CUT.format(len(named))
            kernels[tvm.ir.GlobalVar(named[key])] = _cut(named[key], shape, dtype, sharding, plan.mesh)
        cuts[name] = named[key], sharding.local_shape(shape, plan.mesh)
    return tvm.IRModule({**dict(mod.functions_items()), **kernels}, attrs=mod.attrs, global_infos=mod.global_infos), cuts


def _cut(name: str, shape: tuple[int, ...], dtype: str, sharding: spmd.Sharding, mesh: spmd.Mesh) -> tirx.PrimFunc:
    """A kernel (*shape) -> (workers, *what each has); padding is 0."""
    (dim,) = (i for i, split in enumerate(sharding.dims) if split is not None)
    parts = [pieces(sharding.dims[dim], mesh, worker) for worker in range(mesh.size)]
    local = sharding.local_shape(shape, mesh)
    whole = te.placeholder([tirx.IntImm("int64", size) for size in shape], dtype, "whole")

    def element(worker: tirx.Var, *at: tirx.Var) -> tirx.Expr:
        found = tirx.const(0, dtype)
        for number, own in enumerate(parts):
            for start, first, valid, _ in own:
                if valid:
                    i = at[dim] - first
                    here = te.all(worker == number, i >= 0, i < valid)
                    found = te.if_then_else(here, whole[(*at[:dim], i + start, *at[dim + 1 :])], found)
        return found

    cut = te.compute([tirx.IntImm("int64", size) for size in (mesh.size, *local)], element, name="cut")
    return te.create_prim_func([whole, cut]).with_attr("global_symbol", name)


def check_plan(plan: spmd.Plan) -> None:
    """Raises ModelError where the engine could not call the functions of a plan."""
    for name, signature in plan.functions.items():
        count = signature.num_input or len(signature.params)
        leaves = [*signature.params[:count], *(signature.outputs if isinstance(signature.outputs, tuple) else [signature.outputs])]
        split = [leaf.name for leaf in leaves if leaf.shape is not None and leaf.sharding is not None and not leaf.sharding.is_replicated]
        if split or signature.sizes or signature.constants:
            what = f"its {', '.join(split)} is split" if split else "it takes sizes or constants that the engine does not know of"
            raise ModelError(f"--runtime mlc, function {name}", what, "Leave out specs, or run it by spmd.workers.")
