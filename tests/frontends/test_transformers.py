"""Models of Hugging Face transformers, tiny ones with random weights, by their own plan and by none."""

import numpy as np
import pytest

import spmd
from spmd.annotate.importers import from_huggingface

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
SIZES = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
MODELS = {
    "llama": (transformers.LlamaConfig, {"num_key_value_heads": 2}),
    "qwen3": (transformers.Qwen3Config, {"num_key_value_heads": 2, "head_dim": 8}),
    "mistral": (transformers.MistralConfig, {"num_key_value_heads": 2, "sliding_window": None}),
    "olmo2": (transformers.Olmo2Config, {"num_key_value_heads": 4}),
}


@pytest.mark.parametrize("name", MODELS)
def test_logits_are_those_of_the_model(name):
    make, more = MODELS[name]
    torch.manual_seed(1)
    model = transformers.AutoModelForCausalLM.from_config(make(**SIZES, **more, max_position_embeddings=128, use_cache=False)).eval()
    ids = torch.arange(16).reshape(2, 8) % 64
    dims = {0: torch.export.Dim("batch", max=64), 1: torch.export.Dim("tokens", max=128)}
    example = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    imported = spmd.from_torch(model, (), kwargs=example, dynamic_shapes=dict.fromkeys(example, dims))
    own = from_huggingface(model.tp_plan, model.state_dict(), workers=2)
    assert own.specs and "model.layers.0.self_attn.q_proj.weight" in own.specs
    for specs in (None, own.specs):
        sharded = spmd.shard(imported.mod, 2, specs)
        with spmd.workers(sharded) as w:
            weights = w.load(imported.named(model.state_dict()))
            for shape in ((2, 8), (3, 5)):
                ids = torch.arange(shape[0] * shape[1]).reshape(shape) * 7 % 64
                expected = model(input_ids=ids).logits.detach().numpy()
                found = np.asarray(w["main"](ids, torch.ones_like(ids), *weights))
                np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
    # Olmo 2 norms queries and keys over all heads: two sums more a layer.
    assert sum(c.kind == "all_reduce" for c in sharded.plan.collectives) == (8 if name == "olmo2" else 4)
