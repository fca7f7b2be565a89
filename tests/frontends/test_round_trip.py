"""Plans as styles of transformers, run by transformers itself in two processes: its logits are those of the model alone."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate")
SIZES = {"vocab_size": 96, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
MODELS = {
    "llama": (transformers.LlamaConfig, {"num_key_value_heads": 2, "attention_bias": True}),
    "mixtral": (transformers.MixtralConfig, {"num_key_value_heads": 2, "num_local_experts": 4, "num_experts_per_tok": 2}),
    "qwen3": (transformers.Qwen3Config, {"num_key_value_heads": 2, "head_dim": 8, "tie_word_embeddings": True}),
}
IDS = torch.tensor([[3, 1, 4, 1, 5, 9], [2, 6, 5, 3, 5, 8]])
WORKER = """
import json, sys
import numpy as np, torch, transformers
from transformers.distributed import DistributedConfig
folder = sys.argv[1]
config = DistributedConfig(tp_size=2, tp_plan=json.load(open(folder + "/styles.json")))
model = transformers.AutoModelForCausalLM.from_pretrained(folder, distributed_config=config).eval()
with torch.no_grad():
    logits = model(torch.tensor(json.load(open(folder + "/ids.json")))).logits
if torch.distributed.get_rank() == 0:
    np.save(folder + "/logits.npy", logits.numpy())
"""


@pytest.mark.slow
@pytest.mark.parametrize("plan", ["own", "fastest"])
@pytest.mark.parametrize("name", MODELS)
def test_transformers_gives_the_logits_of_the_model(name, plan, tmp_path):
    pytest.importorskip("transformers.distributed")
    import spmd
    from spmd.annotate.importers import from_huggingface, to_huggingface

    make, more = MODELS[name]
    torch.manual_seed(1)
    model = transformers.AutoModelForCausalLM.from_config(make(**SIZES, **more)).eval()
    imported = spmd.from_torch(model, (IDS,))
    profile = spmd.Profile("links are fast", flops=1e9, memory_bandwidth=1e8, link_bandwidth=1e11, link_latency=1e-9)
    given = {"specs": from_huggingface(model.tp_plan, model.state_dict()).specs} if plan == "own" else {"profile": profile}
    given["specs"] = {key: spec for key, spec in given.get("specs", {}).items() if key in imported.weights}
    styles = to_huggingface(spmd.plan(imported.mod, 2, **given), model=model).styles
    assert set(styles.values()) - {"replicate"}
    model.save_pretrained(tmp_path)
    (tmp_path / "styles.json").write_text(json.dumps(styles))
    (tmp_path / "ids.json").write_text(json.dumps(IDS.tolist()))
    (tmp_path / "worker.py").write_text(WORKER)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "worker.py", str(tmp_path)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, timeout=250)
    assert done.returncode == 0, done.stderr[-3000:]
    with torch.no_grad():
        expected = model(IDS).logits.numpy()
    np.testing.assert_allclose(np.load(tmp_path / "logits.npy"), expected, rtol=0, atol=1e-5)
