"""The real SmolLM2-135M-Instruct, where `python -m examples.llm.fetch` has brought it."""

from pathlib import Path

import pytest

from examples.llm.config import LlamaConfig
from examples.llm.engine import shard, start
from examples.llm.fetch import CACHE, MEMBER
from examples.llm.source import open_model

MODEL = CACHE / Path(MEMBER).name
pytestmark = pytest.mark.skipif(not MODEL.exists(), reason="run `python -m examples.llm.fetch` first")


def test_configuration_and_prompt():
    source = open_model(MODEL)
    expected = LlamaConfig.preset("smollm2-135m")
    assert source.config.rms_norm_eps == pytest.approx(expected.rms_norm_eps)
    assert {**source.config.__dict__, "rms_norm_eps": 0} == {**expected.__dict__, "rms_norm_eps": 0}
    tokenizer = source.tokenizer()
    ids = tokenizer.prompt([{"role": "user", "content": "What is 12 + 34?"}])
    assert ids[:4] == [1, 9690, 198, 2683]
    assert ids[-5:] == [198, 1, 520, 9531, 198]
    assert tokenizer.decode(ids).endswith("user\nWhat is 12 + 34?\nassistant\n")


@pytest.mark.slow
def test_it_knows_paris():
    source = open_model(MODEL)
    tokenizer = source.tokenizer()
    prompt = tokenizer.prompt([{"role": "user", "content": "What is the capital of France?"}])
    with start(shard(source.config, 1), source.weights(), max_seq_len=64) as engine:
        answer = tokenizer.decode(engine.generate(prompt, max_tokens=12, stop_ids=tokenizer.stop_ids))
    assert answer.startswith("The capital of France is Paris.")


@pytest.mark.slow
def test_greedy_tokens_are_the_same_on_two_and_three_workers():
    source = open_model(MODEL)
    tokenizer = source.tokenizer()
    prompt = tokenizer.prompt([{"role": "user", "content": "What is the meaning of life?"}])
    answers = {}
    for workers in (1, 2, 3):
        with start(shard(source.config, workers), source.weights(), max_seq_len=len(prompt) + 40) as engine:
            answers[workers] = list(engine.generate(prompt, max_tokens=40, stop_ids=tokenizer.stop_ids))
    assert len(answers[1]) >= 32
    assert answers[2] == answers[1]
    assert answers[3] == answers[1]
