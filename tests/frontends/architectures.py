"""Tiny configurations of Hugging Face transformers, as data: what each model is made of, and what it is given."""

from __future__ import annotations

from typing import Any

TEXT = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4}
TEXT |= {"max_position_embeddings": 64, "use_cache": False, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
GROUPED = {"num_key_value_heads": 2, "head_dim": 8}
EXPERTS = {"num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
OLD = {"vocab_size": 64, "n_embd": 32, "n_layer": 1, "n_head": 4, "n_positions": 64, "use_cache": False}
LATENT = {"q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 4, "qk_nope_head_dim": 8, "v_head_dim": 8, "head_dim": 4}
LATENT |= {"n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24, "n_group": 1, "topk_group": 1}
STATE = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 1, "state_size": 4, "use_cache": False}
BOTH = {"vocab_size": 64, "d_model": 32, "max_position_embeddings": 64, "use_cache": False, "pad_token_id": 0, "bos_token_id": 1}
BOTH |= {"encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 4, "decoder_attention_heads": 4, "eos_token_id": 2}
BOTH |= {"encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "decoder_start_token_id": 2, "forced_eos_token_id": None}
T5 = {"vocab_size": 64, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 1, "num_heads": 4, "use_cache": False}
PICTURE = {"image_size": 16, "patch_size": 8, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4}
SPEECH = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4, "conv_dim": (16, 16)}
SPEECH |= {"conv_kernel": (4, 4), "conv_stride": (4, 4), "num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2}
STAGES = {"embed_dim": 16, "depths": [1, 1], "num_heads": [2, 4], "image_size": 32, "patch_size": 4, "window_size": 4}
TOWERS = {"text_config": {**TEXT, "projection_dim": 16}, "vision_config": {**PICTURE, "projection_dim": 16}, "projection_dim": 16}

CAUSAL: dict[str, dict[str, Any]] = {
    **dict.fromkeys(("llama", "qwen2", "qwen3", "gemma", "glm", "glm4", "ernie4_5", "granite", "smollm3", "arcee"), TEXT | GROUPED),
    **dict.fromkeys(("hunyuan_v1_dense", "seed_oss", "apertus", "nemotron", "diffllama", "cohere", "stablelm"), TEXT | GROUPED),
    **dict.fromkeys(
        ("helium", "ministral", "olmo", "olmo2", "phi", "phi3", "persimmon", "starcoder2", "exaone4", "nanochat"), TEXT | GROUPED
    ),
    "mistral": TEXT | GROUPED | {"sliding_window": 4},
    "gemma2": TEXT | GROUPED | {"query_pre_attn_scalar": 8, "sliding_window": 4},
    "gemma3_text": TEXT | GROUPED | {"query_pre_attn_scalar": 8, "sliding_window": 4},
    "vaultgemma": TEXT | GROUPED | {"query_pre_attn_scalar": 8, "sliding_window": 4},
    "olmo3": TEXT | GROUPED | {"sliding_window": 4},
    "cohere2": TEXT | GROUPED | {"sliding_window": 4},
    "cwm": TEXT | GROUPED | {"sliding_window": 4, "layer_types": ["full_attention"]},
    "lfm2": TEXT | GROUPED | {"layer_types": ["full_attention"], "block_auto_adjust_ff_dim": False},
    "mixtral": TEXT | GROUPED | EXPERTS,
    "qwen2_moe": TEXT | GROUPED | EXPERTS | {"shared_expert_intermediate_size": 24},
    "qwen3_moe": TEXT | GROUPED | EXPERTS,
    "olmoe": TEXT | GROUPED | EXPERTS,
    "flex_olmo": TEXT | GROUPED | EXPERTS,
    "granitemoe": TEXT | GROUPED | EXPERTS,
    "phimoe": TEXT | GROUPED | EXPERTS,
    "gpt_oss": TEXT | GROUPED | EXPERTS | {"sliding_window": 4},
    "minimax": TEXT | GROUPED | EXPERTS | {"layer_types": ["full_attention"]},
    "glm4_moe": TEXT | GROUPED | LATENT | {"head_dim": 8, "first_k_dense_replace": 0},
    "dots1": TEXT | GROUPED | LATENT | {"head_dim": 8, "first_k_dense_replace": 0, "n_shared_experts": 1},
    "deepseek_v2": TEXT | LATENT | {"first_k_dense_replace": 0, "num_key_value_heads": 4},
    "deepseek_v3": TEXT | LATENT | {"first_k_dense_replace": 0, "num_key_value_heads": 4},
    "llama4_text": TEXT | GROUPED | EXPERTS | {"intermediate_size_mlp": 48, "no_rope_layers": [1], "attention_chunk_size": 8},
    "qwen3_next": TEXT | GROUPED | EXPERTS | {"layer_types": ["full_attention"], "shared_expert_intermediate_size": 24},
    "gpt2": OLD,
    "gpt_bigcode": OLD,
    "gptj": OLD | {"rotary_dim": 4},
    "codegen": OLD | {"rotary_dim": 4},
    "openai-gpt": OLD,
    "ctrl": OLD | {"dff": 48},
    "gpt_neo": TEXT | {"num_layers": 1, "num_heads": 4, "attention_types": [[["global"], 1]]},
    "gpt_neox": TEXT,
    "opt": TEXT | {"ffn_dim": 48, "word_embed_proj_dim": 32},
    "bloom": {"vocab_size": 64, "hidden_size": 32, "n_layer": 1, "n_head": 4, "use_cache": False},
    "mpt": {"vocab_size": 64, "d_model": 32, "n_layers": 1, "n_heads": 4, "max_seq_len": 64, "use_cache": False},
    "falcon": TEXT | {"new_decoder_architecture": True, "num_kv_heads": 2, "alibi": False},
    "biogpt": TEXT,
    "xglm": TEXT | {"d_model": 32, "ffn_dim": 48, "num_layers": 1, "attention_heads": 4},
    "modernbert-decoder": TEXT | {"local_attention": 4},
    "mamba": STATE,
    "falcon_mamba": STATE,
    "mamba2": STATE | {"num_heads": 8, "head_dim": 8, "n_groups": 2, "chunk_size": 4},
    "recurrent_gemma": TEXT | GROUPED | {"lru_width": 32, "block_types": ["attention"], "attention_window_size": 8},
    "jamba": TEXT | GROUPED | EXPERTS | {"use_mamba_kernels": False, "mamba_d_state": 4, "attn_layer_period": 1, "attn_layer_offset": 0},
    "bamba": TEXT | GROUPED | {"attn_layer_indices": [0], "mamba_n_heads": 8, "mamba_d_head": 8},
}
ENCODERS: dict[str, dict[str, Any]] = {
    **dict.fromkeys(("bert", "roberta", "camembert", "xlm-roberta", "electra", "mpnet", "ernie", "megatron-bert", "layoutlm"), TEXT),
    "albert": TEXT | {"embedding_size": 16},
    "roformer": TEXT | {"embedding_size": 32},
    "rembert": TEXT | {"input_embedding_size": 16, "output_embedding_size": 16},
    "convbert": TEXT | {"embedding_size": 32},
    "fnet": TEXT,
    "nystromformer": TEXT | {"num_landmarks": 8, "segment_means_seq_len": 8},
    "distilbert": {"vocab_size": 64, "dim": 32, "hidden_dim": 48, "n_layers": 1, "n_heads": 4, "max_position_embeddings": 64},
    "deberta-v2": TEXT,
    "modernbert": TEXT | {"local_attention": 4},
    "squeezebert": TEXT | {"embedding_size": 32},
    "mobilebert": TEXT | {"embedding_size": 32, "intra_bottleneck_size": 32, "true_hidden_size": 32},
    "esm": TEXT | {"mask_token_id": 3, "position_embedding_type": "rotary"},
    "eurobert": TEXT | GROUPED,
    "nomic_bert": TEXT | {"n_embd": 32},
    "xlnet": {"vocab_size": 64, "d_model": 32, "n_layer": 1, "n_head": 4, "d_inner": 48, "use_mems_eval": False},
    "longformer": TEXT | {"attention_window": 4},
}
SEQUENCES: dict[str, dict[str, Any]] = {
    **dict.fromkeys(("bart", "mbart", "pegasus", "marian", "m2m_100", "blenderbot", "blenderbot-small"), BOTH),
    **dict.fromkeys(("t5", "mt5", "umt5"), T5),
    "switch_transformers": T5 | {"num_experts": 4, "num_sparse_encoder_layers": 1, "num_sparse_decoder_layers": 1},
    "prophetnet": {k: v for k, v in TEXT.items() if k not in ("num_hidden_layers", "num_attention_heads")}
    | {"num_encoder_layers": 1, "num_decoder_layers": 1, "num_encoder_attention_heads": 4, "num_decoder_attention_heads": 4},
}
PICTURES: dict[str, dict[str, Any]] = {
    **dict.fromkeys(("vit", "deit", "beit", "dinov2", "ijepa", "vit_msn", "dinov3_vit", "siglip_vision_model"), PICTURE),
    "clip_vision_model": PICTURE,
    "yolos": PICTURE | {"image_size": [16, 16], "num_detection_tokens": 4},
    "swin": STAGES,
    "swinv2": STAGES,
    "focalnet": {"embed_dim": 16, "depths": [1, 1], "image_size": 32, "focal_levels": [2, 2], "focal_windows": [3, 3]},
    "convnext": {"hidden_sizes": [16, 32], "depths": [1, 1], "num_stages": 2},
    "convnextv2": {"hidden_sizes": [16, 32], "depths": [1, 1], "num_stages": 2},
    "resnet": {"embedding_size": 16, "hidden_sizes": [16, 32], "depths": [1, 1]},
    "regnet": {"embedding_size": 16, "hidden_sizes": [16, 32], "depths": [1, 1], "groups_width": 8},
    "bit": {"embedding_size": 32, "hidden_sizes": [32, 64], "depths": [1, 1], "num_groups": 8},
    "mobilenet_v1": {"depth_multiplier": 0.25, "image_size": 32},
    "mobilenet_v2": {"depth_multiplier": 0.35, "image_size": 32},
    "segformer": {"hidden_sizes": [16, 32], "depths": [1, 1], "num_encoder_blocks": 2, "num_attention_heads": [2, 4], "sr_ratios": [2, 1]}
    | {"patch_sizes": [7, 3], "strides": [4, 2], "mlp_ratios": [2, 2]},
    "poolformer": {"hidden_sizes": [16, 32], "depths": [1, 1], "num_encoder_blocks": 2, "patch_sizes": [7, 3]}
    | {"strides": [4, 2], "padding": [2, 1]},
    "pvt": {"hidden_sizes": [16, 32], "depths": [1, 1], "num_encoder_blocks": 2, "num_attention_heads": [2, 4], "patch_sizes": [4, 2]}
    | {"strides": [4, 2], "sequence_reduction_ratios": [2, 1], "mlp_ratios": [2, 2], "image_size": 32},
    "efficientnet": {"image_size": 32, "width_coefficient": 0.25, "depth_coefficient": 0.25, "hidden_dim": 320},
    "hiera": {"embed_dim": 16, "image_size": [32, 32], "depths": [1, 1], "num_heads": [1, 2], "num_query_pool": 1, "patch_kernel": [7, 7]},
}
VOICES: dict[str, dict[str, Any]] = {
    **dict.fromkeys(("wav2vec2", "hubert", "wavlm", "unispeech-sat", "data2vec-audio"), SPEECH),
}
OTHERS: dict[str, dict[str, Any]] = {
    "clip": TOWERS,
    "siglip": TOWERS,
    "whisper": BOTH | {"num_mel_bins": 8, "max_source_positions": 8, "max_target_positions": 16, "median_filter_width": 3},
    "audio-spectrogram-transformer": PICTURE | {"num_mel_bins": 16, "max_length": 32},
    "videomae": PICTURE | {"num_frames": 4},
}
TABLES = {"causal": CAUSAL, "encoder": ENCODERS, "sequences": SEQUENCES, "picture": PICTURES, "voice": VOICES, "other": OTHERS}
CONFIGURATIONS = {f"{kind} {name}": settings for kind, table in TABLES.items() for name, settings in table.items()}
REFUSED = {
    "encoder fnet": "TVM's importer does not know .*aten._fft_c2c.default",
    "encoder longformer": "torch.export cannot export it: GuardOnDataDependentSymNode",
    "sequences switch_transformers": "torch.export cannot export it: RuntimeError: _apply",
}
"""What `from_torch` refuses, and with which words."""


def made(transformers: Any, torch: Any, name: str) -> tuple[Any, dict[str, Any]]:
    """A model with random weights and an example of what it takes, by name."""
    kind, kind_of_model = name.split()
    torch.manual_seed(1)
    config = transformers.AutoConfig.for_model(kind_of_model, **CONFIGURATIONS[name])
    auto = {"causal": transformers.AutoModelForCausalLM, "sequences": transformers.AutoModelForSeq2SeqLM}.get(kind, transformers.AutoModel)
    if kind_of_model == "whisper":
        auto = transformers.AutoModelForSpeechSeq2Seq
    model = auto.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # norms and biases that matter, which fresh ones do not
            parameter.add_(torch.randn_like(parameter) * 0.1)
    ids = torch.arange(16).reshape(2, 8) * 7 % 61 + 3
    text = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    side = getattr(config, "image_size", 32)
    picture = torch.randn(2, 3, *([side, side] if isinstance(side, int) else side))
    given = {
        "causal": text,
        "encoder": text,
        "sequences": {**text, "decoder_input_ids": ids[:, :6]},
        "picture": {"pixel_values": picture},
        "voice": {"input_values": torch.randn(2, 320)},
        "clip": {**text, "pixel_values": torch.randn(2, 3, 16, 16)},
        "siglip": {**text, "pixel_values": torch.randn(2, 3, 16, 16)},
        "whisper": {"input_features": torch.randn(2, 8, 16), "decoder_input_ids": ids[:, :6]},
        "audio-spectrogram-transformer": {"input_values": torch.randn(2, 32, 16)},
        "videomae": {"pixel_values": torch.randn(2, 4, 3, 16, 16)},
    }
    return model, given[kind_of_model if kind == "other" else kind]
