"""Paged KV caches that a module asks for with no kernels, by `mlc.create_paged_kv_cache_generic`: each gets those for its heads and target.

So a module is sharded while head counts are numbers in a call, and gets kernels where it is compiled. TVM has none for latent attention
(MLA) on CPUs: those are in `cpu/latent.py`.
"""

from __future__ import annotations

import json
from typing import Any

import tvm
import tvm_ffi
from tvm import relax
from tvm.relax.expr_functor import PyExprMutator, mutator
from tvm.relax.frontend.nn.llm import kv_cache
from tvm.relax.frontend.nn.llm.kv_cache import AttnKind, RopeMode, TIRPagedKVCache
from tvm.target import Target

from spmd.errors import ShardingError
from spmd.ir.builder import NOTED

from .cpu.latent import attend, copy_page
from .targets import is_cpu

GENERIC, CREATE = "mlc.create_paged_kv_cache_generic", "vm.builtin.paged_attention_kv_cache_create"
_ARGUMENTS = 19
_ZERO = 13
"""The argument of CREATE that is the result of a call."""
_WINDOW = 1024
"""The window of layers that look back one, which TVM asks for where none does."""
_PAGE = 16
"""The tokens of a page in TVM's kernels."""


@tvm.transform.module_pass(opt_level=0, name="spmd.CreateCaches")
class CreateCaches:
    """Caches with kernels for the current target in the place of generic ones. Raises ShardingError where there are no such kernels."""

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        """A new module, the same one where no function asks for a cache; `mod` stays as it is."""
        asking = {var: f for var, f in mod.functions_items() if isinstance(f, relax.Function) and _asks(f)}
        if not asking:
            return mod
        writer = _Writer(mod, Target.current(allow_none=False))
        for var, function in asking.items():
            writer.builder_.update_func(var, writer.visit_expr(function))
        made = writer.builder_.get()
        return tvm.IRModule(dict(made.functions_items()), attrs=mod.attrs, global_infos=mod.global_infos)


def _asks(function: relax.Function) -> bool:
    found: list[str] = []
    tvm_ffi.structural_walk(function.body, [((relax.ExternFunc,), lambda called: found.append(str(called.global_symbol)))])
    return GENERIC in found


@mutator
class _Writer(PyExprMutator):
    def __init__(self, mod: tvm.IRModule, target: Target) -> None:
        super().__init__(mod)
        self.target = target

    def visit_call_(self, op: Any) -> Any:
        """What creates a cache."""
        call = self.visit_expr_post_order(op)
        if not len(call.args) or str(getattr(call.args[0], "global_symbol", "")) != GENERIC:
            return call
        if len(call.args) != _ARGUMENTS:
            what = f"it has {len(call.args) - 1} arguments, and in this TVM it has {_ARGUMENTS - 1}"
            raise ShardingError(f"the call of {GENERIC}", what, "Export the module again with the TVM that is installed.")
        with NOTED:
            apart = relax.BlockBuilder()
            with apart.function("create", []):
                made = _created(apart, _asked(call.args[1:]), self.target)
                made, zero = (apart.lookup_binding(var) for var in (made, apart.lookup_binding(made).args[_ZERO]))
                apart.emit_func_output(relax.Tuple([]))
        kernels = {var: self.builder_.add_func(f, var.name_hint) for var, f in apart.get().functions_items() if var.name_hint != "create"}
        args = [_renamed(arg, kernels) for arg in made.args]
        args[_ZERO] = self.builder_.emit(zero)
        return relax.Call(made.op, args, made.attrs, made.ty_args)


def _asked(args: Any) -> dict[str, Any]:
    """The arguments of a generic call by the names that TVM's class has for them."""
    kind, sizes, partition, *numbers, scaling, factors, rotary_dim, disaggregation, dtype = args
    layers, heads, kv_heads, qk_dim, v_dim, mla_qk_dim, mla_v_dim, rope_mode, rope_scale, rope_theta = (n.value for n in numbers)
    names = ("max_batch_size", "max_total_seq_len", "prefill_chunk_size", "page_size", "support_sliding_window")
    return {
        "attn_kind": [str(one.value) for one in kind.fields] if isinstance(kind, relax.Tuple) else str(kind.value),
        **dict(zip(names, sizes.values, strict=True)),
        "layer_partition": partition,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "qk_head_dim": qk_dim,
        "v_head_dim": v_dim,
        "mla_original_qk_head_dim": mla_qk_dim,
        "mla_original_v_head_dim": mla_v_dim,
        "rope_mode": RopeMode(rope_mode),
        "rope_scale": rope_scale,
        "rope_theta": rope_theta,
        "rope_scaling": json.loads(str(scaling.value)),
        "rope_ext_factors": factors,
        "rotary_dim": rotary_dim.value,
        "enable_disaggregation": bool(disaggregation.value),
        "dtype": str(dtype.value),
    }


