"""DeepSeek's cache of latent vectors: small, and what is in it counts whichever way it came there."""

import numpy as np
import pytest

import spmd
from examples.llm.batching import BatchEngine
from examples.llm.engine import BATCH_METHODS
from examples.llm.errors import ModelError
from examples.llm.model import bounded, build_module
from examples.llm.sequences import BOUNDS, PAGE_SIZE, Sequences
from tests.examples.architectures import config_of, random_weights
from tests.examples.test_architectures import SCALED

CONFIG = config_of("deepseek_v2", first_k_dense_replace=2)
RANDOM = np.random.default_rng(3)
BEGINNING = RANDOM.integers(0, CONFIG.vocab_size, PAGE_SIZE + 5).tolist()
PROMPTS = [BEGINNING + RANDOM.integers(0, CONFIG.vocab_size, length).tolist() for length in (1, 3, 14)] + [[7], [3, 9, 26]]
TOKENS = 6


@pytest.fixture(scope="module")
def workers():
    """Heads are split over three workers."""
    mod = bounded(build_module(CONFIG, methods=BATCH_METHODS)[0], BOUNDS)
    sharded = spmd.shard(mod, 3, profile=SCALED)
    assert all(not s.is_replicated for name, s in sharded.plan.params.items() if name.endswith(("k_b_proj.weight", "v_b_proj.weight")))
    with spmd.workers(sharded, target={"kind": "llvm", "opt-level": 0}) as running:
        yield running


def sequences(workers, batch=4):
    return Sequences(workers, random_weights(CONFIG), 256, batch)


def logits_of(model, *pieces):
    """The logits after the last of pieces that are fed one after another."""
    sequence = model.add()
    found = [model.forward({sequence: piece})[sequence] for piece in pieces]
    model.remove(sequence)
    return found[-1]


def test_pieces_and_guesses_are_as_one_prompt(workers):
    model, prompt = sequences(workers), PROMPTS[2]
    whole = logits_of(model, prompt)
    np.testing.assert_allclose(logits_of(model, prompt[:1], prompt[1:9], prompt[9:]), whole, rtol=1e-4, atol=1e-4)
    sequence, other = model.add(), model.add()
    model.forward({sequence: prompt[:-3], other: [5]})
    found = model.forward({sequence: prompt[-3:], other: [4]}, every=True)
    np.testing.assert_allclose(found[sequence][-1:], whole, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(found[other], logits_of(model, [5, 4]), rtol=1e-4, atol=1e-4)
    child = model.fork(sequence, len(prompt) - 1)
    np.testing.assert_allclose(model.forward({child: prompt[-1:]})[child], whole, rtol=1e-4, atol=1e-4)
    with pytest.raises(ModelError, match=r"they are empty, and logits after each of several tokens are asked for\. Feed one token first"):
        model.forward({model.add(): [1, 2]}, every=True)


@pytest.mark.parametrize("draft", [False, True])
def test_a_batch_gives_the_tokens_of_each_alone(workers, draft):
    """Prompts share a prefix, and a draft model that is the model itself guesses."""
    alone = [BatchEngine(sequences(workers)).generate([prompt], TOKENS)[0] for prompt in PROMPTS]
    engine = BatchEngine(sequences(workers), sequences(workers) if draft else None, draft_tokens=3)
    assert engine.generate(PROMPTS, TOKENS) == alone
    assert engine.statistics.shared >= PAGE_SIZE
    if draft:
        assert engine.statistics.accepted == engine.statistics.guessed > 0


def test_bytes_of_a_token():
    """Those of the latent vector and of what turns; no worker has less."""
    sizes = {"max_batch_size": 1, "max_total_seq_len": 4096, "prefill_chunk_size": 512, "page_size": 16, "support_sliding_window": 0}
    mod = build_module(CONFIG, methods=["embed", "decode", "create_paged_kv_cache"])[0]
    for workers in (1, 3):
        plan = spmd.plan(mod, workers, profile=SCALED, sizes=sizes)
        wanted = (4096 + 16) * CONFIG.num_hidden_layers * (CONFIG.kv_rank + CONFIG.rope_dim) * 4
        assert plan.memory["decode"].cache == pytest.approx(wanted, rel=0.01)
