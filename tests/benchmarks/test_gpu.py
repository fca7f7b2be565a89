"""What is prepared for a machine with a GPU, as far as it can be seen without one: its options, its commands, what it imports."""

import subprocess
from pathlib import Path

import numpy as np
import pytest

from benchmarks.gpu import decode
from benchmarks.gpu.suite import parsed
from examples.llm.config import PRESETS
from tests.mpi import ROOT

SCRIPT = ROOT / "benchmarks" / "gpu" / "run.sh"


def script(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["bash", str(SCRIPT), *arguments], capture_output=True, text=True, timeout=60, check=False)


def test_its_commands_and_their_limits() -> None:
    subprocess.run(["bash", "-n", str(SCRIPT)], check=True)
    ran = script("--dry-run", "--python", "python3", "--every", "3")
    assert ran.returncode == 0, ran.stderr
    assert all(line.startswith("missing: ") for line in ran.stderr.splitlines())
    parts = dict(line.split(": timeout -k 10 ", 1) for line in ran.stdout.splitlines())
    assert list(parts) == ["machine", "doctor", "decode", "shared", "hosts"]
    assert sum(int(command.split()[0]) + 10 for command in parts.values()) <= 480, "8 minutes"
    assert parts["doctor"].endswith("python3 -m spmd doctor") and parts["decode"].endswith("python3 -m benchmarks.gpu.decode")
    assert "NCCL_MULTI_RANK_GPU_ENABLE=1 python3 -m spmd run -n 2 -m benchmarks.gpu.suite --every 3" in parts["shared"]
    words = parts["hosts"].split()
    options = parsed(words[words.index("benchmarks.gpu.suite") + 1 :])
    assert options.own_host and options.every == 3 and (options.backend, options.target) == ("nccl", "cuda")


def test_what_it_refuses() -> None:
    for arguments, text in ((["--fast"], "there is no option --fast"), (["--every", "all"], "--every takes a number, and got all")):
        ran = script(*arguments)
        assert ran.returncode == 2 and text in ran.stderr
    assert "takes a value" in script("--out").stderr


def test_what_is_carried_is_small(tmp_path: Path) -> None:
    ran = script("--pack", str(tmp_path / "spmd.tar.xz"))
    assert ran.returncode == 0, ran.stderr
    assert 0 < (tmp_path / "spmd.tar.xz").stat().st_size <= 60_000_000


def test_a_worker_has_its_part_of_each_layer() -> None:
    config = decode.part_of(PRESETS["llama-3.1-8b"], 2, 4)
    assert (config.num_attention_heads, config.num_key_value_heads, config.head_dim) == (16, 4, 128)
    assert (config.hidden_size, config.intermediate_size, config.num_hidden_layers) == (4096, 7168, 4)


def test_decode_as_far_as_a_cpu_can_try_it(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Numbers that are right are told from others; rates are printed for each batch, beyond what examples take at a time, too."""
    monkeypatch.setattr(decode, "PROMPT", 8)
    monkeypatch.setattr(decode, "STEPS", 2)
    monkeypatch.setattr(decode, "COPIED", 1 << 20)
    asked = ["--target", "llvm", "--model", "tiny", "--shards", "1", "--layers", "1", "--forms", "q4f16_1", "--batch", "1", "40"]
    assert decode.run(decode.parsed(asked))
    told = capsys.readouterr().out
    assert all(f"q4f16_1, without CUDA graphs, batch {batch}: " in told for batch in (1, 40))
    made = iter((1.0, 2.0))
    monkeypatch.setattr(decode, "logits", lambda sequences: np.full((7, 4), next(made)))
    assert not decode.run(decode.parsed(asked[:-1]))
