"""``python -m spmd weights``."""

import io
import json
from pathlib import Path

import pytest

from spmd.__main__ import main
from spmd.weights.folder import Folder
from spmd.weights.progress import Progress, size_text
from tests.weights.files import checkpoint
from tests.weights.test_cutting import ARRAYS, PLAN, check


def test_from_the_shell(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    PLAN.save(tmp_path / "plan.json")
    parts = {f"qkv.{i}": ARRAYS["qkv"][begin:end].copy() for i, (begin, end) in enumerate(((0, 12), (12, 18), (18, 24)))}
    checkpoint(tmp_path / "in", {**{name: array for name, array in ARRAYS.items() if name != "qkv"}, **parts, "rope": ARRAYS["qkv"]})
    (tmp_path / "names.json").write_text(json.dumps({"qkv": list(parts)}))
    asked = ["weights", "--plan", str(tmp_path / "plan.json"), "--from", str(tmp_path / "in"), "--to", str(tmp_path / "out")]
    assert main([*asked, "--names", str(tmp_path / "names.json")]) == 0
    out, err = capsys.readouterr()
    assert err == "" and out.startswith("wrote ") and f" to {tmp_path / 'out'}\n" in out
    assert out.endswith("note: the plan takes nothing of 1 tensors: 'rope'\n")
    check(tmp_path / "out")
    assert main([*asked, "--layout", "vllm", "--part-bytes", "0"]) == 1
    assert capsys.readouterr().err == "error: write(), part_bytes: it takes a whole number, 1 or more, and got int 0.\n"
    assert main(asked) == 1
    assert "there is no tensor 'qkv' in it. Did you mean 'qkv.2' or 'qkv.1' or 'qkv.0'?" in capsys.readouterr().err
    assert Folder.of(tmp_path / "out")


def test_interrupted(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_: object) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr("spmd.weights.command.run", interrupt)
    assert main(["weights", "--plan", "p", "--from", "f", "--to", "t"]) == 130
    assert capsys.readouterr().err == "interrupted: What is written is kept: the same command goes on from there.\n"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_bar() -> None:
    screen, silent = Terminal(), io.StringIO()
    for stream in (screen, silent):
        bar = Progress(4_000_000_000, stream)
        bar.add(1_000_000_000, skipped=True)
        bar.add(1_000_000_000)
        assert bar.line(2.0) == "████████████░░░░░░░░░░░░  50%  2.0 GB of 4.0 GB  500.0 MB/s  0:04 left"
        bar.add(2_000_000_000)
        bar.close()
    assert silent.getvalue() == "" and screen.getvalue().startswith("\r██████░") and " 100%  4.0 GB of 4.0 GB" in screen.getvalue()
    assert [size_text(n) for n in (0, 999, 1000, 3_400_000, 10**16)] == ["0 B", "999 B", "1.0 kB", "3.4 MB", "10000.0 TB"]
    assert Progress(0, silent).line(0.0).endswith("100%  0 B of 0 B  0 B/s  0:00 left")
