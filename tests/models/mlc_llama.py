"""Llama as the front end of MLC-LLM exports it for one device, with not one edit, and MLC-LLM's own plan for several.

The functions, their order, arguments and bindings are those of `LlamaForCausalLM.get_default_spec()` there.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from tvm import IRModule
from tvm.relax.frontend import nn
from tvm.relax.frontend.nn import spec
from tvm.relax.frontend.nn.llm.kv_cache import PagedKVCache

from tests.models.group_quant import GROUP
from tests.models.llama_model import DTYPE, LlamaConfig, LlamaForCausalLM, Quantization

LLAMA_2_7B = LlamaConfig(hidden=4096, intermediate=11008, heads=32, kv_heads=32, layers=32, vocab=32000)
LLAMA_2_70B = LlamaConfig(hidden=8192, intermediate=28672, heads=64, kv_heads=8, layers=80, vocab=32000)
TINY = LlamaConfig(hidden=128, intermediate=256, heads=8, kv_heads=4, layers=2, vocab=100)

SIZES = ("max_batch_size", "max_total_seq_len", "prefill_chunk_size", "page_size", "support_sliding_window")
FORWARD = ("prefill", "decode", "batch_prefill", "batch_decode", "batch_verify")
HIDDEN = tuple(f"{name}_to_last_hidden_states" for name in ("prefill", "decode", "batch_prefill", "batch_decode", "batch_verify"))
WITHOUT_WEIGHTS = ("batch_select_last_hidden_states", "create_paged_kv_cache", "softmax_with_temperature")
FUNCTIONS = (
    *("embed", "get_logits", "batch_select_last_hidden_states"),
    *("prefill", "decode", "prefill_to_last_hidden_states", "decode_to_last_hidden_states"),
    *("batch_prefill", "batch_decode", "batch_verify", *HIDDEN[2:]),
    "create_paged_kv_cache",
)


def mlc_llama(
    config: LlamaConfig,
    quantization: Quantization = "q0f16",
    *,
    packed_params: bool = True,
    symbolic_vocab: bool = True,
    layers: int | None = None,
    functions: Sequence[str] = FUNCTIONS,
) -> tuple[IRModule, list[tuple[str, nn.Parameter]]]:
    """The exported module, and the parameters in the order in which its functions take them.

    As MLC-LLM exports it by default: all weights in one tuple `packed_params`, the vocabulary size symbolic. `layers`
    cuts the model short. `functions` selects; "softmax_with_temperature" is there on request, since MLC-LLM adds that
    one after the export.
    """
    if layers is not None:
        config = replace(config, layers=layers)
    vocab = "vocab_size" if symbolic_vocab else config.vocab
    model = LlamaForCausalLM(config, quantization, vocab)
    signatures = _signatures(model, config.hidden, vocab)
    if unknown := [name for name in functions if name not in signatures]:
        raise ValueError(f"mlc_llama has no functions {unknown}; choose among {list(signatures)}")
    params = "packed" if packed_params else "plain"
    methods = [
        spec.MethodSpec(
            signatures[name].method,
            list(signatures[name].arguments),
            list(signatures[name].arguments.values()),
            param_mode="none" if name in WITHOUT_WEIGHTS else params,
            effect_mode="none",
        )
        for name in functions
    ]
    module, named, _ = model.export_tvm(spec.ModuleSpec(model, list(functions), methods), allow_extern=True)
    return module, named


class _Signature(NamedTuple):
    method: Callable[..., Any]
    arguments: dict[str, Any]


def _signatures(model: LlamaForCausalLM, hidden: int, vocab: int | str) -> dict[str, _Signature]:
    """Every function: the method that it calls and its arguments, weights left out."""
    cache = {"paged_kv_cache": spec.Object(object_type=PagedKVCache)}
    positions = {"logit_positions": spec.Tensor(["batch_size"], "int32")}
    states = {"hidden_states": spec.Tensor(["seq_len", hidden], DTYPE)}
    logits = {"logits": spec.Tensor(["batch_size", 1, vocab], "float32")}
    temperature = {"temperature": spec.Tensor(["batch_size"], "float32")}

    def embeds(name: str) -> dict[str, Any]:
        """`input_embed(s)[batch, seq, hidden]`: a prompt, one token, or one token of several sequences."""
        batch = "batch_size" if name.startswith("batch_decode") else 1
        seq = 1 if "decode" in name else "seq_len"
        return {"input_embeds" if "batch" in name else "input_embed": spec.Tensor([batch, seq, hidden], DTYPE)}

    table = {
        "embed": _Signature(model.embed, {"input_ids": spec.Tensor(["seq_len"], "int32")}),
        "get_logits": _Signature(model.get_logits, states),
        "batch_select_last_hidden_states": _Signature(model.batch_select_last_hidden_states, states | positions),
        "prefill": _Signature(model.prefill, embeds("prefill") | cache),
        "batch_prefill": _Signature(model.batch_prefill, embeds("batch_prefill") | positions | cache),
        "create_paged_kv_cache": _Signature(model.create_paged_kv_cache, dict.fromkeys(SIZES, spec.Int())),
        "softmax_with_temperature": _Signature(model.softmax_with_temperature, logits | temperature),
    }
    table |= {name: _Signature(model.decode, embeds(name) | cache) for name in FORWARD if name not in table}
    return table | {name: _Signature(model.hidden, embeds(name) | cache) for name in HIDDEN}


class Shard(NamedTuple):
    """A weight cut along `dim`; with segments, every piece of these sizes is cut evenly by itself."""

    dim: int
    segments: tuple[int, ...] | None = None


def hand_written(config: LlamaConfig, n: int, quantization: Quantization = "q0f16") -> dict[str, Shard]:
    """MLC-LLM's tensor parallelism over `n` devices, written by hand there: every weight that it cuts, by name.

    Sizes are those of the whole weight (MLC-LLM's own segments are one device's, `n` times smaller). The packed weight
    and the scale of a quantized layer are cut alike. Weights that are not named are whole on every device.
    """
    for what, size in (
        ("intermediate size", config.intermediate),
        ("heads", config.heads),
        ("KV heads", config.kv_heads),
    ):
        if size % n:
            raise ValueError(f"MLC-LLM cannot cut {what} {size} over {n} devices: {n} does not divide it")
    for size in (config.intermediate, config.qkv[0]):
        if quantization == "q4f16_1" and size // GROUP % n:
            raise ValueError(f"MLC-LLM cannot cut the {size // GROUP} groups of {size} values over {n} devices")
    layer = {
        "self_attn.qkv_proj": Shard(0, config.qkv),
        "self_attn.o_proj": Shard(1),
        "mlp.gate_up_proj": Shard(0, (config.intermediate, config.intermediate)),
        "mlp.down_proj": Shard(1),
    }
    kinds = ("weight",) if quantization == "q0f16" else ("q_weight", "q_scale")
    return {f"model.layers.{i}.{name}.{kind}": shard for i in range(config.layers) for name, shard in layer.items() for kind in kinds}


def hand_written_collectives(config: LlamaConfig, function: str) -> list[tuple[str, str]]:
    """The collectives that MLC-LLM places in `function`, in order: (kind, name of the value).

    Each layer sums the outputs of `o_proj` and `down_proj`, `[batch, seq, hidden]` in float16, before the residual is
    added. Integer inputs are broadcast from worker 0; norms, embedding, lm_head and logits are computed by all.
    """
    layer = [("all_reduce", "self_attn.o_proj"), ("all_reduce", "mlp.down_proj")]
    sums = [(kind, f"model.layers.{i}.{name}") for i in range(config.layers) for kind, name in layer]
    return {
        "embed": [("broadcast", "input_ids")],
        "batch_select_last_hidden_states": [("broadcast", "logit_positions")],
        "batch_prefill": [*sums, ("broadcast", "logit_positions")],
    }.get(function, sums if function in (*FORWARD, *HIDDEN) else [])
