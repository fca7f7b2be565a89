"""The generic KV cache of an exported module made one for a target, as MLC-LLM's pass DispatchKVCacheCreation does before it compiles."""

import json

import tvm
from tvm import relax
from tvm.relax.frontend.nn.llm.kv_cache import RopeMode, TIRPagedKVCache
from tvm.target import Target

GENERIC = "mlc.create_paged_kv_cache_generic"


def dispatch_kv_cache(mod: tvm.IRModule, target: str | Target = "llvm") -> tvm.IRModule:
    """A module whose functions that make a generic cache make one of TVM's own kernels for `target`; `mod` is not changed."""
    target = Target(target)
    calls = {var: call for var, function in mod.functions_items() if (call := _generic_call(function)) is not None}
    rest = {var: function for var, function in mod.functions_items() if var not in calls}
    builder = relax.BlockBuilder(tvm.IRModule(rest, attrs=mod.attrs))
    for var, call in calls.items():
        function = mod[var]
        with builder.function(var.name_hint, function.params, attrs=dict(function.attrs or {})):
            with builder.dataflow():
                cache = builder.emit_output(_tir_cache(call, target)._expr)
            builder.emit_func_output(cache)
    return builder.finalize()


def _generic_call(function: tvm.ir.BaseFunc) -> relax.Call | None:
    if not isinstance(function, relax.Function):
        return None
    values = [binding.value for block in function.body.blocks for binding in block.bindings]
    calls = [value for value in values if isinstance(value, relax.Call) and isinstance(value.args[0], relax.ExternFunc)]
    return next((call for call in calls if call.args[0].global_symbol == GENERIC), None)


def _tir_cache(call: relax.Call, target: Target) -> TIRPagedKVCache:
    """Emits the call that creates the cache; arguments are in the order of `LlamaForCausalLM.create_paged_kv_cache`."""
    attn_kind, sizes, partition, *numbers, scaling, ext_factors, rotary_dim, disaggregation, dtype = call.args[1:]
    layers, heads, kv_heads, qk_dim, v_dim, mla_qk_dim, mla_v_dim, rope_mode, rope_scale, rope_theta = (n.value for n in numbers)
    return TIRPagedKVCache(
        attn_kind.value,
        *sizes.values,
        layer_partition=partition,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        qk_head_dim=qk_dim,
        v_head_dim=v_dim,
        mla_original_qk_head_dim=mla_qk_dim,
        mla_original_v_head_dim=mla_v_dim,
        rope_mode=RopeMode(rope_mode),
        rope_scale=rope_scale,
        rope_theta=rope_theta,
        rope_scaling=json.loads(scaling.value),
        rope_ext_factors=ext_factors,
        rotary_dim=rotary_dim.value,
        enable_disaggregation=bool(disaggregation.value),
        dtype=str(dtype.value),
        target=target,
    )
