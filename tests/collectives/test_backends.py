"""What every backend must do: each test runs on all that can run here, and knows nothing of how they work."""

import signal
import threading
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import tvm
import tvm_ffi

from spmd.collectives import CollectiveError, Record, make_backend
from spmd.collectives.pool import Pool, WorkerError
from spmd.placement.mesh import Mesh
from tests.collectives.expected import DTYPES, KINDS, data, expect, numpy_dtype
from tests.pocl import need_pocl

BACKENDS = ["threads", "pocl"]
MESHES = [Mesh(tp=1), Mesh(tp=2), Mesh(tp=3), Mesh(tp=4), Mesh(dp=2, tp=2), Mesh(dp=2, tp=3)]
SECONDS = 10.0  # far above what any report takes, far below a hang


@pytest.fixture(params=BACKENDS)
def start(request: pytest.FixtureRequest) -> Iterator[Callable[..., Pool]]:
    """`start(mesh)`: a pool of workers, closed after the test."""
    pools: list[Pool] = []

    if request.param == "pocl":
        need_pocl()

    def start(mesh: Mesh, timeout: float = SECONDS) -> Pool:
        pools.append(Pool(make_backend(request.param, mesh, timeout)))
        return pools[-1]

    yield start
    for pool in pools:
        pool.close()


def carry(op: str, x: np.ndarray, shape: tuple[int, ...], axis: str, *rest: object) -> np.ndarray:
    """One collective of the calling worker, as a compiled program calls it."""
    out = tvm.runtime.empty(shape, x.dtype.name)
    tvm_ffi.get_global_func(f"spmd.{op}")(tvm.runtime.tensor(x), axis, *rest, out)
    return out.numpy()


def check(pool: Pool, axis: str, op: str, xs: list[np.ndarray], own: tuple) -> None:
    """Run `op` on every worker and compare with NumPy."""
    mesh, size = pool.backend.mesh, pool.backend.mesh.axis_size(axis)
    groups = {rank: group for group in mesh.groups(axis) for rank in group}
    want = [expect(op, [xs[m] for m in groups[r]], groups[r].index(r), own) for r in range(mesh.size)]
    sent = tuple(tvm.runtime.ShapeTuple(o) if isinstance(o, tuple) else o for o in own)
    got = pool.run(op, lambda r: carry(op, xs[r], want[r].shape, axis, *sent, size, "v"))
    for rank in range(mesh.size):
        np.testing.assert_array_equal(got[rank], want[rank], err_msg=f"{op}{own} over {axis}, worker {rank}")
        assert got[rank].dtype == want[rank].dtype


@pytest.mark.parametrize("mesh", MESHES, ids=str)
def test_every_operation_along_every_axis(start: Callable[..., Pool], mesh: Mesh) -> None:
    pool = start(mesh)
    joined = ["+".join(mesh.axes), "+".join(reversed(mesh.axes))] if len(mesh.axes) > 1 else []
    for axis in (*mesh.axes, *joined):
        n = mesh.axis_size(axis)
        xs = data(mesh, (2 * n, 3, n), "float32")
        for kind in KINDS:
            check(pool, axis, "all_reduce", xs, (kind,))
            check(pool, axis, "reduce_scatter", xs, (kind, 0))
        check(pool, axis, "reduce_scatter", xs, ("sum", 2))
        for dim in range(3):
            check(pool, axis, "all_gather", xs, (dim,))
        for split in (0, 2):
            for concat in range(3):
                check(pool, axis, "all_to_all", xs, (split, concat))
        for root in range(n):
            check(pool, axis, "broadcast", xs, (root,))
        check(pool, axis, "permute", xs, (tuple(i for s in range(n) for i in (s, (s + 1) % n)),))
        check(pool, axis, "permute", xs, ((0, n - 1),))
        check(pool, axis, "permute", xs, ((),))


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype(start: Callable[..., Pool], dtype: str) -> None:
    pool = start(Mesh(tp=3))
    xs = data(pool.backend.mesh, (3, 6), dtype)
    for kind in KINDS:
        check(pool, "tp", "all_reduce", xs, (kind,))
        check(pool, "tp", "reduce_scatter", xs, (kind, 1))
    for op, own in (("all_gather", (1,)), ("all_to_all", (0, 1)), ("permute", ((0, 1),)), ("broadcast", (2,))):
        check(pool, "tp", op, xs, own)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_narrow_sums_are_rounded_once(start: Callable[..., Pool], dtype: str) -> None:
    pool = start(Mesh(tp=3))
    big = {"float16": 2048.0, "bfloat16": 256.0}[dtype]  # adding 1 to it is lost in this dtype, adding 2 is not
    xs = [np.full(1, v, numpy_dtype(dtype)) for v in (big, 1.0, 1.0)]
    got = pool.run("sum", lambda r: carry("all_reduce", xs[r], (1,), "tp", "sum", 3, "v"))
    assert [float(g[0]) for g in got] == [big + 2.0] * 3


