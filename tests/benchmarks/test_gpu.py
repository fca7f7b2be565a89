"""What is prepared for a machine with a GPU, as far as it can be seen without one: its options, its commands, what it imports."""

import subprocess
from pathlib import Path

from benchmarks.gpu.suite import parsed
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
    assert list(parts) == ["machine", "doctor", "shared", "hosts"]
    assert sum(int(command.split()[0]) + 10 for command in parts.values()) <= 480, "8 minutes"
    assert parts["doctor"].endswith("python3 -m spmd doctor")
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
