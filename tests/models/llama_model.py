"""Llama on `relax.frontend.nn`, with the layers, operators and parameter names of MLC-LLM's `llama_model.py`.

Written anew; nothing in it knows of parallelism. `mlc_llama.py` exports it.
"""

import json
from dataclasses import dataclass
from typing import Literal

import tvm
from tvm import relax, te, tirx
from tvm.relax.frontend import nn
from tvm.relax.frontend.nn import op
from tvm.relax.frontend.nn.llm.kv_cache import PagedKVCache, RopeMode

from tests.models.group_quant import QuantizedEmbedding, QuantizedLinear

Quantization = Literal["q0f16", "q4f16_1"]
DTYPE = "float16"


@dataclass(frozen=True)
class LlamaConfig:
    """Sizes of a Llama model."""

    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    layers: int
    vocab: int
    rms_norm_eps: float = 1e-5
    rope_theta: int = 10_000
    tied: bool = False

    @property
    def head_dim(self) -> int:
        return self.hidden // self.heads

    @property
    def qkv(self) -> tuple[int, int, int]:
        """Rows of q, k and v in the fused weight."""
        return self.heads * self.head_dim, self.kv_heads * self.head_dim, self.kv_heads * self.head_dim


def linear(columns: int, rows: int | str, quantization: Quantization) -> nn.Module:
    """A layer `x[..., columns] -> [..., rows]` without bias."""
    if quantization == "q0f16":
        return nn.Linear(columns, rows, bias=False, dtype=DTYPE)
    return QuantizedLinear(rows, columns)


def rms_norm(config: LlamaConfig) -> nn.RMSNorm:
    return nn.RMSNorm(config.hidden, -1, config.rms_norm_eps, bias=False, dtype=DTYPE)


class Embedding(nn.Embedding):
    """`ids[n] -> [n, hidden]`; tied models use the table as the output weight as well."""

    def lm_head_forward(self, x: nn.Tensor) -> nn.Tensor:
        """`x[..., hidden] -> float32[..., vocab]`."""
        return op.matmul(x, op.permute_dims(self.weight), out_dtype="float32")


class Attention(nn.Module):
    """Fused QKV projection, attention on the paged KV cache, output projection."""

    def __init__(self, config: LlamaConfig, quantization: Quantization) -> None:
        self.config = config
        self.qkv_proj = linear(config.hidden, sum(config.qkv), quantization)
        self.o_proj = linear(config.qkv[0], config.hidden, quantization)

    def forward(self, x: nn.Tensor, cache: PagedKVCache, layer: int) -> nn.Tensor:
        c = self.config
        batch, seq, _ = x.shape
        qkv = op.reshape(self.qkv_proj(x), (batch, seq, c.heads + 2 * c.kv_heads, c.head_dim))
        out = cache.attention_with_fused_qkv(layer, qkv, c.heads, sm_scale=c.head_dim**-0.5)
        return self.o_proj(op.reshape(out, (batch, seq, c.heads * c.head_dim)))


class FeedForward(nn.Module):
    """Fused gate and up projection, split, SiLU, product, down projection."""

    def __init__(self, config: LlamaConfig, quantization: Quantization) -> None:
        self.gate_up_proj = linear(config.hidden, 2 * config.intermediate, quantization)
        self.down_proj = linear(config.intermediate, config.hidden, quantization)

    def forward(self, x: nn.Tensor) -> nn.Tensor:
        gate, up = op.split(self.gate_up_proj(x), 2, axis=-1)
        return self.down_proj(op.silu(gate) * up)


class DecoderLayer(nn.Module):
    """`x[batch, seq, hidden] -> [batch, seq, hidden]`."""

    def __init__(self, config: LlamaConfig, quantization: Quantization) -> None:
        self.self_attn = Attention(config, quantization)
        self.mlp = FeedForward(config, quantization)
        self.input_layernorm = rms_norm(config)
        self.post_attention_layernorm = rms_norm(config)

    def forward(self, x: nn.Tensor, cache: PagedKVCache, layer: int) -> nn.Tensor:
        x = self.self_attn(self.input_layernorm(x), cache, layer) + x
        return self.mlp(self.post_attention_layernorm(x)) + x


