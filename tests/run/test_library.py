"""A program compiled once: exported, loaded, run by workers as if they had compiled it; and folders that are not as they were."""

import json
from pathlib import Path

import numpy as np
import pytest
import tvm
from tvm import relax
from tvm.script import ir as I
from tvm.script import relax as R

import spmd
from spmd import Library, P, ShardingError
from spmd.testing import difference
from tests.programs import Mlp

COLUMNS = {"w1": P(None, "tp"), "w2": P("tp", None)}
ARRAYS = [np.random.default_rng(0).standard_normal(shape, np.float32) for shape in ((4, 16), (16, 32), (32, 16))]


@I.ir_module
class Constants:
    """A product with a constant, of a symbolic number of rows."""

    @R.function
    def main(x: R.Tensor(("n", 16), "float32"), w: R.Tensor((16, 8), "float32")):
        R.func_attr({"num_input": 1})
        with R.dataflow():
            y = R.matmul(x, w)
            R.output(y)
        return y


def with_constant() -> tvm.IRModule:
    """`Constants` with its weight written into it."""
    weight = np.random.default_rng(1).standard_normal((16, 8)).astype(np.float32)
    return relax.transform.BindParams("main", {"w": tvm.runtime.tensor(weight)})(Constants)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return spmd.build(spmd.shard(Mlp, 2, COLUMNS)).export(tmp_path_factory.mktemp("library") / "dist")


def test_a_loaded_library_runs_as_what_was_compiled(folder: Path) -> None:
    assert sorted(path.name for path in folder.iterdir()) == ["constants.bin", "program.json", "program.so"]
    with spmd.workers(spmd.load(folder)) as w, spmd.workers(spmd.shard(Mlp, 2, COLUMNS)) as compiled:
        assert w.mesh == spmd.Mesh(tp=2)
        handles = w.load(ARRAYS[1:], "main")
        assert not difference(compiled["main"](*ARRAYS), w["main"](ARRAYS[0], *handles))
        assert [(r.kind, r.value, r.bytes) for r in w.trace()] == [("all_reduce", "down", 256)]
        with pytest.raises(ShardingError, match=r"main\(\), parameter 'x': it takes float32 \[4, 16\], and got float32 \[2, 16\]"):
            w["main"](ARRAYS[0][:2], *handles)


def test_constants_and_symbolic_sizes_are_kept(tmp_path: Path) -> None:
    sharded = spmd.shard(with_constant(), 2, {"main.x": P(None, "tp")}, lift=16)
    assert sharded.plan.constants
    library = spmd.load(spmd.build(sharded).export(tmp_path))
    with spmd.workers(library) as w, spmd.workers(with_constant()) as whole:
        for rows in (1, 5):
            x = np.ones((rows, 16), np.float32)
            assert not difference(whole["main"](x), w["main"](x))


def test_a_library_in_memory_and_of_one_worker() -> None:
    library = spmd.build(Mlp)
    assert isinstance(library, Library) and library.mesh.size == 1
    with spmd.workers(library) as one, spmd.workers(spmd.build(spmd.shard(Mlp, 2, COLUMNS))) as two:
        assert not difference(one["main"](*ARRAYS), two["main"](*ARRAYS))


def test_exporting_again_replaces_what_was_there(tmp_path: Path) -> None:
    spmd.build(Mlp).export(tmp_path)
    assert spmd.load(spmd.build(spmd.shard(Mlp, 2, COLUMNS)).export(tmp_path)).mesh.size == 2
    assert len(list(tmp_path.iterdir())) == 3


def changed(folder: Path, to: Path, name: str, change: object) -> Path:
    for path in folder.iterdir():
        (to / path.name).write_bytes(path.read_bytes())
    if callable(change):
        (to / name).write_bytes(change((to / name).read_bytes()))
    else:
        (to / name).unlink()
    return to


def of_another_version(data: bytes) -> bytes:
    header = json.loads(data)
    header["versions"]["spmd"] = "0.0.1"
    return json.dumps(header).encode()


WRONG = {
    "program.so": (
        lambda data: data[:-1] + bytes([data[-1] ^ 1]),
        r"program\.so is not the file that was exported\. Build",
    ),
    "constants.bin": (None, r"constants\.bin is missing\."),
    "program.json": (of_another_version, r"it was built with spmd 0\.0\.1, apache-tvm .*, and here are spmd"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_folder_that_is_not_as_it_was(folder: Path, tmp_path: Path, name: str) -> None:
    change, text = WRONG[name]
    with pytest.raises(ShardingError, match=text):
        spmd.load(changed(folder, tmp_path, name, change))


def test_what_is_no_library(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(ShardingError, match=r"spmd\.load\(.*\): there is no program\.json in it\."):
        spmd.load(tmp_path)
    (tmp_path / "program.json").write_text("{")
    with pytest.raises(ShardingError, match="the text is no JSON"):
        spmd.load(tmp_path)
    with pytest.raises(ShardingError, match=r"workers\(\), target: the library is compiled for llvm, and a target is given, too\."):
        spmd.workers(spmd.load(folder), target="opencl")


def test_code_for_another_cpu(folder: Path, tmp_path: Path) -> None:
    def for_more(data: bytes) -> bytes:
        header = json.loads(data)
        header["target"] = json.dumps({"kind": "llvm", "mtriple": "x86_64-linux-gnu", "mcpu": "diamondrapids"})
        return json.dumps(header).encode()

    with pytest.raises(ShardingError, match=r"it is compiled for diamondrapids, and this machine has no amx"):
        spmd.load(changed(folder, tmp_path, "program.json", for_more))
