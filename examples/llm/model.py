"""The module of a model with a paged key/value cache, for one device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import tvm
from tvm import relax
from tvm.relax.frontend import nn
from tvm.relax.frontend.nn.llm.kv_cache import PagedKVCache
from tvm.target import Target

from spmd.transform import CapScores

from .config import LlamaConfig
from .errors import ModelError
from .models import model_class

METHODS = (
    "embed", "prefill", "extend", "decode", "batch_prefill", "batch_extend", "batch_decode", "batch_verify", "create_paged_kv_cache",
)  # fmt: skip
"""Functions; only models that read the rest of a sequence in another way than its beginning have `extend` and `batch_extend`."""


def build_module(
    config: LlamaConfig,
    target: str | Target = "llvm",
    methods: Sequence[str] = METHODS,
    param_mode: str = "plain",
) -> tuple[tvm.IRModule, dict[str, tuple[tuple[int, ...], str]]]:
    """The module, and its weights in parameter order: {name: (shape, dtype)}. No weight is loaded or allocated.

    Weights follow the inputs in every function but create_paged_kv_cache, as variables (`param_mode="plain"`) or as one
    tuple ("packed"); the attribute `num_input` counts the inputs.
    Raises ModelError for an unknown method.
    """
    unknown = set(methods) - set(METHODS)
    if unknown:
        raise ModelError("methods", f"there is no {', '.join(sorted(unknown))}", f"Use some of: {', '.join(METHODS)}.")
    hidden, dtype = config.hidden_size, config.dtype
    mode = {"param_mode": param_mode, "effect_mode": "none"}
    cache = nn.spec.Object(object_type=PagedKVCache)
    specs: dict[str, dict[str, Any]] = {
        "embed": {"input_ids": nn.spec.Tensor(["seq_len"], "int32"), "$": mode},
        "prefill": {"input_embed": nn.spec.Tensor([1, "seq_len", hidden], dtype), "cache": cache, "$": mode},
        "decode": {"input_embed": nn.spec.Tensor([1, 1, hidden], dtype), "cache": cache, "$": mode},
        "batch_prefill": {
            "input_embeds": nn.spec.Tensor([1, "seq_len", hidden], dtype),
            "logit_positions": nn.spec.Tensor(["batch_size"], "int32"),
            "cache": cache,
            "$": mode,
        },
        "batch_decode": {"input_embeds": nn.spec.Tensor(["batch_size", 1, hidden], dtype), "cache": cache, "$": mode},
        "batch_verify": {"input_embeds": nn.spec.Tensor([1, "verify_len", hidden], dtype), "cache": cache, "$": mode},
        "create_paged_kv_cache": {
            "max_batch_size": int,
            "max_total_seq_len": int,
            "prefill_chunk_size": int,
            "page_size": int,
            "support_sliding_window": int,
            "$": {"param_mode": "none", "effect_mode": "none"},
        },
    }
    specs |= {"extend": specs["prefill"], "batch_extend": specs["batch_prefill"]}
    model = model_class(config.model_type)(config)
    model.to(dtype)
    asked = {name: specs[name] for name in METHODS if name in methods and hasattr(model, name)}
    with Target(target) if isinstance(target, str) else target:  # the kernels of the cache are made for it
        mod, params = model.export_tvm(asked)
    if config.score_cap and "create_paged_kv_cache" in methods:
        mod = CapScores(config.score_cap)(mod)
    return mod, weight_shapes(params)


def bounded(mod: tvm.IRModule, bounds: Mapping[str, int]) -> tvm.IRModule:
    """`mod` with the promise that the sizes called so are never larger: storage is planned when it is compiled, and what is larger at
    run time is an error.
    """
    functions = dict(mod.functions_items())
    for var, function in functions.items():
        if isinstance(function, relax.Function) and "num_input" in (function.attrs or {}):
            functions[var] = function.with_attr("tir_var_upper_bound", dict(bounds))
    return tvm.IRModule(functions, attrs=mod.attrs, global_infos=mod.global_infos)


def weight_shapes(params: list[tuple[str, nn.Parameter]]) -> dict[str, tuple[tuple[int, ...], str]]:
    """{name: (shape, dtype)} of the parameters that an export returns."""
    return {name: (tuple(int(size) for size in param.shape), str(param.dtype)) for name, param in params}
