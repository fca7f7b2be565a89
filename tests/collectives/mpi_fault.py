"""Run by `test_faults.py` on two processes: rank 1 does what the first argument says, while rank 0 goes on."""

import os
import signal
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest
import tvm
import tvm_ffi
from mpi4py import MPI
from tvm.script import ir as I
from tvm.script import relax as R

import spmd
from spmd.collectives import CollectiveError
from spmd.collectives.mpi import MPIBackend
from spmd.collectives.pool import WorkerError
from spmd.errors import ShardingError
from spmd.placement.mesh import Mesh
from spmd.placement.sharding import Sharding
from spmd.plan.decisions import Leaf, Signature

CASE = sys.argv[1]
RANK = MPI.COMM_WORLD.rank
X = np.arange(64, dtype=np.float32).reshape(8, 8)


@tvm_ffi.register_global_func("tests.faults.here", override=True)
def here(x: tvm.runtime.Tensor, out: tvm.runtime.Tensor) -> None:
    """What happens in the middle of a step."""
    out.copyfrom(x)
    if x.numpy()[0, 0] < 0:
        raise ValueError("no negative numbers")
    if RANK == 1 and CASE == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if RANK == 1 and CASE == "raises":
        raise ValueError("no such row")
    if RANK == 1 and CASE == "memory":
        np.ones(1 << 60, "uint8")
    if RANK == 1 and CASE == "late":
        time.sleep(60)


@I.ir_module
class Program:
    """What each of two workers runs."""

    @R.function
    def main(x: R.Tensor((4, 8), "float32")):
        y = R.call_dps_packed("tests.faults.here", (x,), out_ty=R.Tensor((4, 8), "float32"))
        z = R.spmd.all_reduce(y, axis="tp", kind="sum", workers=2, value="total")
        return z

    @R.function
    def other(x: R.Tensor((4, 8), "float32")):
        z = R.spmd.all_reduce(x, axis="tp", kind="max", workers=2, value="largest")
        return z

    @R.function
    def operation(x: R.Tensor((4, 8), "float32")):
        # the two workers go different ways, and come to different collectives
        place = R.spmd.axis_index(axis="tp", workers=2)
        flag = R.equal(place, R.const(1, "int64"))
        if flag:
            y = R.spmd.all_gather(x, axis="tp", dim=0, workers=2, value="rows")
            z = R.sum(y, axis=[0])
        else:
            w = R.spmd.all_reduce(x, axis="tp", kind="sum", workers=2, value="total")
            z = R.sum(w, axis=[0])
        return z

    @R.function
    def size(x: R.Tensor((4, 8), "float32")):
        # the same collective, of which one worker brings half as much
        place = R.spmd.axis_index(axis="tp", workers=2)
        flag = R.equal(place, R.const(1, "int64"))
        if flag:
            half = R.strided_slice(x, axes=[0], begin=[0], end=[2])
            y = R.spmd.all_reduce(half, axis="tp", kind="sum", workers=2, value="total")
            z = R.sum(y, axis=[0])
        else:
            w = R.spmd.all_reduce(x, axis="tp", kind="sum", workers=2, value="total")
            z = R.sum(w, axis=[0])
        return z

    @R.function
    def pieces(x: R.Tensor((4, 8), "float32")):
        # two collectives that meet more or less often for a piece of what is large
        place = R.spmd.axis_index(axis="tp", workers=2)
        flag = R.equal(place, R.const(1, "int64"))
        large = R.broadcast_to(R.reshape(x, (1, 32)), (100000, 32))
        if flag:
            y = R.spmd.all_gather(large, axis="tp", dim=0, workers=2, value="rows")
            z = R.sum(y, axis=[0])
        else:
            w = R.spmd.all_reduce(large, axis="tp", kind="sum", workers=2, value="total")
            z = R.sum(w, axis=[0])
        return z

    @R.function
    def more(x: R.Tensor((4, 8), "float32")):
        # one worker comes to a collective, the other to none
        place = R.spmd.axis_index(axis="tp", workers=2)
        flag = R.equal(place, R.const(1, "int64"))
        if flag:
            z = R.sum(x, axis=[0])
        else:
            w = R.spmd.all_reduce(x, axis="tp", kind="sum", workers=2, value="total")
            z = R.sum(w, axis=[0])
        return z

    @R.function
    def silent(x: R.Tensor((4, 8), "float32")):
        # the same call of MPI for different values: MPI sees nothing wrong
        place = R.spmd.axis_index(axis="tp", workers=2)
        flag = R.equal(place, R.const(1, "int64"))
        if flag:
            y = R.spmd.all_reduce(x, axis="tp", kind="sum", workers=2, value="one")
            z = R.negative(y)
        else:
            w = R.spmd.all_reduce(x, axis="tp", kind="sum", workers=2, value="another")
            z = R.negative(w)
        return z


