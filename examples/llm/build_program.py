"""What `build` compiles: the program of each worker, planned for decode, with bounds of its sizes and hints for CUDA graphs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tvm
from tvm import relax
from tvm.target import Target

import spmd
from spmd import P

from .config import LlamaConfig
from .engine import check_shards
from .model import METHODS, bounded, build_module
from .quantization import Formats
from .quantize import quantize
from .sequences import BOUNDS, PAGE_SIZE, PREFILL_CHUNK

CAPTURED = {"batch_decode": ["batch_size"], "batch_verify": ["verify_len"]}
"""{function: the sizes for each value of which its kernels are captured in CUDA graphs of their own}."""
TABLE = "model.embed_tokens."


def program(
    config: LlamaConfig,
    num_shards: int,
    target: Target,
    quantization: Formats = "",
    profile: str = "a100-pcie",
    max_seq_len: int = 2048,
    memory: float | None = None,
    methods: Sequence[str] = METHODS,
) -> tvm.IRModule | spmd.ShardedModule:
    """The program of each of `num_shards` workers: a plain IRModule for one, else what `spmd.shard` gives.

    The plan is that for single tokens, which is where a conversation's time goes, but for a table of embeddings that is no output head:
    its columns are split, as every worker would hold it whole for the few microseconds that gathering a token's row takes.
    memory: the bytes that a worker may hold, where it is not what the profile says.
    Raises ModelError for too many shards, and spmd.ShardingError where the model cannot be sharded or does not fit.
    """
    check_shards(config, num_shards)
    mod = whole(config, target, quantization, methods)
    if num_shards == 1:
        return mod
    specs = table_specs(mod, num_shards) if not config.tie_word_embeddings else {}
    told = {name: size for name, size in sizes(max_seq_len).items() if name in _symbols(mod)}
    return spmd.shard(mod, mesh=num_shards, specs=specs, profile=profile, sizes=told, memory=memory)


def whole(
    config: LlamaConfig,
    target: Target,
    quantization: Formats = "",
    methods: Sequence[str] = METHODS,
    bounds: Mapping[str, int] = BOUNDS,
) -> tvm.IRModule:
    """The program of one device, with bounds of its sizes and hints for CUDA graphs."""
    mod = hinted(bounded(build_module(config, target, methods)[0], bounds))
    return quantize(mod, quantization) if quantization else mod


def table_specs(mod: tvm.IRModule, num_shards: int) -> dict[str, P]:
    """Columns of the table of embeddings, whole groups of them where it is packed; none where the workers cannot have equally many."""
    parts = {name: shape for name, (shape, _) in weights(mod).items() if name.startswith(TABLE)}
    return {name: P(None, "tp") for name in parts} if all(shape[-1] % num_shards == 0 for shape in parts.values()) else {}


def sizes(max_seq_len: int) -> dict[str, int]:
    """Those of one conversation of so many tokens, one token at a time."""
    cache = {"max_batch_size": 1, "max_total_seq_len": max_seq_len, "prefill_chunk_size": PREFILL_CHUNK, "page_size": PAGE_SIZE}
    return {**dict.fromkeys(BOUNDS, 1), **cache, "support_sliding_window": 0}


def _symbols(mod: tvm.IRModule) -> set[str]:
    """The names of the symbolic sizes that the functions of a module take."""
    functions = [function for _, function in mod.functions_items() if isinstance(function, relax.Function)]
    return {str(var.name) for function in functions for var in relax.analysis.defined_symbolic_vars(function)}


def hinted(mod: tvm.IRModule) -> tvm.IRModule:
    """`mod` with what TVM is told of its functions: where CUDA graphs are captured, and that results have planned storage, too."""
    functions = dict(mod.functions_items())
    for var, function in functions.items():
        if isinstance(function, relax.Function) and "tir_var_upper_bound" in (function.attrs or {}):
            function = function.with_attr("relax.memory_plan_dynamic_func_output", True)
            if captured := CAPTURED.get(var.name_hint):
                function = function.with_attr("relax.rewrite_cuda_graph.capture_symbolic_vars", captured)
            functions[var] = function
    return tvm.IRModule(functions, attrs=mod.attrs, global_infos=mod.global_infos)


def weights(mod: Any) -> dict[str, tuple[tuple[int, ...], str]]:
    """{name: (shape, element type)} of the weights of a module's functions, in their order."""
    found: dict[str, tuple[tuple[int, ...], str]] = {}
    for _, function in mod.functions_items():
        if isinstance(function, relax.Function) and "num_input" in (function.attrs or {}):
            for param in function.params[int(function.attrs["num_input"]) :]:
                if isinstance(param.ty, relax.TensorType):
                    found.setdefault(str(param.name), (tuple(int(size) for size in param.ty.shape), str(param.ty.dtype)))
    return found


def bytes_of(found: Mapping[str, tuple[tuple[int, ...], str]]) -> int:
    """Bytes of weights, as `weights` gives them."""
    return sum(math.prod(shape) * np.dtype(dtype).itemsize for shape, dtype in found.values())
