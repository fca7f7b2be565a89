"""A Llama of Hugging Face on two workers: its own state_dict goes in, its own logits come out.

python examples/doors/llama.py
"""

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

import spmd

model = LlamaForCausalLM(
    LlamaConfig(vocab_size=256, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4)
).eval()
ids = torch.arange(16).reshape(2, 8)

imported = spmd.from_torch(model, (ids,))
sharded = spmd.shard(imported.mod, mesh=2, specs=spmd.presets.megatron(imported.mod))
with spmd.workers(sharded) as workers:
    weights = workers.load(imported.named(model.state_dict()))
    logits = np.asarray(workers["main"](ids, *weights))

print(sharded.plan.explain())
print(f"largest difference of a logit: {np.abs(logits - model(ids).logits.detach().numpy()).max():.1e}")