@I.ir_module
class NotCompiled:
    """TVM negates no unsigned numbers."""

    @R.function
    def main(x: R.Tensor((4, 8), "float32")):
        y = R.astype(x, "uint8")
        z = R.negative(y)
        return z


def leaf(name: str, shape: tuple[int, ...], sharding: str) -> Leaf:
    return Leaf(name, shape, "float32", Sharding.parse(sharding, shape))


ROWS, WHOLE = leaf("x", (8, 8), "[tp, -]"), leaf("z", (4, 8), "[-, -]")
FUNCTIONS = {name: Signature((ROWS,), WHOLE, None) for name in ("main", "other", "silent")}
FUNCTIONS |= {name: Signature((ROWS,), leaf("z", (8,), "[-]"), None) for name in ("operation", "size", "more")}
FUNCTIONS["pieces"] = Signature((ROWS,), leaf("z", (32,), "[-]"), None)
DIFFERENT = {
    "operation": ("all_reduce('sum') of 'total', 32", "all_gather(0) of 'rows', 32"),
    "size": ("all_reduce('sum') of 'total', 32", "all_reduce('sum') of 'total', 16"),
    "pieces": ("all_reduce('sum') of 'total', 3200000", "all_gather(0) of 'rows', 3200000"),
    "silent": ("all_reduce('sum') of 'another', 32", "all_reduce('sum') of 'one', 32"),
}
"""What the two workers come to in these functions, and the elements that they bring."""


def sharded(mod: tvm.IRModule = Program) -> SimpleNamespace:
    functions = {name: FUNCTIONS[name] for name in (g.name_hint for g in mod.get_global_vars())}
    return SimpleNamespace(mod=mod, mesh=Mesh(tp=2), plan=SimpleNamespace(divisible={}, functions=functions))


def hard(w: spmd.run.workers.Workers) -> None:
    """What only the end of all processes can end."""
    if CASE == "leaves" and RANK == 1:
        return
    if CASE == "file" and RANK == 1:
        spmd.load("nowhere")
    w[CASE if CASE == "more" else "main"](X)
    print("not reached", flush=True)


def soft(w: spmd.run.workers.Workers) -> None:
    """What every process is told, and after which all go on."""

    def goes_on() -> None:
        np.testing.assert_array_equal(w["other"](X), np.maximum(X[:4], X[4:]))

    with pytest.raises(
        CollectiveError, match=r"(?s)workers disagree on what to run:\n  worker 0 is about to run 'main' with .*worker 1.*'other'"
    ):
        w["other" if RANK else "main"](X)
    goes_on()
    with pytest.raises(CollectiveError, match="workers disagree on what to run"):
        w["main"](X + RANK)
    goes_on()
    with pytest.raises(WorkerError, match=rf"worker {RANK} failed in 'main': ValueError: no negative numbers"):
        w["main"](-X - 1)
    goes_on()
    np.testing.assert_array_equal(w["main"](X), X[:4] + X[4:])
    for name, texts in DIFFERENT.items():
        with pytest.raises(WorkerError, match="CollectiveError: workers disagree on a collective over mesh axis 'tp':\n") as raised:
            w[name](X)
        for rank, text in enumerate(texts):
            assert f"  worker {rank} is in {text} elements of float32, over axis 'tp'" in f"{raised.value}", name
        goes_on()
    with pytest.raises(ShardingError, match=r"Mesh\(tp=3\) has 3 workers, and MPI has started 2\. python -m spmd run -n 3"):
        spmd.workers(SimpleNamespace(**{**vars(sharded()), "mesh": Mesh(tp=3)}), backend="mpi")
    with pytest.raises(ShardingError, match="backend 'mpi' runs on the CPU, and the target is 'opencl'"):
        spmd.workers(sharded(), backend="mpi", target="opencl")
    part = tvm.IRModule({"main": Program["main"], "other": Program["other"]})
    with pytest.raises((CollectiveError, WorkerError), match="workers disagree on what to run"):
        spmd.workers(sharded(part if RANK else Program), backend="mpi")
    if RANK:
        MPIBackend.library = "another MPI"  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises((CollectiveError, WorkerError), match=r"(?s)workers disagree on what to run.*another MPI"):
        spmd.workers(sharded(), backend="mpi")
    with pytest.raises(ShardingError, match=r"workers\(\): TVM cannot compile the program for llvm: .*from negative value"):
        spmd.workers(sharded(NotCompiled), backend="mpi")
    goes_on()
    print("went on", flush=True)


if __name__ == "__main__":
    with spmd.workers(sharded(), backend="mpi", timeout=20.0 if CASE == "soft" else 3.0) as running:
        np.testing.assert_array_equal(running["other"](X), np.maximum(X[:4], X[4:]))
        print("began", flush=True)
        (soft if CASE == "soft" else hard)(running)
