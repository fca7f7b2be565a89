"""What a decoder is: sizes and constants, from a preset, a Hugging Face `config.json` or GGUF metadata."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

from .errors import ModelError, optional_size, require, require_size

LLAMA3_ROPE_KEYS = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")


Config = TypeVar("Config", bound="LlamaConfig")


@dataclass(frozen=True)
class LlamaConfig:
    """Sizes of a Llama; other architectures add theirs. `rope_scaling` is empty, or Llama 3's: `rope_type` and LLAMA3_ROPE_KEYS."""

    MODEL_TYPES: ClassVar[tuple[str, ...]] = ("llama", "mistral")
    """What `model_type` may be in a Hugging Face configuration."""
    EXPECTED: ClassVar[Mapping[str, Any]] = {"hidden_act": "silu", "attention_bias": False, "mlp_bias": False}
    """Keys of a Hugging Face configuration that must have this value where they stand."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    vocab_size: int
    head_dim: int
    rms_norm_eps: float = 1e-5
    rope_theta: float = 10000.0
    rope_scaling: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    max_position_embeddings: int = 2048
    tie_word_embeddings: bool = False
    dtype: str = "float32"
    model_type: str = "llama"
    sliding_window: int = 0
    """How many tokens a layer looks back, itself included; 0: all."""
    rotary_dim: int = 0
    """The dimensions of a head that turn; 0: all."""
    score_cap: float = 0.0
    """What scores of attention are capped to, `cap * tanh(score / cap)`; 0: they are not."""

    def __post_init__(self) -> None:
        """Raises ModelError where the sizes do not fit each other."""
        if self.num_attention_heads % self.num_key_value_heads:
            sharing = f"{self.num_attention_heads} attention heads cannot share {self.num_key_value_heads} key/value heads"
            raise ModelError(type(self).__name__, sharing, "The first must be a multiple of the second.")
        if self.head_dim % 2:
            raise ModelError(type(self).__name__, f"head_dim is {self.head_dim}", "Rotary embeddings need an even one.")
        if self.dtype not in ("float32", "float16"):
            raise ModelError(type(self).__name__, f"dtype '{self.dtype}' is not supported", "Use float32 or float16.")

    @property
    def qkv_sizes(self) -> tuple[int, int, int]:
        """Rows of q, k and v in the fused projection."""
        kv = self.num_key_value_heads * self.head_dim
        return self.num_attention_heads * self.head_dim, kv, kv

    @property
    def layer_windows(self) -> tuple[int, ...]:
        """How far each layer looks back, as `sliding_window` says it."""
        return (self.sliding_window,) * self.num_hidden_layers

    def with_dtype(self: Config, dtype: str) -> Config:
        """The same model in another element type."""
        return dataclasses.replace(self, dtype=dtype)

    @staticmethod
    def preset(name: str) -> LlamaConfig:
        """A model by name, see PRESETS; raises ModelError with the list of names."""
        if name not in PRESETS:
            raise ModelError("LlamaConfig.preset", f"there is no '{name}'", f"Use one of: {', '.join(PRESETS)}.")
        return PRESETS[name]

    @classmethod
    def from_hf(cls: type[Config], config: Mapping[str, Any], source: str = "config.json") -> Config:
        """From the contents of a Hugging Face `config.json`; raises ModelError for what this model does not do."""
        kind = config.get("model_type")
        if kind not in cls.MODEL_TYPES:
            raise ModelError(source, f"model_type '{kind}' is not supported", f"Use a model of type '{cls.MODEL_TYPES[0]}'.")
        for key, wanted in cls.EXPECTED.items():
            if config.get(key, wanted) != wanted:
                raise ModelError(source, f"{key} is {config[key]!r}", f"Use a model where it is {wanted!r}.")
        return cls(**cls.hf_fields(config, source))

    @classmethod
    def hf_fields(cls, config: Mapping[str, Any], source: str) -> dict[str, Any]:
        """{field: value} of what stands in a `config.json`; an architecture adds and changes what it has of its own."""
        hidden, heads = require_size(config, "hidden_size", source), require_size(config, "num_attention_heads", source)
        rope = rope_of(config)
        head_dim = optional_size(config, "head_dim", source, hidden // heads)
        turning = int(head_dim * (config.get("partial_rotary_factor") or rope.get("partial_rotary_factor") or 1.0))
        return {
            "hidden_size": hidden,
            "intermediate_size": require_size(config, "intermediate_size", source),
            "num_hidden_layers": require_size(config, "num_hidden_layers", source),
            "num_attention_heads": heads,
            "num_key_value_heads": optional_size(config, "num_key_value_heads", source, heads),
            "vocab_size": require_size(config, "vocab_size", source),
            "head_dim": head_dim,
            "rms_norm_eps": config.get("rms_norm_eps", 1e-6),
            "rope_theta": float(config.get("rope_theta", rope.get("rope_theta", 10000.0))),
            "rope_scaling": _rope_scaling(rope, source),
            "max_position_embeddings": optional_size(config, "max_position_embeddings", source, 2048),
            "tie_word_embeddings": config.get("tie_word_embeddings", False),
            "model_type": config["model_type"],
            "sliding_window": config.get("sliding_window") or 0,
            "rotary_dim": turning if turning < head_dim else 0,
        }

    @staticmethod
    def from_gguf(metadata: Mapping[str, Any], tensors: Mapping[str, Any], source: str = "model.gguf") -> LlamaConfig:
        """From GGUF metadata and its tensors by name (their names say whether embeddings are tied).

        The vocabulary size is the length of the token list where `llama.vocab_size` is missing.
        """
        kind = metadata.get("general.architecture")
        if kind != "llama":
            raise ModelError(source, f"architecture '{kind}' is not supported", "Use a GGUF file of a 'llama' model.")
        scaling = metadata.get("llama.rope.scaling.type", "none")
        if scaling != "none" or "rope_freqs.weight" in tensors:
            name = "rope_freqs.weight" if "rope_freqs.weight" in tensors else scaling
            raise ModelError(source, f"RoPE scaling '{name}' is not supported", "Use the model's Hugging Face folder.")
        if metadata.get("llama.expert_count", 0):
            experts = metadata["llama.expert_count"]
            raise ModelError(source, f"a mixture of {experts} experts is not supported", "Use a dense model.")
        hidden = require_size(metadata, "llama.embedding_length", source)
        heads = require_size(metadata, "llama.attention.head_count", source)
        head_dim = optional_size(metadata, "llama.attention.key_length", source, hidden // heads)
        rotary_dim = metadata.get("llama.rope.dimension_count", head_dim)
        if rotary_dim != head_dim:
            part = f"RoPE turns {rotary_dim} of the {head_dim} dimensions of a head"
            raise ModelError(source, part, "Use a model where it turns all.")
        return LlamaConfig(
            hidden_size=hidden,
            intermediate_size=require_size(metadata, "llama.feed_forward_length", source),
            num_hidden_layers=require_size(metadata, "llama.block_count", source),
            num_attention_heads=heads,
            num_key_value_heads=optional_size(metadata, "llama.attention.head_count_kv", source, heads),
            vocab_size=metadata.get("llama.vocab_size") or len(require(metadata, "tokenizer.ggml.tokens", source)),
            head_dim=head_dim,
            rms_norm_eps=require(metadata, "llama.attention.layer_norm_rms_epsilon", source),
            rope_theta=float(metadata.get("llama.rope.freq_base", 10000.0)),
            max_position_embeddings=optional_size(metadata, "llama.context_length", source, 2048),
            tie_word_embeddings="output.weight" not in tensors,
        )


def rope_of(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The RoPE dictionary of a Hugging Face configuration, which stands under either of two names."""
    return config.get("rope_parameters") or config.get("rope_scaling") or {}


