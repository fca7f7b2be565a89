"""Requests that run together: each gets the tokens that the NumPy reference gives it alone, whatever joins, leaves, shares or guesses."""

import numpy as np
import pytest

import spmd
from examples.llm.batching import BatchEngine
from examples.llm.engine import BATCH_METHODS
from examples.llm.errors import ModelError
from examples.llm.model import bounded, build_module
from examples.llm.prefixes import common, pages
from examples.llm.sampling import Sampler
from examples.llm.sequences import BOUNDS, MAX_BATCH, PAGE_SIZE, PREFILL_CHUNK, Sequences
from examples.llm.weights import assemble
from tests.examples.architectures import config_of, random_weights
from tests.examples.files import CONFIG
from tests.examples.reference import greedy, random_checkpoint
from tests.examples.test_architectures import SCALED

CHECKPOINT = random_checkpoint(CONFIG)
WEIGHTS = assemble(CONFIG, CHECKPOINT.__getitem__, "test")
TOKENS = 12
RANDOM = np.random.default_rng(3)
BEGINNING = RANDOM.integers(0, CONFIG.vocab_size, 2 * PAGE_SIZE + 5).tolist()


def drawn(length: int) -> list[int]:
    return RANDOM.integers(0, CONFIG.vocab_size, length).tolist()


ALIKE = [BEGINNING + drawn(length) for length in (1, 3, 14)]
PROMPTS = [drawn(1), *ALIKE, drawn(PAGE_SIZE), drawn(30)]
EXPECTED = [greedy(CONFIG, CHECKPOINT, prompt, TOKENS) for prompt in PROMPTS]


def program(config):
    return bounded(build_module(config, methods=BATCH_METHODS)[0], BOUNDS)


@pytest.fixture(scope="module")
def workers():
    """The model, split by heads over three workers."""
    sharded = spmd.shard(program(CONFIG), 3, profile=SCALED)
    assert not sharded.plan.params["model.layers.0.self_attn.qkv_proj.weight"].is_replicated
    with spmd.workers(sharded) as running:
        yield running


def engine_of(workers, tokens=512, batch=4, draft=None, **options) -> BatchEngine:
    models = [Sequences(workers, weights, tokens, batch) for weights in (WEIGHTS, draft) if weights is not None]
    return BatchEngine(*models, **options)


def all_free(engine: BatchEngine) -> bool:
    """Whether every page can be had again."""
    for cache in [engine.model] if engine.draft is None else [engine.model, engine.draft.cache]:
        while cache._ended:
            cache._drop(next(iter(cache._ended)))
        if cache.sequences.ids or cache.running or cache.sequences.free_pages() < pages(cache.sequences.tokens):
            return False
    return True


def test_more_requests_than_fit_into_a_batch(workers):
    engine = engine_of(workers)
    assert engine.generate(PROMPTS, TOKENS) == EXPECTED
    assert engine.statistics.tokens["decode"] == len(PROMPTS) * (TOKENS - 1)
    assert all_free(engine)


def test_requests_join_and_leave(workers):
    engine = engine_of(workers, batch=3)
    first, second = engine.submit(PROMPTS[0], TOKENS), engine.submit(PROMPTS[5], 3)
    for _ in range(2):
        engine.step()
    third, gone = engine.submit(PROMPTS[4], TOKENS), engine.submit(PROMPTS[1], TOKENS)
    waits = engine.submit(PROMPTS[2], TOKENS)
    engine.step()
    assert (first.tokens, len(second.tokens), len(third.tokens)) == (EXPECTED[0][:4], 3, 2)
    assert second.finished == "length" and not waits.tokens
    engine.cancel(gone)
    stop = EXPECTED[3][5]
    last = engine.submit(PROMPTS[3], TOKENS, stop_ids={stop})
    while engine.step():
        pass
    assert [r.tokens for r in (first, second, third)] == [EXPECTED[0], EXPECTED[5][:3], EXPECTED[4]]
    assert waits.tokens == EXPECTED[2] and gone.finished == "cancelled"
    assert last.tokens == EXPECTED[3][: EXPECTED[3].index(stop)] and last.finished == "stop"
    assert not engine.step() and all_free(engine)


