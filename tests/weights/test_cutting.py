"""Cut folders: every shard is the one of `partition`, whatever was interrupted; and what is in the way is said."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from spmd import Mesh, Plan, ShardingError, weights
from spmd.placement.layout import Array
from spmd.weights import job, journal
from spmd.weights.folder import Folder
from spmd.weights.partition import partition
from tests.weights.files import checkpoint, plan_of, random_array

WEIGHTS = {
    "embed": ((50, 8), "bfloat16", "[tp, -]"),
    "qkv": ((24, 8), "float32", "[tp:12|6|6, -]"),
    "o": ((8, 12), "float32", "[-, dp+tp:12~2]"),
    "packed": ((8, 6), "uint32", "[-, tp:6~2]"),
    "scale": ((8,), "float16", "[-]"),
    "bias": ((9,), "float32", "[tp] sum@dp"),
    "flag": ((), "int8", "[]"),
}
MESH = Mesh(dp=2, tp=2)
PLAN = plan_of(MESH, WEIGHTS)
ARRAYS = {name: random_array(shape, dtype) for name, (shape, dtype, _) in WEIGHTS.items()}
EXPECTED = partition(PLAN, ARRAYS)


def check(folder: Path, plan: Plan = PLAN, expected: list[dict[str, Array]] = EXPECTED) -> None:
    """The folder has the shards, to the bit, for us and for the library of safetensors, and nothing else."""
    found = Folder.of(folder)
    for rank, shards in enumerate(expected):
        files = [load_file(folder / name) for name in found.header.files[rank]]
        assert sorted(name for file in files for name in file) == sorted(shards)
        for leaf in plan.functions["main"].params:
            data, shard = found.shard(leaf, plan.mesh, rank), shards[leaf.name]
            assert (data.shape, data.dtype, data.tobytes()) == (shard.shape, shard.dtype, shard.tobytes())
            stored = next(file[leaf.name] for file in files if leaf.name in file)
            assert stored.tobytes() == shard.tobytes()
    expected_names = {"weights.json", *(name for names in found.header.files for name in names)}
    assert {path.name for path in folder.iterdir()} == expected_names


@pytest.mark.parametrize("files", [1, 3])
@pytest.mark.parametrize("held", [0, 1 << 20])
def test_a_checkpoint_is_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: int, held: int) -> None:
    monkeypatch.setattr(job, "HELD", held)
    made = weights.write(PLAN, checkpoint(tmp_path / "in", {**ARRAYS, "more": ARRAYS["qkv"]}, files), tmp_path / "out")
    check(tmp_path / "out")
    assert made.unused == ("more",) and made.resumed == 0
    assert made.bytes == sum(path.stat().st_size for path in (tmp_path / "out").glob("*.safetensors"))
    again = weights.write(PLAN, tmp_path / "in", tmp_path / "out")
    assert again.resumed == again.bytes == made.bytes


def test_the_layout_of_vllm(tmp_path: Path) -> None:
    given = checkpoint(tmp_path / "in", ARRAYS)
    weights.write(PLAN, given, tmp_path / "one", layout="vllm")
    assert sorted(path.name for path in (tmp_path / "one").glob("*.safetensors")) == [
        f"model-rank-{r}-part-0.safetensors" for r in range(4)
    ]
    weights.write(PLAN, given, tmp_path / "parts", layout="vllm", part_bytes=300)
    names = sorted(path.name for path in (tmp_path / "parts").glob("model-rank-3-part-*.safetensors"))
    assert names == [f"model-rank-3-part-{part}.safetensors" for part in range(len(names))] and len(names) > 2
    check(tmp_path / "one")
    check(tmp_path / "parts")


def test_functions_and_other_dtypes(tmp_path: Path) -> None:
    weights.write(PLAN, ARRAYS.__getitem__, tmp_path / "out")
    check(tmp_path / "out")
    plan = plan_of(MESH, {"w": ((24, 8), "float16", "[tp, -]")})
    weights.write(plan, weights.source({"w": ARRAYS["qkv"]}, convert=True), tmp_path / "half")
    check(tmp_path / "half", plan, partition(plan, {"w": ARRAYS["qkv"].astype("float16")}))


class Stop(Exception):
    """What ends a job in the middle."""


def interrupted(given: Path, folder: Path, after: int) -> None:
    """Cut until so many pieces are written."""
    left = [after]
    put = job.Job._put

    def until(self: job.Job, *args: object) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise Stop
        put(self, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(job.Job, "_put", until)
        with pytest.raises(Stop):
            weights.write(PLAN, given, folder)


@pytest.mark.parametrize("after", [0, 1, 9, 18, 29, 31])
def test_what_was_interrupted_goes_on(tmp_path: Path, after: int) -> None:
    given, out = checkpoint(tmp_path / "in", ARRAYS), tmp_path / "out"
    interrupted(given, out, after)
    assert not (out / "weights.json").exists() and not list(out.glob("*.safetensors"))
    made = weights.write(PLAN, given, out)
    assert (made.resumed > 0) == (after > 8)
    check(out)


def test_what_is_there_is_checked_and_not_trusted(tmp_path: Path) -> None:
    given, out = checkpoint(tmp_path / "in", ARRAYS), tmp_path / "out"
    interrupted(given, out, 29)
    (one,) = out.glob(".rank-1-*.partial")
    one.write_bytes(bytes(one.stat().st_size))
    with (out / journal.NAME).open("ab") as file:
        file.write(b'["flag", ["')  # as the power went
    weights.write(PLAN, given, out)
    check(out)


def test_an_interruption_when_files_are_renamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given, out, replace = checkpoint(tmp_path / "in", ARRAYS), tmp_path / "out", os.replace

    def until(source: Path, target: Path) -> None:
        if "rank-2" in str(target):
            raise Stop
        replace(source, target)

    monkeypatch.setattr(os, "replace", until)
    with pytest.raises(Stop):
        weights.write(PLAN, given, out)
    monkeypatch.undo()
    with pytest.raises(ShardingError, match=r"there is no weights\.json in it"):
        Folder.of(out)
    assert weights.write(PLAN, given, out).resumed
    check(out)


def test_another_job_begins_anew_and_replaces(tmp_path: Path) -> None:
    given, out = checkpoint(tmp_path / "in", ARRAYS), tmp_path / "out"
    weights.write(PLAN, given, out)
    other = plan_of(
        Mesh(tp=2), {name: (shape, dtype, "[" + ", ".join("-" * len(shape)) + "]") for name, (shape, dtype, _) in WEIGHTS.items()}
    )
    weights.write(other, given, out, layout="vllm")
    check(out, other, partition(other, ARRAYS))
    checkpoint(tmp_path / "in", {**ARRAYS, "scale": ARRAYS["scale"] + np.float16(1)})
    interrupted(given, out, 9)
    check_old = Folder.of(out)
    assert check_old.header.mesh == Mesh(tp=2)  # what was there stays until the other is written
    shutil.rmtree(tmp_path / "in")
    checkpoint(tmp_path / "in", ARRAYS)
    assert weights.write(PLAN, given, out).resumed == 0
    check(out)


def test_what_is_in_the_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given, out = checkpoint(tmp_path / "in", ARRAYS), tmp_path / "out"
    with pytest.raises(ShardingError, match=r"write\(\), layout: there is no layout 'x'\. Choose among spmd, vllm\."):
        weights.write(PLAN, given, out, layout="x")
    with pytest.raises(ShardingError, match=r"weights: in the layout 'spmd' a worker has one file\. Leave the bytes of a part out"):
        weights.write(PLAN, given, out, part_bytes=10)
    with pytest.raises(ShardingError, match=r"weights: the plan has no weights\."):
        weights.write(plan_of(MESH, {}), given, out)
    with pytest.raises(ShardingError, match=r"write\(\), plan: it takes a Plan, and got"):
        weights.write("plan.json", given, out)
    with pytest.raises(ShardingError, match=r"weight 'w': safetensors files hold no int4\."):
        weights.write(plan_of(MESH, {"w": ((2,), "int4", "[-]")}), {"w": random_array((2,), "int4")}, out)
    assert not out.exists()
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(0, 0, 1000))
    with pytest.raises(ShardingError, match=r"out: \d\.\d kB are to be written, and its disk has 1\.0 kB free\. Make room"):
        weights.write(PLAN, given, out)
    monkeypatch.undo()
    monkeypatch.setattr(os, "pwrite", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(ShardingError, match=r"rank-\d-of-4\.safetensors: it cannot be written: No space left on device\. What is"):
        weights.write(PLAN, given, out)
    monkeypatch.undo()
    with journal.journal(out, "job"), pytest.raises(ShardingError, match=r"out: another process writes weights to it\."):
        weights.write(PLAN, given, out)
    assert not list(out.glob("*.safetensors")) and not (out / "weights.json").exists()


def test_what_does_not_fit_is_said_before_anything_is_written(tmp_path: Path) -> None:
    for name, array, text in (
        (
            "scale",
            random_array((9,), "float16"),
            r"weight 'scale': tensor 'scale' of .*model\.safetensors is float16\[9\], and the program",
        ),
        ("flag", np.zeros((), "int16"), r"weight 'flag': tensor 'flag' of .* is int16\[\], and the program takes int8\[\]\. Convert it"),
    ):
        given = checkpoint(tmp_path / "in", {**ARRAYS, name: array})
        with pytest.raises(ShardingError, match=text):
            weights.write(PLAN, given, tmp_path / "out")
    given = checkpoint(tmp_path / "in", {name: array for name, array in ARRAYS.items() if name != "qkv"})
    with pytest.raises(ShardingError, match=r"in: there is no tensor 'qkv' in it\."):
        weights.write(PLAN, given, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_journal_is_json(tmp_path: Path) -> None:
    with journal.journal(tmp_path, "one") as kept:
        kept.add("w", ["ab"])
    with journal.journal(tmp_path, "one") as kept:
        assert kept.done == {"w": ["ab"]}
    assert json.loads((tmp_path / journal.NAME).read_bytes().splitlines()[1]) == ["w", ["ab"]]
    with journal.journal(tmp_path, "two") as kept:
        assert not kept.done