def _rope_scaling(rope: Mapping[str, Any], source: str) -> dict[str, Any]:
    """The supported part of a Hugging Face RoPE dictionary: empty, or Llama 3's; raises ModelError otherwise."""
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind == "default":
        return {}
    if kind != "llama3":
        raise ModelError(source, f"RoPE scaling '{kind}' is not supported", "Use a model with none, or with 'llama3'.")
    return {"rope_type": kind, **{key: require(rope, key, source) for key in LLAMA3_ROPE_KEYS}}


def _llama(hidden: int, ffn: int, layers: int, heads: int, kv: int, vocab: int, **more: Any) -> LlamaConfig:
    """A preset whose head size is hidden/heads."""
    return LlamaConfig(hidden, ffn, layers, heads, kv, vocab, hidden // heads, **more)


_LLAMA3_ROPE = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}

PRESETS: dict[str, LlamaConfig] = {
    "tiny": _llama(48, 80, 2, 6, 3, 64, max_position_embeddings=128, tie_word_embeddings=True),
    "smollm2-135m": _llama(576, 1536, 30, 9, 3, 49152, rope_theta=1e5, max_position_embeddings=8192, tie_word_embeddings=True),
    "llama-2-7b": _llama(4096, 11008, 32, 32, 32, 32000, max_position_embeddings=4096),
    "llama-2-13b": _llama(5120, 13824, 40, 40, 40, 32000, max_position_embeddings=4096),
    "llama-2-70b": _llama(8192, 28672, 80, 64, 8, 32000, max_position_embeddings=4096),
    "codellama-34b": _llama(8192, 22016, 48, 64, 8, 32000, rope_theta=1e6, max_position_embeddings=16384),
    "llama-3.1-8b": _llama(4096, 14336, 32, 32, 8, 128256, rope_theta=5e5, rope_scaling=_LLAMA3_ROPE, max_position_embeddings=131072),
    "llama-3.1-70b": _llama(8192, 28672, 80, 64, 8, 128256, rope_theta=5e5, rope_scaling=_LLAMA3_ROPE, max_position_embeddings=131072),
    "llama-3.1-405b": _llama(16384, 53248, 126, 128, 8, 128256, rope_theta=5e5, rope_scaling=_LLAMA3_ROPE, max_position_embeddings=131072),
}
