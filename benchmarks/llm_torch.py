"""A Llama in plain PyTorch, to be measured beside ours: the model's own weights, a cache of fixed size, one sequence."""

from __future__ import annotations

import time
from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F

from examples.llm.config import LlamaConfig
from examples.llm.models.rope import rotary_frequencies

ROOM = 128
"""Tokens of the cache behind the prompt."""


class Llama:
    """`run(steps)` reads a prompt and makes so many steps: the seconds of each."""

    def __init__(self, config: LlamaConfig, weights: Mapping[str, np.ndarray], prompt: int, compiled: bool) -> None:
        self.config, self.prompt, length = config, prompt, prompt + ROOM
        self.weights = {name: torch.tensor(array) for name, array in weights.items()}
        tied = config.tie_word_embeddings
        self.weight_bytes = sum(array.nbytes for name, array in weights.items() if tied or "embed_tokens" not in name)
        half = torch.from_numpy(np.outer(np.arange(length), rotary_frequencies(config)).astype("float32"))
        self.cos, self.sin = torch.cat([half, half], -1).cos(), torch.cat([half, half], -1).sin()
        self.cache = [torch.zeros(2, config.num_key_value_heads, length, config.head_dim) for _ in range(config.num_hidden_layers)]
        self.step = torch.compile(self.forward, dynamic=False) if compiled else self.forward

    def run(self, steps: int) -> tuple[float, float]:
        with torch.inference_mode():
            begin = time.perf_counter()
            self.step(torch.arange(1000, 1000 + self.prompt), torch.arange(self.prompt))
            middle = time.perf_counter()
            for i in range(steps):
                self.step(torch.tensor([2000 + i]), torch.tensor([self.prompt + i]))
            return middle - begin, time.perf_counter() - middle

    def forward(self, ids: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
        """Logits (vocab,) after the last of `ids`, which stand at the positions `at`."""
        x = self.weights["model.embed_tokens.weight"][ids]
        for i in range(self.config.num_hidden_layers):
            layer = f"model.layers.{i}."
            x = x + self._attention(self._norm(x, f"{layer}input_layernorm"), layer, i, at)
            gate, up = self._linear(self._norm(x, f"{layer}post_attention_layernorm"), f"{layer}mlp.gate_up_proj").chunk(2, -1)
            x = x + self._linear(F.silu(gate) * up, f"{layer}mlp.down_proj")
        head = "model.embed_tokens" if self.config.tie_word_embeddings else "lm_head"
        return self._linear(self._norm(x[-1:], "model.norm"), head)[0]

    def _attention(self, x: torch.Tensor, layer: str, index: int, at: torch.Tensor) -> torch.Tensor:
        config, d = self.config, self.config.head_dim
        q, k, v = self._linear(x, f"{layer}self_attn.qkv_proj").split(config.qkv_sizes, -1)
        q, k, v = (part.view(len(x), -1, d).transpose(0, 1) for part in (q, k, v))
        cache = self.cache[index]
        cache[0].index_copy_(1, at, self._turned(k, at))
        cache[1].index_copy_(1, at, v)
        mask = torch.arange(cache.shape[2])[None, :] <= at[:, None]
        group = config.num_attention_heads // config.num_key_value_heads
        keys, values = (part.repeat_interleave(group, 0) for part in cache)
        out = F.scaled_dot_product_attention(self._turned(q, at), keys, values, attn_mask=mask)
        return self._linear(out.transpose(0, 1).reshape(len(x), -1), f"{layer}self_attn.o_proj")

    def _turned(self, x: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
        low, high = x.chunk(2, -1)
        return x * self.cos[at] + torch.cat([-high, low], -1) * self.sin[at]

    def _norm(self, x: torch.Tensor, name: str) -> torch.Tensor:
        return F.rms_norm(x, x.shape[-1:], self.weights[f"{name}.weight"], self.config.rms_norm_eps)

    def _linear(self, x: torch.Tensor, name: str) -> torch.Tensor:
        return F.linear(x, self.weights[f"{name}.weight"])
