"""OLMo 2: norms stand behind attention and MLP, and queries and keys are normalized over all heads together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from tvm.relax.frontend import nn
from tvm.relax.frontend.nn import Tensor, op

from examples.llm.config import LlamaConfig

from .causal import CausalLM
from .parts import Attention, GatedMLP, rms_norm


@dataclass(frozen=True)
class Olmo2Config(LlamaConfig):
    """Sizes of an OLMo 2."""

    MODEL_TYPES: ClassVar[tuple[str, ...]] = ("olmo2",)


class Olmo2Attention(Attention):
    """Attention whose queries, and whose keys, are normalized as one vector each."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__(config)
        self.q_norm, self.k_norm = (rms_norm(config, size) for size in config.qkv_sizes[:2])

    def projected(self, x: Tensor) -> Tensor:
        q_size, kv_size, _ = self.config.qkv_sizes
        q, k, v = op.split(self.qkv_proj(x), [q_size, q_size + kv_size], axis=-1)
        return op.concat([self.q_norm(q), self.k_norm(k), v], dim=-1)


class Olmo2Layer(nn.Module):
    """A layer whose norms stand behind what they normalize."""

    def __init__(self, config: LlamaConfig) -> None:
        self.self_attn, self.mlp = Olmo2Attention(config), GatedMLP(config)
        self.post_attention_layernorm, self.post_feedforward_layernorm = rms_norm(config), rms_norm(config)

    def forward(self, x: Tensor, *context: Any) -> Tensor:
        x = x + self.post_attention_layernorm(self.self_attn(x, *context))
        return x + self.post_feedforward_layernorm(self.mlp(x))


class Olmo2(CausalLM):
    """The model of OLMo 2."""

    Config = Olmo2Config

    def layer(self, index: int) -> nn.Module:
        return Olmo2Layer(self.config)