def test_tensors_of_no_size_and_of_no_dimensions(start: Callable[..., Pool]) -> None:
    pool = start(Mesh(tp=2))
    check(pool, "tp", "all_reduce", [np.float32([[]])] * 2, ("sum",))
    check(pool, "tp", "all_gather", [np.zeros((0, 2), np.float32)] * 2, (0,))
    check(pool, "tp", "all_reduce", [np.array(1.5, np.float32), np.array(2.0, np.float32)], ("sum",))


@pytest.mark.parametrize("mesh", MESHES, ids=str)
def test_axis_index(start: Callable[..., Pool], mesh: Mesh) -> None:
    def index(axis: str) -> int:
        out = tvm.runtime.empty((), "int64")
        tvm_ffi.get_global_func("spmd.axis_index")(axis, mesh.axes[axis], out)
        return int(out.numpy())

    got = start(mesh).run("index", lambda r: {axis: index(axis) for axis in mesh.axes})
    assert got == [mesh.coordinates(r) for r in range(mesh.size)]


def test_many_in_a_row_on_both_axes(start: Callable[..., Pool]) -> None:
    mesh = Mesh(dp=2, tp=2)

    def task(rank: int) -> np.ndarray:
        x = np.full(8, rank + 1.0, np.float32)
        for i in range(200):
            x = carry("all_reduce", x, (8,), "tp" if i % 2 else "dp", "max", 2, f"v{i}")
        return x

    for got in start(mesh).run("chain", task):
        np.testing.assert_array_equal(got, np.full(8, 4.0, np.float32))


def test_trace(start: Callable[..., Pool]) -> None:
    pool = start(Mesh(tp=2))
    for _ in range(2):  # a trace is of one run
        check(pool, "tp", "reduce_scatter", data(Mesh(tp=2), (4, 3), "bfloat16"), ("sum", 0))
        record = Record("reduce_scatter", "tp", 24, "bfloat16", (4, 3), "v", ("sum", 0), 0)
        assert [pool.communicator(r).trace() for r in range(2)] == [(record,)] * 2


def test_a_trace_that_is_listed_later(start: Callable[..., Pool]) -> None:
    """When the next run has begun, and has done something else, it is still that of the run that it was taken after."""
    pool = start(Mesh(tp=2))
    taken = []
    for op, own in (("reduce_scatter", ("sum", 0)), ("all_gather", (0,))):
        check(pool, "tp", op, data(Mesh(tp=2), (4, 3), "float32"), own)
        taken.append(pool.communicator(1).recorded())
    assert [[record.kind for record in recorded()] for recorded in taken] == [["reduce_scatter"], ["all_gather"]]


def carry_bundle(op: str, xs: list[np.ndarray], shapes: list[tuple[int, ...]], axis: str, *rest: object) -> list[np.ndarray]:
    """One collective of several tensors."""
    outs = [tvm.runtime.empty(shape, x.dtype.name) for shape, x in zip(shapes, xs, strict=True)]
    tvm_ffi.get_global_func(f"spmd.{op}")(*map(tvm.runtime.tensor, xs), axis, *rest, *outs)
    return [out.numpy() for out in outs]


