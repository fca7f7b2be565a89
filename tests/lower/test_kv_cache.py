"""Kernels of a KV cache for the heads of one worker, against those that TVM makes when it is told the local head counts."""

import json
from functools import lru_cache

import pytest
import tvm
import tvm_ffi
from tvm import relax, tirx
from tvm.relax.frontend.nn.llm.kv_cache import RopeMode, TIRPagedKVCache
from tvm.target import Target

import spmd
from examples.llm.config import LlamaConfig
from examples.llm.model import build_module
from spmd.errors import ShardingError
from spmd.lower.kv_cache import local_kernels
from spmd.testing import FREE_LINKS
from tests.models.mlc_llama import TINY, mlc_llama

CUDA = json.dumps({"kind": "cuda", "arch": "sm_90"})
LLAMA3 = {"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768, "beta_fast": 32, "beta_slow": 1}


@lru_cache(maxsize=8)
def cache_module(heads, kv_heads, target='"llvm"', scaling="{}", theta=10000, page_size=None, rotary_dim=64, mla=False):
    """A module that creates a cache of two layers and 64 dimensions a head; target and scaling in JSON."""
    sizes = [tirx.Var(name, "int64") for name in ("batch", "total", "chunk", "page_size", "window")]
    builder = relax.BlockBuilder()
    with builder.function("create", [relax.Var(str(size.name), relax.ShapeType([size])) for size in sizes]):
        cache = TIRPagedKVCache(
            "mla" if mla else "mha",
            *sizes[:3],
            page_size or sizes[3],
            sizes[4],
            layer_partition=relax.ShapeExpr([0, 2]),
            num_hidden_layers=2,
            num_attention_heads=heads,
            num_key_value_heads=kv_heads,
            qk_head_dim=576 if mla else 64,
            v_head_dim=512 if mla else 64,
            mla_original_qk_head_dim=192 if mla else 0,
            mla_original_v_head_dim=128 if mla else 0,
            rope_mode=RopeMode.NORMAL,
            rope_scale=1,
            rope_theta=theta,
            rope_scaling=json.loads(scaling),
            rope_ext_factors=relax.prim_value(0),
            rotary_dim=rotary_dim,
            enable_disaggregation=False,
            dtype="float16",
            target=Target(json.loads(target)),
        )
        builder.emit_func_output(cache._expr)
    return builder.finalize()


def create_call(mod, function="create"):
    values = [binding.value for binding in mod[function].body.blocks[0].bindings]
    return next(value for value in values if isinstance(value, relax.Call) and isinstance(value.args[0], relax.ExternFunc))


def check(heads, local, attrs=None, **options):
    """All kernels of the call, cut from `heads` to `local`, are those that TVM makes for `local`."""
    mod, expected = cache_module(*heads, **options), cache_module(*local, **options)
    found = local_kernels(mod, create_call(mod), *local, "create", attrs=attrs)
    assert set(found) == {var.name_hint for var in mod.get_global_vars()} - {"create"}
    for name, kernel in found.items():
        tvm.ir.assert_structural_equal(kernel, expected[name], map_free_vars=True)
    return found


@pytest.mark.parametrize("local", [(3, 1), (6, 2)])
def test_kernels_of_a_part_of_the_heads(local):
    found = check((9, 3), local)
    assert len(found) == 14
    assert [int(p.shape[1]) for p in found["fused_rope"].params[2:5]] == [local[0], local[1], local[1]]


@pytest.mark.parametrize("page_size", [16, tirx.IntImm("int64", 16)])
def test_a_page_size_that_is_a_constant(page_size):
    check((4, 2), (2, 1), page_size=page_size)


def test_scaled_rope_of_a_part_of_the_dimensions():
    check((4, 2), (2, 1), scaling=json.dumps(LLAMA3), theta=500000.0, rotary_dim=32)


def test_other_scalings_come_from_an_attribute_of_the_function():
    mod = cache_module(4, 2, scaling=json.dumps(YARN))
    function = mod["create"].with_attr("rope_scaling", json.dumps(YARN))
    check((4, 2), (2, 1), attrs=function.attrs, scaling=json.dumps(YARN))
    with pytest.raises(ShardingError) as error:
        local_kernels(mod, create_call(mod), 2, 1, "create 'cache'", attrs=mod["create"].attrs)
    assert str(error.value).startswith(
        "create 'cache': kernel 'fused_rope' is not what TVM makes for rope_theta 10000, rope_scale 1 and rope_scaling of type none, gptj, "
        "llama3 or llama4. Give the Relax function that creates the cache the attribute rope_scaling"
    )
    with pytest.raises(ShardingError, match=r"'fused_rope' is not .* rope_scaling \{\"rope_type\": \"gptj\"\}"):
        local_kernels(mod, create_call(mod), 2, 1, "create", attrs={"rope_scaling": '{"rope_type": "gptj"}'})
    with pytest.raises(ShardingError, match="the attribute rope_scaling, yarn, is no dictionary in JSON"):
        local_kernels(mod, create_call(mod), 2, 1, "create", attrs={"rope_scaling": "yarn"})
    with pytest.raises(ShardingError, match=r"TVM makes no RoPE kernel for .* \(Unsupported RoPE scaling type: mine\)"):
        local_kernels(mod, create_call(mod), 2, 1, "create", attrs={"rope_scaling": '{"rope_type": "mine"}'})


def test_an_edited_kernel_is_refused_by_name():
    mod = tvm.IRModule(dict(cache_module(4, 2).functions_items()))
    edited = cache_module(4, 4)["batch_decode_paged_kv_cpu"]
    mod.update_func(mod.get_global_var("batch_decode_paged_kv_cpu"), edited)
    with pytest.raises(ShardingError) as error:
        local_kernels(mod, create_call(mod), 2, 1, "create 'cache'")
    assert str(error.value) == (
        "create 'cache': KV cache kernel 'batch_decode_paged_kv_cpu' is not what TIRPagedKVCache makes for 4 query and 2 KV heads on llvm. "
        "Shard the module with the cache as TIRPagedKVCache made it, or before a cache for the target replaces the generic one."
    )


def test_names_and_attributes_of_the_kernels_stay():
    mod = cache_module(4, 2)
    call, rope = create_call(mod), mod["fused_rope"]
    renamed = tvm.ir.GlobalVar("rotate")
    mod = tvm.IRModule({**dict(mod.functions_items()), renamed: rope.with_attr({"global_symbol": "rotate", "tuned": 1})})
    args = [renamed if arg.same_as(mod.get_global_var("fused_rope")) else arg for arg in call.args]
    found = local_kernels(mod, relax.Call(call.op, args, call.attrs, call.ty_args), 2, 1, "create")
    assert "fused_rope" not in found
    assert (found["rotate"].attrs["global_symbol"], found["rotate"].attrs["tuned"]) == ("rotate", 1)


def test_arguments_bound_to_variables():
    mod = cache_module(4, 2)
    call = create_call(mod)
    bound = {}

    def bind(arg):
        variable = relax.Var(f"v{len(bound)}")
        bound[variable] = arg
        return variable

    args = [bind(relax.Tuple([bind(f) for f in arg.fields])) if isinstance(arg, relax.Tuple) else bind(arg) for arg in call.args[1:]]
    call = relax.Call(call.op, [call.args[0], *args], call.attrs, call.ty_args)
    assert len(local_kernels(mod, call, 2, 1, "create", lookup=bound.get)) == 14
    assert local_kernels(mod, call, 2, 1, "create") == {}


def test_a_program_has_the_kernels_of_the_heads_of_a_worker():
    """Of 6 query heads and 3 KV heads."""
    mod, _ = build_module(LlamaConfig.preset("tiny"), methods=("decode", "create_paged_kv_cache"))
    sharded = spmd.shard(mod, 3, profile=FREE_LINKS).mod
    assert [int(p.shape[1]) for p in sharded["fused_rope"].params[2:5]] == [2, 1, 1]


def test_gpu_kernels():
    found = check((8, 2), (4, 1), target=CUDA)
    assert "batch_prefill_paged_kv" in found


def test_the_current_target_decides_where_kernels_do_not_tell_it():
    metal = {"kind": "metal", "max_shared_memory_per_block": 16384, "max_num_threads": 256, "max_threads_per_block": 256}
    mod = cache_module(4, 2, target=json.dumps(metal))
    with pytest.raises(ShardingError, match=r"'batch_prefill_ragged_kv'.* Run spmd.shard inside `with target:` of the GPU"):
        local_kernels(mod, create_call(mod), 2, 1, "create")
    with Target(metal):
        check((4, 2), (2, 1), target=json.dumps(metal))


def test_kernels_beside_the_extern_functions_of_flashinfer():
    mod = cache_module(8, 2, target=CUDA)
    call, args = create_call(mod), list(create_call(mod).args)
    for i in (16, 17, 18):
        args[i] = relax.Tuple([tvm.ir.StringImm("flashinfer"), relax.ExternFunc("run"), relax.ExternFunc("plan")])
    found = local_kernels(mod, relax.Call(call.op, args, call.attrs, call.ty_args), 4, 1, "create")
    assert len(found) == 11
    tvm.ir.assert_structural_equal(found["fused_rope"], cache_module(4, 1, target=CUDA)["fused_rope"])


def test_query_heads_of_latent_attention():
    found = check((16, 1), (8, 1), target=CUDA, mla=True)
    assert "batch_prefill_paged_kv_mla" in found


def test_a_generic_call_passes_no_kernels():
    mod, _ = mlc_llama(TINY, functions=["create_paged_kv_cache"])
    assert local_kernels(mod, create_call(mod, "create_paged_kv_cache"), 4, 2, "create") == {}


def test_uneven_groups_and_strange_calls_are_refused():
    mod = cache_module(4, 2)
    call = create_call(mod)
    with pytest.raises(ShardingError, match="3 query heads a worker do not share 2 KV heads evenly"):
        local_kernels(mod, call, 3, 2, "create")
    short = relax.Call(call.op, call.args[:-1], call.attrs, call.ty_args)
    with pytest.raises(ShardingError, match="has 28 arguments, that of this TVM has 29"):
        local_kernels(mod, short, 2, 1, "create")
    symbolic = relax.Call(call.op, [*call.args[:4], relax.Var("heads"), *call.args[5:]], call.attrs, call.ty_args)
    with pytest.raises(ShardingError, match="argument 4 of the call that creates the KV cache does not give a constant, but heads"):
        local_kernels(mod, symbolic, 2, 1, "create")
    unsized = relax.Call(call.op, [call.args[0], relax.Var("sizes"), *call.args[2:]], call.attrs, call.ty_args)
    with pytest.raises(ShardingError, match="argument 1 of the call that creates the KV cache does not give a shape"):
        local_kernels(mod, unsized, 2, 1, "create")


def test_kernels_are_made_once():
    mod = cache_module(4, 2)
    first, second = (local_kernels(mod, create_call(mod), 2, 1, "create") for _ in range(2))
    assert all(tvm_ffi.structural_equal(kernel, second[name]) for name, kernel in first.items())
