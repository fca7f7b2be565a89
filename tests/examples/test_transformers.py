"""Each architecture, on one worker and on several, against Hugging Face transformers' own logits, from files that it writes.

Skipped where transformers is not installed.
"""

import numpy as np
import pytest

from examples.llm.engine import shard, start
from examples.llm.source import open_model
from tests.examples.architectures import SETTINGS, config_of
from tests.examples.test_architectures import sharded

transformers = pytest.importorskip("transformers")
torch = pytest.importorskip("torch")
IDS = [3, 14, 15, 9, 26, 5, 35, 8, 9, 7, 9, 3, 23, 8]
STEPS = 4


@pytest.mark.parametrize("name", SETTINGS)
def test_prefill_and_decode(name, tmp_path):
    expected = written(tmp_path, dict(SETTINGS[name]))
    assert expected.std() > 0.1
    source = open_model(tmp_path)
    assert source.config == config_of(name)
    cut, window = len(IDS) - STEPS, max(source.config.layer_windows)
    for program in (shard(source.config, 1), sharded(name)[1]):
        with start(program, source.weights(), max_seq_len=32, window=window) as engine:
            found = engine.score(IDS[:cut], IDS[cut:])
        np.testing.assert_allclose(found, expected[cut - 1 : -1], rtol=1e-4, atol=1e-4)


def written(folder, settings):
    """The logits of a random model, which is written into a folder."""
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(settings.pop("model_type"), **settings, attn_implementation="eager")
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in [*model.parameters(), *(buffer for name, buffer in model.named_buffers() if "correction" in name)]:
            # norms, biases and routers that matter, which fresh ones do not
            parameter.add_(torch.randn_like(parameter) * (0.2 if parameter.ndim < 2 else 1 / parameter.shape[-1] ** 0.5))
        logits = model(torch.tensor([IDS])).logits[0].numpy()
    model.save_pretrained(folder)
    return logits