def _created(builder: relax.BlockBuilder, asked: dict[str, Any], target: Target) -> Any:
    """The variable of the call that creates a cache in `builder`, which is at work."""
    if is_cpu(target) and asked["attn_kind"] == "mla":
        return _latent(builder, asked)
    try:
        return TIRPagedKVCache(target=target, **asked)._expr
    except Exception as error:  # its asserts, ValueErrors and parser errors alike
        said = next(iter(str(error).splitlines()), type(error).__name__)
        what = f"TVM makes no KV cache for {asked['num_attention_heads']} query heads on {target.kind} ({said})"
        raise ShardingError(f"the call of {GENERIC}", what, "Use fewer workers along the mesh axis that splits heads.") from error


def _latent(builder: relax.BlockBuilder, asked: dict[str, Any]) -> Any:
    """The call for latent attention in all layers on a CPU, arguments in the order of TVM's class."""
    heads, qk_dim, v_dim, dtype = (asked[name] for name in ("num_attention_heads", "qk_head_dim", "v_head_dim", "dtype"))
    given_qk, given_v, scaling = (asked[name] for name in ("mla_original_qk_head_dim", "mla_original_v_head_dim", "rope_scaling"))

    def kernel(name: str, made: Any) -> Any:
        return builder.add_func(made, f"latent_{name}")

    def attention(name: str, made: Any) -> relax.Tuple:
        return relax.Tuple([tvm.ir.StringImm("tirx"), kernel(name, made)])

    sizes = [asked[name] for name in ("max_batch_size", "max_total_seq_len", "prefill_chunk_size", "page_size", "support_sliding_window")]
    merge = kernel("merge", kv_cache._merge_state_inplace_cpu(dtype))
    rope = kv_cache.llama_rope_with_position_map(
        asked["rope_theta"], asked["rope_scale"], qk_dim, heads, 1, dtype, scaling, asked["rotary_dim"]
    )
    args = [
        relax.ShapeExpr([*sizes, _WINDOW]),
        asked["layer_partition"],
        *map(relax.prim_value, (heads, 1, qk_dim, v_dim)),
        relax.ShapeExpr([int(AttnKind.MLA)] * asked["num_hidden_layers"]),
        *map(relax.prim_value, (asked["enable_disaggregation"], asked["rope_mode"], asked["rope_scale"], asked["rope_theta"])),
        asked["rope_ext_factors"],
        relax.op.zeros((), dtype),
        kernel("append_heads", kv_cache._kv_cache_transpose_append(1, qk_dim, dtype)),
        kernel("append", kv_cache._kv_cache_transpose_append_mla(qk_dim, dtype)),
        attention("own", kv_cache._attention_prefill_ragged_cpu(heads, heads, given_qk, given_v, dtype, scaling)),
        *(relax.Tuple([]) for _ in range(6)),  # attention of other kinds
        attention("past", attend(qk_dim, v_dim, dtype, _PAGE)),
        relax.Tuple([merge, merge]),
        kernel("rotary", rope),
        kernel("copy_page", copy_page(qk_dim, dtype, _PAGE)),
        kernel("get", kv_cache._kv_cache_debug_get_kv_mla(asked["num_hidden_layers"], qk_dim, dtype)),
        kernel("compact", kv_cache._compact_kv_copy_cpu(1, qk_dim, dtype)),
    ]
    return builder.emit(relax.call_pure_packed(CREATE, *args, ty_args=relax.AnyType()))


def _renamed(arg: Any, names: dict[Any, Any]) -> Any:
    """An argument with the GlobalVars of another module."""
    if isinstance(arg, relax.Tuple):
        return relax.Tuple([_renamed(field, names) for field in arg.fields])
    return names.get(arg, arg) if isinstance(arg, tvm.ir.GlobalVar) else arg
