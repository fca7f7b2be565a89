"""Converting weights: a conversion that is killed goes on where it was, and ends with the bytes of one that was not."""

import os
import signal
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from examples.llm import conversion, convert_weights
from examples.llm.artifact import INDEX, StoredWeights
from examples.llm.conversion import JOURNAL, WeightFile, files_of
from examples.llm.errors import ModelError
from examples.llm.source import FolderSource
from tests.examples.files import CONFIG, write_folder, write_gguf
from tests.examples.reference import random_checkpoint
from tests.mpi import ROOT

SIZE = 5000
KILLED = f"""
import os, signal, sys
from examples.llm import conversion, convert_weights
conversion.FILE_BYTES, finish, left = {SIZE}, conversion._finish, [4]
def stopped(made, path):
    left[0] -= 1
    if left[0] == 0:
        made.write_bytes(made.read_bytes()[:100])
        os.kill(os.getpid(), signal.SIGKILL)
    finish(made, path)
conversion._finish = stopped
convert_weights.main(sys.argv[1:])
"""


@pytest.fixture
def small_files(monkeypatch):
    monkeypatch.setattr(conversion, "FILE_BYTES", SIZE)


@pytest.fixture
def read(monkeypatch):
    """The weights that are read, in order."""
    names, tensors = [], FolderSource.tensors

    def watched(self, dtype="float32", only=None):
        for name, array in tensors(self, dtype, only):
            names.append(name)
            yield name, array

    monkeypatch.setattr(FolderSource, "tensors", watched)
    return names


def model(folder):
    return write_folder(folder, CONFIG, random_checkpoint(CONFIG))


def convert(source, folder, quantization="q4f16_1") -> dict[str, bytes]:
    assert convert_weights.main(["--model", str(source), "--quantization", quantization, "-o", str(folder)]) == 0
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_killed_and_begun_again(tmp_path, small_files, read):
    source, folder = model(tmp_path / "model"), tmp_path / "dist"
    whole = convert(source, tmp_path / "whole")
    every, files = list(read), sorted(name for name in whole if name.endswith(".safetensors"))
    assert len(files) > 5 and JOURNAL not in whole
    arguments = ["--model", source, "--quantization", "q4f16_1", "-o", folder]
    ended = subprocess.run([sys.executable, "-c", KILLED, *map(str, arguments)], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert ended.returncode == -signal.SIGKILL
    assert sorted(path.name for path in folder.glob("*.safetensors")) == files[:3]
    with pytest.raises(ModelError, match=r"there is no weights.json in it. Run: python -m examples.llm.convert_weights"):
        StoredWeights(folder)
    read.clear()
    assert convert(source, folder) == whole
    there = {name for file in files[:3] for name, owner in StoredWeights(folder).owner.items() if owner == file}
    assert read == [name for name in every if f"{name.removesuffix('.weight')}.q_weight" not in there and name not in there]
    read.clear()
    assert convert(source, folder) == whole and not read


def test_a_file_that_is_not_whole_is_made_again(tmp_path, small_files, read):
    source, folder = model(tmp_path / "model"), tmp_path / "dist"
    whole = convert(source, folder)
    broken, missing = (folder / f"weights-0000{i}.safetensors" for i in (1, 3))
    broken.write_bytes(broken.read_bytes()[:-1])
    missing.unlink()
    name = next(name for name, owner in StoredWeights(folder).owner.items() if owner == broken.name)
    with pytest.raises(ModelError, match=r"weights-00001.safetensors: it is broken .* Run: python -m examples.llm.convert_weights"):
        StoredWeights(folder)[name]
    read.clear()
    assert convert(source, folder) == whole
    assert 0 < len(read) < len(whole)


def test_another_conversion_keeps_nothing(tmp_path, small_files):
    source, folder = model(tmp_path / "model"), tmp_path / "dist"
    for quantization in ("q0f32", "q4f16_1"):
        found = convert(source, folder, quantization)
        assert found == convert(source, tmp_path / quantization, quantization)
    first = sorted(source.glob("*.safetensors"))[0]
    os.utime(first, ns=(0, 0))  # it may be another file now
    again = convert(source, folder)
    assert again.pop(INDEX) != found.pop(INDEX) and again == found


def test_blocks_of_a_file_are_kept_in_files(tmp_path, small_files):
    config = replace(CONFIG, intermediate_size=96)
    file = write_gguf(tmp_path / "tiny.gguf", config, random_checkpoint(config), kinds={"down_proj.weight": "Q8_0"})
    assert len([name for name in convert(file, tmp_path / "dist", "gguf") if name.endswith(".safetensors")]) > 5


def test_one_process_at_a_time(tmp_path, capsys):
    source, folder = model(tmp_path / "model"), tmp_path / "dist"
    folder.mkdir()
    with conversion.conversion(folder, "other"):
        assert convert_weights.main(["--model", str(source), "-o", str(folder)]) == 2
    assert "another process writes weights to it. Wait for it, or choose another folder" in capsys.readouterr().err


def test_files_hold_whole_weights(monkeypatch, tmp_path):
    monkeypatch.setattr(conversion, "FILE_BYTES", 100)
    weights = {f"w{i}": {f"w{i}.a": ((10,), "float32"), f"w{i}.b": ((5,), "float16")} for i in range(5)}
    files = files_of(weights)
    assert [file.weights for file in files] == [("w0", "w1", "w2")[:2], ("w2", "w3"), ("w4",)]
    assert [file.bytes for file in files] == [100, 100, 50]
    with pytest.raises(ModelError, match=r"weights-00002.safetensors: 'w4.b' is not as the model's sizes say"):
        files[2].write(tmp_path, {"w4.a": np.zeros(10, "float32"), "w4.b": np.zeros(5, "float32")})
    assert not list(tmp_path.iterdir()) and not WeightFile("x", (), {}).is_whole(tmp_path)