@pytest.mark.parametrize(
    ("op", "own"),
    [("all_reduce", ("sum",)), ("all_gather", (0,)), ("reduce_scatter", ("max", 0)), ("all_to_all", (0, 1)), ("permute", ((0, 1),))],
)
def test_a_bundle_does_the_same_to_each_tensor(start: Callable[..., Pool], op: str, own: tuple) -> None:
    mesh = Mesh(dp=2, tp=2)
    pool = start(mesh)
    arrays = {"u": data(mesh, (4, 6), "float16"), "v": data(mesh, (2, 3, 5), "float16")}
    for axis in mesh.axes:
        groups = {rank: group for group in mesh.groups(axis) for rank in group}
        want = [[expect(op, [xs[m] for m in groups[r]], groups[r].index(r), own) for xs in arrays.values()] for r in range(mesh.size)]
        sent = tuple(tvm.runtime.ShapeTuple(o) if isinstance(o, tuple) else o for o in own)

        def task(rank: int, axis: str = axis, want: list = want, sent: tuple = sent) -> list[np.ndarray]:
            return carry_bundle(op, [xs[rank] for xs in arrays.values()], [w.shape for w in want[rank]], axis, *sent, 2, "u, v")

        for got, wanted in zip(pool.run(op, task), want, strict=True):
            for array, whole in zip(got, wanted, strict=True):
                np.testing.assert_array_equal(array, whole)
    trace = pool.communicator(3).trace()
    assert [(r.value, r.shape, r.call) for r in trace] == [("u", (4, 6), 0), ("v", (2, 3, 5), 0)]


def failing(pool: Pool, task: Callable[[int], object]) -> str:
    """The error of `task`, which must come to every worker that is in a collective; then all must work again."""
    caught: dict[int, str] = {}

    def watched(rank: int) -> None:
        try:
            task(rank)
        except CollectiveError as error:
            caught[rank] = str(error)
            raise

    with pytest.raises(WorkerError) as raised:
        pool.run("'main'", watched)
    assert len(set(caught.values())) <= 1, "everyone is told the same"
    mesh = pool.backend.mesh
    for axis in mesh.axes:
        check(pool, axis, "all_reduce", data(mesh, (4,), "float32"), ("sum",))
    assert raised.value.__cause__ is not None
    return str(raised.value)


def reduced(x: np.ndarray, axis: str = "tp", kind: str = "sum", value: str = "lv3", workers: int = 2) -> np.ndarray:
    return carry("all_reduce", x, x.shape, axis, kind, workers, value)


X = np.ones((2, 4), np.float32)
DISAGREE = {
    "operation": (lambda: carry("all_gather", X, (4, 4), "tp", 0, 2, "lv3"), "all_gather(0) of 'lv3', float32 [2, 4]"),
    "kind": (lambda: reduced(X, kind="max"), "all_reduce('max') of 'lv3'"),
    "value": (lambda: reduced(X, value="lv4"), "all_reduce('sum') of 'lv4'"),
    "shape": (lambda: reduced(X[:1]), "float32 [1, 4]"),
    "dtype": (lambda: reduced(X.astype(np.float16)), "float16 [2, 4]"),
}


@pytest.mark.parametrize("what", DISAGREE)
def test_workers_that_disagree(start: Callable[..., Pool], what: str) -> None:
    other, text = DISAGREE[what]
    error = failing(start(Mesh(tp=2)), lambda r: other() if r else reduced(X))
    assert "workers disagree on a collective over mesh axis 'tp':" in error
    assert "worker 0 is in all_reduce('sum') of 'lv3', float32 [2, 4], over axis 'tp'" in error
    assert "worker 1 is in " in error
    assert text in error


def test_workers_on_different_axes(start: Callable[..., Pool]) -> None:
    pool = start(Mesh(dp=2, tp=2))

    def task(rank: int) -> None:
        time.sleep(0.1 * (rank > 1))
        reduced(X, axis="dp" if rank == 1 else "tp")

    error = failing(pool, task)
    assert "worker 3 returned while worker 1 waits for it:" in error or "every worker waits" in error
    assert "worker 0 is in all_reduce('sum') of 'lv3', float32 [2, 4], over axis 'tp', waiting for 1" in error
    assert "worker 1 is in all_reduce('sum') of 'lv3', float32 [2, 4], over axis 'dp', waiting for 3" in error


@pytest.mark.parametrize("late", [False, True])
def test_a_worker_that_fails(start: Callable[..., Pool], late: bool) -> None:
    def task(rank: int) -> None:
        if rank == 1:
            time.sleep(0.1 * late)
            raise ValueError("no such row")
        time.sleep(0.1 * (not late))
        reduced(X, workers=3)

    error = failing(start(Mesh(tp=3)), task)
    assert error == "worker 1 failed in 'main': ValueError: no such row"