class Model(nn.Module):
    """Embedding table, decoder layers, last norm."""

    def __init__(self, config: LlamaConfig, quantization: Quantization, vocab: int | str) -> None:
        if quantization == "q0f16":
            self.embed_tokens = Embedding(vocab, config.hidden, DTYPE)
        else:
            self.embed_tokens = QuantizedEmbedding(vocab, config.hidden)
        self.layers = nn.ModuleList([DecoderLayer(config, quantization) for _ in range(config.layers)])
        self.norm = rms_norm(config)

    def forward(self, x: nn.Tensor, cache: PagedKVCache) -> nn.Tensor:
        for i, layer in enumerate(self.layers):
            x = layer(x, cache, i)
        return self.norm(x)


class LlamaForCausalLM(nn.Module):
    """The methods that become functions of the module, each for one or several of their names."""

    def __init__(self, config: LlamaConfig, quantization: Quantization, vocab: int | str) -> None:
        self.config = config
        self.model = Model(config, quantization, vocab)
        if not config.tied:
            self.lm_head = linear(config.hidden, vocab, quantization)

    def embed(self, input_ids: nn.Tensor) -> nn.Tensor:
        return self.model.embed_tokens(input_ids)

    def get_logits(self, hidden_states: nn.Tensor) -> nn.Tensor:
        head = self.model.embed_tokens.lm_head_forward if self.config.tied else self.lm_head
        logits = head(hidden_states)
        return logits if logits.dtype == "float32" else logits.astype("float32")

    def batch_select_last_hidden_states(self, hidden_states: nn.Tensor, logit_positions: nn.Tensor) -> nn.Tensor:
        return op.take(hidden_states, logit_positions, axis=0)

    def hidden(self, x: nn.Tensor, cache: PagedKVCache) -> tuple[nn.Tensor, PagedKVCache]:
        return self.model(x, cache), cache

    def decode(self, x: nn.Tensor, cache: PagedKVCache) -> tuple[nn.Tensor, PagedKVCache]:
        return self.get_logits(self.model(x, cache)), cache

    def prefill(self, x: nn.Tensor, cache: PagedKVCache) -> tuple[nn.Tensor, PagedKVCache]:
        def last(x: te.Tensor) -> te.Tensor:
            batch, seq, hidden = x.shape
            return te.compute((batch, 1, hidden), lambda i, _, k: x[i, seq - 1, k], name="index")

        x = op.tensor_expr_op(last, "index", [self.model(x, cache)])
        return self.get_logits(x), cache

    def batch_prefill(self, x: nn.Tensor, logit_positions: nn.Tensor, cache: PagedKVCache) -> tuple[nn.Tensor, PagedKVCache]:
        x = op.take(self.model(x, cache), logit_positions, axis=1)
        return self.get_logits(x), cache

    def create_paged_kv_cache(self, *sizes: tirx.Var) -> PagedKVCache:
        """The call that a later pass of MLC-LLM replaces with a cache for the target. `sizes`: `mlc_llama.SIZES`."""
        c = self.config
        numbers = [c.layers, c.heads, c.kv_heads, c.head_dim, c.head_dim, 0, 0, RopeMode.NORMAL, 1, c.rope_theta]
        call = relax.call_pure_packed(
            "mlc.create_paged_kv_cache_generic",
            tvm.ir.StringImm("mha"),
            relax.ShapeExpr(list(sizes)),
            relax.ShapeExpr([0, c.layers]),
            *[relax.prim_value(int(number)) for number in numbers],
            tvm.ir.StringImm(json.dumps({})),
            relax.prim_value(0),
            relax.prim_value(c.head_dim),
            relax.prim_value(0),
            tvm.ir.GenericConst(tvm.DataType(DTYPE), relax.AnyType()),
            ty_args=relax.AnyType(),
        )
        return PagedKVCache(_expr=call, _name="paged_kv_cache")

    def softmax_with_temperature(self, logits: nn.Tensor, temperature: nn.Tensor) -> nn.Tensor:
        """`float32[batch, 1, vocab]`. MLC-LLM adds this function after the export, as two kernels of its own."""
        return op.softmax(logits / op.reshape(temperature, (temperature.shape[0], 1, 1)), axis=-1)
