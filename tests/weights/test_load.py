"""Weights in files, given to running workers and to `partition` instead of arrays."""

from pathlib import Path

import numpy as np
import pytest

import spmd
from spmd import P, ShardingError
from spmd.testing import difference
from tests.programs import Mlp
from tests.weights.files import checkpoint

SHARDED = spmd.shard(Mlp, 2, {"w1": P(None, "tp"), "w2": P("tp", None)})
ARRAYS = {name: np.random.default_rng(0).standard_normal(shape, np.float32) for name, shape in (("w1", (16, 32)), ("w2", (32, 16)))}
X = np.random.default_rng(1).standard_normal((4, 16), np.float32)
EXPECTED = np.maximum(X @ ARRAYS["w1"], 0) @ ARRAYS["w2"]


def test_workers_load_files(tmp_path: Path) -> None:
    given, out = checkpoint(tmp_path / "in", ARRAYS, 2), tmp_path / "out"
    spmd.weights.write(SHARDED.plan, given, out)
    half = checkpoint(tmp_path / "half", {name: array.astype("float16") for name, array in ARRAYS.items()})
    library = spmd.load(spmd.build(SHARDED).export(out))  # beside the weights
    with spmd.workers(library) as w:
        for weights in (given, str(out), spmd.weights.Folder.of(out), spmd.weights.source(given), ARRAYS.__getitem__):
            assert not difference(EXPECTED, w["main"](X, *w.load(weights)))
        assert np.allclose(w["main"](X, *w.load(spmd.weights.source(half, convert=True))), EXPECTED, atol=0.1)
        with pytest.raises(ShardingError, match=r"weight 'w1': tensor 'w1' of .*model\.safetensors is float16\[16, 32\], and the program"):
            w.load(half)
        with pytest.raises(ShardingError, match=r"nowhere: there is no such file or folder"):
            w.load(tmp_path / "nowhere")
    with spmd.workers(Mlp) as one:
        assert not difference(EXPECTED, one["main"](X, *one.load(given)))
        with pytest.raises(ShardingError, match=r"weight 'w1': .*out was cut for Mesh\(tp=2\), and the program runs on Mesh\(tp=1\)\."):
            one.load(out)


def test_partition_reads_shards(tmp_path: Path) -> None:
    given = checkpoint(tmp_path / "in", ARRAYS)
    expected = SHARDED.partition(ARRAYS)
    for found in (SHARDED.partition(given), SHARDED.partition(ARRAYS.__getitem__)):
        assert [{n: a.tobytes() for n, a in shards.items()} for shards in found] == [
            {n: a.tobytes() for n, a in shards.items()} for shards in expected
        ]
    assert SHARDED.partition(given, 1)["w2"].tobytes() == expected[1]["w2"].tobytes()
