"""Generation on one worker against the NumPy reference; rewinding; sampling."""

import numpy as np
import pytest

from examples.llm.engine import Engine, check_shards, shard, start
from examples.llm.errors import ModelError
from examples.llm.sampling import Sampler
from examples.llm.sequences import PREFILL_CHUNK
from examples.llm.weights import assemble
from tests.examples.files import CONFIG
from tests.examples.reference import forward, greedy, random_checkpoint

CHECKPOINT = random_checkpoint(CONFIG)
PROMPT = [5, 60, 200, 7, 31]


@pytest.fixture(scope="module")
def running():
    """One engine for the tests of this file: compiling takes longer than they do."""
    weights = assemble(CONFIG, CHECKPOINT.__getitem__, "test")
    with start(shard(CONFIG, 1), weights, max_seq_len=PREFILL_CHUNK + 64) as engine:
        yield engine


@pytest.fixture
def engine(running) -> Engine:
    running.rewind(0)
    return running


def test_greedy_generation(engine):
    assert list(engine.generate(PROMPT, max_tokens=12)) == greedy(CONFIG, CHECKPOINT, PROMPT, 12)


def test_logits_of_each_step(engine):
    logits: list[np.ndarray] = []
    answer = list(engine.generate(PROMPT, max_tokens=6, logits_out=logits))
    expected = forward(CONFIG, CHECKPOINT, PROMPT + answer)[len(PROMPT) - 1 : -1]
    np.testing.assert_allclose(np.stack(logits), expected, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(engine.score(PROMPT, answer), expected, rtol=1e-3, atol=1e-3)


def test_stops_before_a_stop_token(engine):
    answer = greedy(CONFIG, CHECKPOINT, PROMPT, 12)
    stop = answer[5]
    assert list(engine.generate(PROMPT, max_tokens=12, stop_ids={stop})) == answer[: answer.index(stop)]


def test_a_long_prompt_is_fed_in_pieces(engine):
    prompt = np.random.default_rng(0).integers(0, CONFIG.vocab_size, PREFILL_CHUNK + 20).tolist()
    np.testing.assert_allclose(engine.prompt(prompt), forward(CONFIG, CHECKPOINT, prompt)[-1], rtol=1e-3, atol=1e-3)


def test_a_conversation_keeps_what_it_has(engine):
    engine.prompt(PROMPT)
    fed: list[list[int]] = []
    feed = engine.feed
    engine.feed = lambda ids: fed.append(ids) or feed(ids)
    try:
        changed = [*PROMPT[:3], 11, 12, 13]
        logits = engine.prompt(changed)
    finally:
        del engine.feed
    assert fed == [[11, 12, 13]]
    np.testing.assert_allclose(logits, forward(CONFIG, CHECKPOINT, changed)[-1], rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(engine.prompt(changed), logits, rtol=1e-3, atol=1e-3)


def test_a_full_cache(engine):
    with pytest.raises(ModelError, match=r"577 tokens do not fit into the cache of 576\. Shorten"):
        engine.feed([1] * 577)
    engine.feed([1] * 574)
    engine.rewind(0)
    assert len(list(engine.generate([1] * 574, max_tokens=100))) == 3


@pytest.mark.parametrize("count", [0, 4, -1])
def test_too_many_shards(count):
    with pytest.raises(ModelError, match=f"{count} workers cannot share the 3 key/value heads.*use 1 to 3"):
        check_shards(CONFIG, count)


def test_sampling():
    logits = np.log(np.array([0.5, 0.3, 0.15, 0.05]))
    assert Sampler()(logits) == 0
    sampler = Sampler(temperature=1.0, top_p=0.75, seed=3)
    drawn = [sampler(logits) for _ in range(2000)]
    assert set(drawn) == {0, 1}
    assert np.mean(np.array(drawn) == 0) == pytest.approx(0.5 / 0.8, abs=0.05)
    again = Sampler(temperature=1.0, top_p=0.75, seed=3)
    assert [again(logits) for _ in range(50)] == drawn[:50]
    cold = Sampler(temperature=0.01, seed=1)
    assert {cold(logits) for _ in range(50)} == {0}
