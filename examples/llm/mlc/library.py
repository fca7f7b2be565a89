"""A library that MLC-LLM's engine loads: the functions that its function table names, and `_metadata`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import tvm
from tvm import relax, tirx
from tvm.target import Target

import spmd
from examples.llm.build_program import program, weights, whole
from examples.llm.config import LlamaConfig
from examples.llm.errors import ModelError
from examples.llm.quantization import Formats
from examples.llm.sequences import MAX_BATCH, PREFILL_CHUNK
from spmd.schedules import pipeline, resolve

from .module import Cuts, add_cuts, check_plan, worker_module

LIBRARY, CONFIG = "lib.so", "mlc-chat-config.json"


@tvm.instrument.pass_instrument
class _Planned:
    """The bytes of storage that each function plans, seen while it is compiled."""

    def __init__(self) -> None:
        self.bytes: dict[str, int] = {}

    def run_after_pass(self, mod: tvm.IRModule, info: Any) -> None:
        """`info`: of the pass that has run."""
        if info.name == "StaticPlanBlockMemory":
            self.bytes.update({var.name_hint: _storage(f) for var, f in mod.functions_items() if isinstance(f, relax.Function)})


def _storage(function: relax.Function) -> int:
    calls = [binding.value for block in function.body.blocks for binding in block.bindings]
    sizes = [
        c.args[0].values[0] for c in calls if isinstance(c, relax.Call) and str(getattr(c.op, "name", "")) == "relax.memory.alloc_storage"
    ]
    return sum(int(size) for size in sizes if isinstance(size, tirx.IntImm))


def build(
    config: LlamaConfig, num_shards: int, target: Target, formats: Formats, quantization: str, profile: str, max_seq_len: int, graphs: bool
) -> tuple[Any, dict[str, Any]]:
    """The executable of each worker, and its metadata; see `build_program.program` for the arguments.

    Raises ModelError for models whose layers look back a window, and for plans that the engine cannot call.
    """
    if any(config.layer_windows):
        raise ModelError("--runtime mlc", "layers of this model look back a window", "Run it without --runtime mlc.")
    mod = whole(config, target, formats)
    given, cuts = weights(mod), dict[str, tuple[str, tuple[int, ...]]]()
    worker = mod
    if num_shards > 1:
        sharded = program(config, num_shards, target, formats, profile, max_seq_len)
        check_plan(sharded.plan)
        worker = spmd.lower(mod, sharded.plan, collectives="ccl")
    made = worker_module(worker, num_shards, target.kind.name, PREFILL_CHUNK)
    if num_shards > 1:
        made, cuts = add_cuts(made, sharded.plan, given)
    metadata = {
        "model_type": config.model_type,
        "quantization": quantization,
        "context_window_size": max_seq_len,
        "sliding_window_size": -1,
        "attention_sink_size": -1,
        "prefill_chunk_size": PREFILL_CHUNK,
        "max_batch_size": MAX_BATCH,
        "tensor_parallel_shards": num_shards,
        "pipeline_parallel_stages": 1,
        "disaggregation": False,
        "kv_state_kind": "kv_cache",
        "model_task": "chat",
        "kv_cache": _cache_of(worker),
        "params": _params(given, cuts, num_shards),
    }
    return _compiled(made, resolve(target), metadata, graphs), metadata


def _params(given: dict[str, tuple[tuple[int, ...], str]], cuts: Cuts, num_shards: int) -> list[dict[str, Any]]:
    """What stands of each weight in the metadata, in the order of the tuple: what a worker has, and how it comes from the whole one."""
    found: list[dict[str, Any]] = []
    for name, (shape, dtype) in given.items():
        function, local = cuts.get(name, ("", shape))
        cut = {"func_name": function, "in_shape": list(shape), "out_shape": [num_shards, *local], "out_dtype": dtype}
        found.append({"name": name, "shape": list(local), "dtype": dtype, "preprocs": [cut] if function else [], "pipeline_stages": [0]})
    return found


def _cache_of(worker: tvm.IRModule) -> dict[str, int]:
    """Layers and heads of the cache that a worker makes."""
    bindings = [binding for block in worker["create_paged_kv_cache"].body.blocks for binding in block.bindings]
    call = next(b.value for b in bindings if isinstance(b.value, relax.Call) and isinstance(b.value.args[0], relax.ExternFunc))
    is_generic = call.args[0].global_symbol == "mlc.create_paged_kv_cache_generic"
    layers = int(call.args[4]) if is_generic else len(call.args[7].values)
    query, heads, size = (int(call.args[i + 2 * is_generic].value) for i in (3, 4, 5))
    return {"num_hidden_layers": layers, "num_attention_heads": query, "num_key_value_heads": heads, "head_dim": size}


def _compiled(mod: tvm.IRModule, target: Target, metadata: dict[str, Any], graphs: bool) -> Any:
    """Compiles; the storage that functions plan is in the metadata, which is a function of the library, too."""
    planned = _Planned()

    @tvm.transform.module_pass(opt_level=0, name="examples.llm.mlc.library")
    def run(mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        lowered = pipeline(target)(mod)
        metadata["memory_usage"] = planned.bytes
        text = relax.Function([], tvm.ir.StringImm(json.dumps(metadata))).with_attr("global_symbol", "_metadata")
        return tvm.IRModule({**dict(lowered.functions_items()), tvm.ir.GlobalVar("_metadata"): text}, attrs=lowered.attrs)

    with tvm.transform.PassContext(config={"relax.backend.use_cuda_graph": graphs}, instruments=[planned]):
        return tvm.compile(mod, target, relax_pipeline=run)


def write(folder: Path, executable: Any, metadata: dict[str, Any], config: LlamaConfig) -> Path:
    """lib.so and mlc-chat-config.json in a folder, whose path it gives. The template of a conversation is one of plain text."""
    folder.mkdir(parents=True, exist_ok=True)
    executable.export_library(str(folder / LIBRARY))
    sizes = ("context_window_size", "sliding_window_size", "prefill_chunk_size", "attention_sink_size", "tensor_parallel_shards")
    asked = {name: metadata[name] for name in (*sizes, "pipeline_parallel_stages", "disaggregation")}
    plain = {"name": "LM", "system_template": "", "roles": {"user": "", "assistant": ""}, "role_templates": {}, "seps": [""]}
    said = {
        "version": "0.1.0",
        "model_type": config.model_type,
        "quantization": metadata["quantization"],
        "model_config": {**asked, "vocab_size": config.vocab_size, "max_batch_size": MAX_BATCH, "hidden_size": config.hidden_size},
        "vocab_size": config.vocab_size,
        "active_vocab_size": config.vocab_size,
        **asked,
        "temperature": 1.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "repetition_penalty": 1.0,
        "top_p": 1.0,
        "tokenizer_files": ["tokenizer.json"],
        "tokenizer_info": {},
        "conv_template": plain,
        "model_task": "chat",
    }
    (folder / CONFIG).write_text(json.dumps(said, indent=2) + "\n")
    return folder
