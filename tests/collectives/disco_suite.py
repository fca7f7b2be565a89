"""Run by `test_ccl.py`: the shared suite and a whole module as `R.ccl`, in a session of Disco whose collectives are those of `disco.py`.

The argument is the kind of session, of threads or of processes. Each part has its own words when all is well.
"""

import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tvm

import spmd
from spmd import P
from spmd.collectives.ccl import to_ccl
from spmd.placement.mesh import Mesh
from spmd.schedules import build
from tests.collectives import disco
from tests.collectives.expected import data, expect
from tests.collectives.suite import Asked, asked, program
from tests.programs import Mlp

FAST = {"kind": "llvm", "opt-level": 0}
Call = Callable[..., list[list[np.ndarray]]]


def started(kind: str, workers: int, groups: int, folder: Path) -> Any:
    """A session, and its folder for meetings."""
    meetings = folder / f"meetings-{workers}"
    meetings.mkdir()
    os.environ[disco.FOLDER], os.environ[f"{disco.FOLDER}_GROUPS"] = str(meetings), str(groups)
    disco.forget()
    how = {"entrypoint": "tests.collectives.disco"} if kind == "ProcessSession" else {}
    return getattr(disco.ready(), kind)(workers, groups, **how)


def loaded(session: Any, mod: tvm.IRModule, path: Path) -> Call:
    """Runs a function of `mod` on what each worker has of each argument: what each one gets."""
    build(mod, FAST).export_library(str(path))
    ready = session.load_vm_module(str(path), device=tvm.cpu())

    def call(name: str, *arguments: list[np.ndarray]) -> list[list[np.ndarray]]:
        given = []
        for each in arguments:
            given.append(session.empty(each[0].shape, str(each[0].dtype), device=tvm.cpu()))
            for rank, own in enumerate(each):
                given[-1].debug_copy_from(rank, tvm.runtime.tensor(own))
        result = ready[name](*given)
        found = [result.debug_get_from_remote(rank) for rank in range(session.num_workers)]
        return [[f.numpy()] if isinstance(f, tvm.runtime.Tensor) else [y.numpy() for y in f] for f in found]

    return call


def check(call: Call, mesh: Mesh, cases: list[Asked]) -> str:
    """Run the cases of a mesh and compare."""
    for number, case in enumerate(cases):
        given = [data(mesh, shape, case.dtype) for shape in case.shapes]
        found = call(f"case_{number}", *([x[None] for x in each] for each in given))
        groups = {rank: group for group in mesh.groups(case.axis) for rank in group}
        for i, xs in enumerate(given):
            for rank in range(mesh.size):
                want = expect(case.op, [xs[m] for m in groups[rank]], groups[rank].index(rank), case.own)
                np.testing.assert_array_equal(found[rank][i][0], want, err_msg=f"{case}, worker {rank}")
    return f"{len(cases)} collectives over {sorted({case.axis for case in cases})}"


def whole(session: Any, folder: Path) -> str:
    """A module that `spmd.lower` writes, on shares that `partition` cuts."""
    arrays = [np.random.default_rng(0).standard_normal(shape, np.float32) for shape in ((4, 16), (16, 32), (32, 16))]
    specs = {"w1": P(None, "tp"), "w2": P("tp", None)}
    mod = spmd.lower(Mlp, spmd.plan(Mlp, 2, specs), collectives="ccl")
    assert "R.ccl.allreduce" in mod.script() and "spmd." not in mod.script()
    shares = spmd.shard(Mlp, 2, specs).partition({"w1": arrays[1], "w2": arrays[2]})
    call = loaded(session, mod, folder / "whole.so")
    found = call("main", [arrays[0]] * 2, *([share[name] for share in shares] for name in ("w1", "w2")))
    with spmd.workers(Mlp) as alone:
        wanted = alone["main"](*arrays)
    for own in found:
        np.testing.assert_allclose(own[0], wanted, rtol=1e-4, atol=1e-4)
    return f"{len(found)} workers"


def main(kind: str, folder: Path) -> None:
    """All parts."""
    mesh, every = Mesh(tp=2), 2 if kind == "ThreadedSession" else 16
    session = started(kind, mesh.size, 1, folder)
    cases = list(asked(mesh))[::every]
    mod = to_ccl(program(mesh, cases).mod, mesh)
    assert "spmd." not in mod.script() and "R.ccl." in mod.script()
    print(f"2 workers: {check(loaded(session, mod, folder / 'two.so'), mesh, cases)}", flush=True)
    if kind == "ThreadedSession":
        mesh = Mesh(dp=2, tp=2)
        cases = [case for case in list(asked(mesh))[::7] if case.axis in ("tp", "dp+tp")]
        mod = to_ccl(program(mesh, cases).mod, mesh)
        assert int(mod["case_0"].attrs["ccl_groups"]) == 2
        call = loaded(started(kind, mesh.size, 2, folder), mod, folder / "four.so")
        print(f"4 workers in 2 groups: {check(call, mesh, cases)}", flush=True)
        session = started(kind, 2, 1, folder / "again")
    print(f"a whole module: {whole(session, folder)}", flush=True)
    session.shutdown()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as made:
        (Path(made) / "again").mkdir()
        main(sys.argv[1], Path(made))
    os._exit(0)  # sessions of this wheel write to workers that have ended when Python gives them back
