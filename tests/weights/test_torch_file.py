"""Files of PyTorch: tensors are read, code is not run."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from spmd import ShardingError, weights
from spmd.weights.tensors import whole

torch = pytest.importorskip("torch")


class Harm:
    """What runs code when it is unpickled."""

    def __reduce__(self) -> object:
        return os.system, ("touch harmed",)


def test_tensors(tmp_path: Path) -> None:
    state = {"a": torch.arange(12.0).reshape(3, 4), "b": torch.ones(2, 2, dtype=torch.bfloat16), "t": torch.arange(6).reshape(2, 3).T}
    torch.save(state, tmp_path / "pytorch_model.bin")
    found = weights.source(tmp_path)
    assert set(found.names() or ()) == set(state)
    assert np.array_equal(whole(found.tensor("a", "float32")), state["a"].numpy())
    assert found.tensor("b", "bfloat16").dtype == "bfloat16" and whole(found.tensor("b", "bfloat16")).astype("float32").sum() == 4
    part = np.empty((2, 1), "int64")
    found.tensor("t", "int64").read(((1, 3), (1, 2)), part)
    assert np.array_equal(part, state["t"].numpy()[1:3, 1:2])


def test_several_files(tmp_path: Path) -> None:
    for i, name in enumerate(("a", "b")):
        torch.save({name: torch.full((2,), float(i))}, tmp_path / f"pytorch_model-{i}.bin")
    placed = {"a": "pytorch_model-0.bin", "b": "pytorch_model-1.bin"}
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": placed}))
    assert whole(weights.source(tmp_path).tensor("b", "float32")).tolist() == [1.0, 1.0]
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": {"a": "../x.bin"}}))
    with pytest.raises(ShardingError, match=r"it names the file '\.\./x\.bin', which is no name of a file in its folder\."):
        weights.source(tmp_path)


def test_what_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"a": Harm()}, "harm.pt")
    with pytest.raises(ShardingError, match=r"harm\.pt: PyTorch does not read it as weights only \(UnpicklingError"):
        weights.source("harm.pt")
    assert not (tmp_path / "harmed").exists()
    (tmp_path / "cut.pt").write_bytes(b"PK\3\4")
    with pytest.raises(ShardingError, match=r"cut\.pt: PyTorch does not read it as weights only"):
        weights.source("cut.pt")
    torch.save({"model": {"a": torch.ones(1)}}, "nested.pt")
    with pytest.raises(ShardingError, match=r"nested\.pt: under 'model' it holds a dict .*, and no tensor\. Save the state_dict alone\."):
        weights.source("nested.pt")
    torch.save(torch.ones(1), "one.pt")
    with pytest.raises(ShardingError, match=r"one\.pt: it holds a Tensor, and no tensors by name\."):
        weights.source("one.pt")
