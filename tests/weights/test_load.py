"""Weights in files, given to running workers and to `partition` instead of arrays."""

from pathlib import Path

import numpy as np
import pytest

import spmd
from spmd import P, ShardingError
from spmd.testing import difference
from tests.mpi import mpirun
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
    with pytest.raises(ShardingError, match=r"there is no program\.json in it\. Its weights are for w\.load\(folder\)\."):
        spmd.load(out)
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


@pytest.mark.mpi
def test_processes_load_their_own_files(tmp_path: Path) -> None:
    given, out = checkpoint(tmp_path / "in", ARRAYS), tmp_path / "out"
    spmd.weights.write(SHARDED.plan, given, out)
    spmd.build(SHARDED).export(out)
    ended = mpirun(2, "-m", "tests.weights.mpi_load", out, given, timeout=200.0)
    assert ended.code == 0, ended.err
    assert ended.out.count("the same numbers") == 2
    path = out / "rank-1-of-2.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x7f")
    ended = mpirun(2, "-m", "tests.weights.mpi_load", out, given, timeout=200.0)
    assert ended.code != 0 and "the same numbers" not in ended.out
    assert "worker 1 failed with ShardingError: weight 'w2': tensor 'w2' of " in ended.err and "it is corrupt" in ended.err


def test_partition_reads_shards(tmp_path: Path) -> None:
    given = checkpoint(tmp_path / "in", ARRAYS)
    expected = SHARDED.partition(ARRAYS)
    for found in (SHARDED.partition(given), SHARDED.partition(ARRAYS.__getitem__)):
        assert [{n: a.tobytes() for n, a in shards.items()} for shards in found] == [
            {n: a.tobytes() for n, a in shards.items()} for shards in expected
        ]
    assert SHARDED.partition(given, 1)["w2"].tobytes() == expected[1]["w2"].tobytes()