@pytest.mark.parametrize("late", [False, True])
def test_a_worker_that_returns(start: Callable[..., Pool], late: bool) -> None:
    def task(rank: int) -> None:
        time.sleep(0.1 * ((rank == 1) == late))
        if rank != 1:
            reduced(X)

    error = failing(start(Mesh(tp=2)), task)
    assert "worker 1 returned while worker 0 waits for it:" in error
    assert "worker 0 is in all_reduce('sum') of 'lv3', float32 [2, 4], over axis 'tp', waiting for 1" in error


def test_a_worker_that_does_not_come_in_time(start: Callable[..., Pool]) -> None:
    pool, done = start(Mesh(tp=2), timeout=0.3), threading.Event()
    error = failing(pool, lambda r: done.wait(0.5) if r else reduced(X))
    assert "worker 0 waited 0.3 seconds:" in error
    assert "worker 1 runs" in error


def test_a_worker_that_never_comes_back(start: Callable[..., Pool]) -> None:
    pool, done = start(Mesh(tp=2), timeout=0.2), threading.Event()
    with pytest.raises(WorkerError, match=r"worker 0 waited 0\.2 seconds"):
        pool.run("'main'", lambda r: done.wait(SECONDS) if r else reduced(X))
    with pytest.raises(RuntimeError, match="'main' cannot run: worker 1 did not come back from 'main' after another failed"):
        pool.run("'main'", lambda r: None)
    done.set()


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Ctrl-C is an exception, which it is not where the tests run in the background of a shell."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_an_interrupt_of_the_caller_releases_all(start: Callable[..., Pool]) -> None:
    pool = start(Mesh(tp=2))
    caller, done = threading.main_thread().ident, threading.Event()
    assert caller is not None
    threading.Timer(0.2, lambda: signal.pthread_kill(caller, signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        pool.run("'main'", lambda r: done.wait(SECONDS) if r else reduced(X))
    done.set()
    with pytest.raises(RuntimeError, match="'main' cannot run: 'main' was interrupted"):
        pool.run("'main'", lambda r: None)


def test_sizes_that_cannot_be_split(start: Callable[..., Pool]) -> None:
    pool = start(Mesh(tp=2))
    error = failing(pool, lambda r: carry("reduce_scatter", X[:, :3], (2, 1), "tp", "sum", 1, 2, "lv3"))
    assert "dimension 1 of (2, 3) cannot be split over 2 workers" in error


def test_types_that_are_packed(start: Callable[..., Pool]) -> None:
    def task(_rank: int) -> None:
        x = tvm.runtime.empty((4,), "int4")
        tvm_ffi.get_global_func("spmd.all_reduce")(x, "tp", "sum", 2, "lv3", x)

    assert "cannot move int4: its elements are packed, 4 bits each" in failing(start(Mesh(tp=2)), task)


def test_a_program_for_another_mesh(start: Callable[..., Pool]) -> None:
    text = failing(start(Mesh(tp=2)), lambda r: reduced(X, workers=4))
    assert "spmd.all_reduce over mesh axis 'tp' of 4 workers: these workers are Mesh(tp=2)." in text


def test_a_call_outside_of_a_worker() -> None:
    with pytest.raises(CollectiveError, match=r"spmd\.all_reduce: this thread is no worker\. A program with R\.spmd"):
        reduced(X)


def test_closed_workers_say_so(start: Callable[..., Pool]) -> None:
    pool = start(Mesh(tp=2))
    pool.close()
    pool.close()
    with pytest.raises(RuntimeError, match="'main' cannot run: the workers are closed"):
        pool.run("'main'", lambda r: None)


def test_workers_that_nobody_holds_go() -> None:
    pool = Pool(make_backend("threads", Mesh(tp=2), 1.0))
    threads = pool._threads
    del pool
    for thread in threads:
        thread.join(SECONDS)
        assert not thread.is_alive()


def test_an_unknown_backend_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"workers: there is no backend 'mpii'\. Known are 'threads'"):
        make_backend("mpii", Mesh(tp=2), 1.0)