def test_prompts_that_begin_alike_share_pages(workers):
    engine, apart = engine_of(workers), engine_of(workers, prefix_cache=False)
    requests = [engine.submit(prompt, TOKENS) for prompt in ALIKE]
    for prompt in ALIKE:
        apart.submit(prompt, TOKENS)
    for _ in range(3):
        engine.step()
        apart.step()
    whole = common(ALIKE[0], ALIKE[1]) // PAGE_SIZE
    assert whole == 2
    assert engine.model.sequences.free_pages() == apart.model.sequences.free_pages() + 2 * whole
    assert engine.statistics.shared == 2 * whole * PAGE_SIZE
    while engine.step():
        pass
    assert [request.tokens for request in requests] == EXPECTED[1:4]
    # what has ended is of use to those that continue it
    longer = PROMPTS[2] + EXPECTED[2] + [7]
    assert engine.generate([longer], 4) == [greedy(CONFIG, CHECKPOINT, longer, 4)]
    assert engine.statistics.shared == (2 * whole + (len(longer) - 2) // PAGE_SIZE) * PAGE_SIZE
    assert apart.statistics.shared == 0 and all_free(engine)


def test_a_small_cache_makes_requests_wait(workers):
    """Pages of what has ended are given up, and nothing runs out of them."""
    engine = engine_of(workers, tokens=70)
    for _ in range(2):
        assert engine.generate(PROMPTS, TOKENS) == EXPECTED
    with pytest.raises(ModelError, match="71 tokens do not fit into the cache of 70"):
        engine.submit([1] * 71)
    filling = engine.submit([1] * 68, 100)
    assert len(list(engine.stream(filling))) == 3 and filling.finished == "length"
    assert all_free(engine)


def test_a_long_prompt_is_read_while_others_write(workers):
    engine, prompt = engine_of(workers, tokens=PREFILL_CHUNK + 300), drawn(PREFILL_CHUNK + 20)
    short = engine.submit(PROMPTS[0], TOKENS)
    engine.step()
    long = engine.submit(prompt, 2)
    engine.step()
    assert len(short.tokens) == 3 and not long.tokens
    assert list(engine.stream(long)) == greedy(CONFIG, CHECKPOINT, prompt, 2)
    assert short.tokens == EXPECTED[0][:4]


@pytest.mark.parametrize("noise", [0.0, 0.02, 1.0], ids=["the same", "near", "far"])
def test_guesses_change_no_token(workers, noise):
    random = np.random.default_rng(1)
    draft = {n: (w + noise * w.std() * random.standard_normal(w.shape)).astype(w.dtype) if w.ndim > 1 else w for n, w in WEIGHTS.items()}
    engine = engine_of(workers, draft=draft, draft_tokens=3)
    assert engine.generate(PROMPTS, TOKENS) == EXPECTED
    counts = engine.statistics
    assert counts.accepted == counts.guessed if noise == 0 else 0 < counts.accepted < counts.guessed
    assert f"draft: {counts.accepted} of {counts.guessed} guesses accepted ({counts.accepted / counts.guessed:.0%})" in str(counts)
    sampler = {"temperature": 0.8, "top_p": 0.9, "seed": 5}
    drawn = [list(e.stream(e.submit(PROMPTS[4], TOKENS, Sampler(**sampler)))) for e in (engine, engine_of(workers))]
    assert drawn[0] == drawn[1] != EXPECTED[4]
    assert all_free(engine)


def test_random_arrivals(workers):
    random = np.random.default_rng(8)
    engine = engine_of(workers, tokens=130, batch=3, draft=WEIGHTS, draft_tokens=2)
    asked, order = [], random.permutation(np.arange(12) % len(PROMPTS)).tolist()
    while order or engine.step():
        if order and random.random() < 0.4:
            which, length = order.pop(), int(random.integers(1, TOKENS + 1))
            asked.append((which, length, engine.submit(PROMPTS[which], length)))
        if order:
            engine.step()
    assert [request.tokens for *_, request in asked] == [EXPECTED[which][:length] for which, length, _ in asked]
    assert all_free(engine)


def test_layers_that_look_back_a_window():
    """Their sequences share no pages: the cache counts a window from the end of a block."""
    config = config_of("mistral")
    weights, prompts = random_weights(config), [[*range(3, 23), 5], [*range(3, 23), 9, 8, 7], [4]]
    with spmd.workers(program(config)) as running:
        alone = BatchEngine(Sequences(running, weights, 64, window=6))
        together = BatchEngine(Sequences(running, weights, 128, 3, window=6), Sequences(running, weights, 128, 3, window=6), draft_tokens=3)
        assert together.generate(prompts, 8) == [alone.generate([prompt], 8)[0] for prompt in prompts]
        assert together.statistics.shared == 0 and together.statistics.accepted == together.statistics.guessed > 0


def test_what_cannot_be_asked(workers, monkeypatch):
    for batch in (0, MAX_BATCH + 1):
        with pytest.raises(ModelError, match=f"{batch} sequences at a time. Give a number from 1 to {MAX_BATCH}"):
            Sequences(workers, WEIGHTS, 64, batch)
    engine = engine_of(workers)
    for prompt, count in (([], 3), ([1], 0)):
        with pytest.raises(ModelError, match=f"a request: {count} tokens after {len(prompt)}"):
            engine.submit(prompt, count)
    with pytest.raises(ModelError, match=r"8 tokens ahead\. Give a number from 1 to 7"):
        engine_of(workers, draft=WEIGHTS, draft_tokens=8)
    monkeypatch.delitem(workers.signatures, "batch_prefill")
    with pytest.raises(ModelError, match=r"it has no function batch_prefill\. Build it again with python -m examples.llm.build"):
        engine.generate(PROMPTS[:2], TOKENS)
