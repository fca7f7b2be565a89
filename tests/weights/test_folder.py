"""Cut folders that are not as they were written: each error names the weight and the file."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from spmd import Mesh, ShardingError, weights
from spmd.plan.decisions import Leaf
from spmd.weights.folder import Folder
from spmd.weights.partition import partition
from tests.weights.files import checkpoint, plan_of, random_array

WEIGHTS = {"a": ((6, 4), "float32", "[tp, -]"), "b": ((4, 6), "bfloat16", "[-, tp]")}
PLAN = plan_of(Mesh(tp=2), WEIGHTS)
FILE = "rank-1-of-2.safetensors"
ARRAYS = {name: random_array(shape, dtype) for name, (shape, dtype, _) in WEIGHTS.items()}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    weights.write(PLAN, checkpoint(tmp_path / "in", ARRAYS), tmp_path / "out")
    return tmp_path / "out"


def leaf(plan: Any, name: str) -> Leaf:
    return next(leaf for leaf in plan.functions["main"].params if leaf.name == name)


def load(folder: Path, name: str = "b", rank: int = 1, plan: Any = PLAN) -> Any:
    return Folder.of(folder).shard(leaf(plan, name), plan.mesh, rank)


def edited(file: str, change: Callable[[bytes], bytes]) -> Callable[[Path], Any]:
    return lambda folder: (folder / file).write_bytes(change((folder / file).read_bytes()))


def header(**change: Any) -> Callable[[Path], Any]:
    return edited("weights.json", lambda data: json.dumps({**json.loads(data), **change}).encode())


def renamed(folder: Path) -> None:
    for path, name in (
        ("rank-1-of-2.safetensors", "x"),
        ("rank-0-of-2.safetensors", "rank-1-of-2.safetensors"),
        ("x", "rank-0-of-2.safetensors"),
    ):
        (folder / path).rename(folder / name)


def of_another_cut(folder: Path) -> None:
    other = plan_of(Mesh(tp=2), {**WEIGHTS, "a": ((6, 4), "float32", "[-, tp]")})
    weights.write(other, folder.parent / "in", folder.parent / "other")
    (folder.parent / "other" / "rank-1-of-2.safetensors").rename(folder / "rank-1-of-2.safetensors")


WRONG: dict[str, tuple[Callable[[Path], Any], str]] = {
    "truncated": (
        edited(FILE, lambda d: d[:-4]),
        rf"weight 'b': .*{FILE}: tensor 'b' ends at byte 72 of the data, and the file has 68",
    ),
    "cut in its header": (
        edited(FILE, lambda d: d[:100]),
        rf"weight 'b': .*{FILE}: its header is said to have \d+ bytes, and",
    ),
    "corrupt": (
        edited(FILE, lambda d: d[:-1] + b"\x7f"),
        rf"weight 'b': tensor 'b' of .*{FILE} has the checksum \w+, and was written with",
    ),
    "renamed": (renamed, rf"weight 'b': .*{FILE} is of worker 0 of 2, and stands where worker 1 has its own: it was renamed"),
    "of another cut": (of_another_cut, rf"weight 'b': .*{FILE} is of another cut, and stands where worker 1 has its own"),
    "missing": (lambda f: (f / FILE).unlink(), rf"weight 'b': {FILE}, a file of worker 1, is missing in .*out\. Cut the weights again"),
    "no sums": (edited(FILE, lambda d: d.replace(b"spmd.sha256", b"spmd.sha512")), rf"{FILE}, spmd\.sha256: it is no JSON"),
    "a sum that is missing": (
        edited(FILE, lambda d: d.replace(b'\\"b\\"', b'\\"x\\"')),
        rf"weight 'b': .*{FILE} has no checksum of it\. Cut the weights again",
    ),
    "no header": (lambda f: (f / "weights.json").unlink(), r"out: there is no weights\.json in it\. Give a folder that"),
    "no JSON": (edited("weights.json", lambda d: d[:-9]), r"weights\.json: it is no JSON"),
    "twice": (edited("weights.json", lambda d: b'{"cut": "", "cut": ""}'), r"weights\.json: it is no JSON \('cut' comes twice\)"),
    "a path": (
        header(files=[["x"], ["../../x"]]),
        r"weights\.json: it names the file '\.\./\.\./x', which is no name of a file",
    ),
    "files of others": (header(files=[["x"]]), r"Header: the text has Header\(.*: it has files of 1 workers of Mesh\(tp=2\)\."),
    "a fingerprint": (header(cut="0" * 64), r"weights\.json: its fingerprint is of other weights: it was changed\."),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_folder_that_is_not_as_it_was(folder: Path, case: str) -> None:
    change, text = WRONG[case]
    change(folder)
    with pytest.raises(ShardingError, match=text):
        load(folder)


def test_a_header_that_lies_about_sizes(folder: Path) -> None:
    text = (folder / "weights.json").read_text()
    (folder / "weights.json").write_text(text.replace('"dtype": "float32"', '"dtype": "float31"'))
    with pytest.raises(ShardingError, match=r"Weight: the text has Weight\(.*: there is no dtype 'float31' in safetensors\."):
        load(folder)
    (folder / "weights.json").write_text(text.replace('"shape": [\n    6,', '"shape": [\n    -6,'))
    with pytest.raises(ShardingError, match=r"a weight has sizes of 0 or more, and a sharding of as many dimensions\."):
        load(folder)


def test_what_was_cut_for_another_program(folder: Path) -> None:
    other = plan_of(Mesh(tp=2), {"b": ((4, 6), "bfloat16", "[tp, -]"), "c": ((1,), "int8", "[-]"), "a": ((6, 5), "float32", "[tp, -]")})
    with pytest.raises(ShardingError, match=r"weight 'b': it was cut as \[-, tp\] in .*out, and the program takes \[tp, -\]\."):
        load(folder, plan=other)
    with pytest.raises(ShardingError, match=r"weight 'c': it is not in .*out\."):
        load(folder, "c", plan=other)
    with pytest.raises(ShardingError, match=r"weight 'a': it is float32\[6, 4\] in .*out, and the program takes float32\[6, 5\]\."):
        load(folder, "a", plan=other)
    wide = plan_of(Mesh(dp=2, tp=2), WEIGHTS)
    with pytest.raises(ShardingError, match=r"weight 'b': .*out was cut for Mesh\(tp=2\), and the program runs on Mesh\(dp=2, tp=2\)\."):
        load(folder, plan=wide)


def test_the_same_placement_in_other_words(folder: Path) -> None:
    alike = plan_of(Mesh(tp=2), {"a": ((6, 4), "float32", "[tp:6~3, -]"), "b": ((4, 6), "bfloat16", "[-, tp]")})
    expected = partition(PLAN, ARRAYS, 1)
    assert load(folder, "a", plan=alike).tobytes() == expected["a"].tobytes()
