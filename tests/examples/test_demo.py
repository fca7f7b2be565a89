"""The demonstration on a tiny model."""

import numpy as np
import pytest

from examples.llm import demo
from tests.examples.files import CONFIG, write_gguf
from tests.examples.reference import random_checkpoint
from tests.mpi import mpirun
from tests.pocl import need_pocl


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_gguf(tmp_path_factory.mktemp("model") / "tiny.gguf", CONFIG, random_checkpoint(CONFIG))


def run(model, *more: str) -> int:
    return demo.main(["--model", str(model), "--max-tokens", "12", *more])


def test_one_worker(model, capsys):
    assert run(model, "--num-shards", "1") == 0
    text = capsys.readouterr().out
    assert "the greedy tokens agree, all 12 of them" in text
    assert "largest difference of a logit over 12 steps: 0.00e+00" in text


def test_several_workers(model, capsys):
    assert run(model, "--num-shards", "3") == 0
    text = capsys.readouterr().out
    assert "the greedy tokens agree, all 12 of them" in text
    assert "model.layers.*.self_attn.qkv_proj.weight" in text
    assert "on each worker" in text


def test_kernels_of_gpus(model, capsys):
    need_pocl()
    assert run(model, "--num-shards", "2", "--gpu") == 0
    text = capsys.readouterr().out
    assert "== workers: 2" in text and "compiled for GPUs and run by pocl" in text
    assert "the greedy tokens agree, all 12 of them" in text


@pytest.mark.mpi
def test_processes(model):
    options = ["--model", model, "--max-tokens", 12, "--num-shards", 2, "--backend", "mpi", "--started"]
    ended = mpirun(2, "-m", "examples.llm.demo", *options)
    assert ended.code == 0, ended.err
    assert "== workers: 2" in ended.out and ended.out.count("the greedy tokens agree, all 12 of them") == 1


def test_bad_options(model, capsys):
    assert run(model, "--num-shards", "7") == 2
    assert capsys.readouterr().err.startswith("error: --num-shards: 7 workers")
    assert run(model, "--max-tokens", "0") == 2
    assert "--max-tokens: 0 is too few" in capsys.readouterr().err


def test_a_difference_is_said():
    one = demo.Answer([1, 2, 3], [np.zeros(4), np.ones(4), np.ones(4)])
    other = demo.Answer([1, 2, 0], [np.zeros(4), np.ones(4), np.full(4, 1.5)])
    text = demo.compare(one, other)
    assert "DIFFER from token 2 on" in text
    assert "over 3 steps: 5.00e-01" in text
