"""`spmd.workers` on programs written by hand: global arrays in, global arrays out."""

import threading
import time
from collections.abc import Iterator
from types import SimpleNamespace

import ml_dtypes
import numpy as np
import pytest
import tvm
import tvm_ffi
from tvm import relax
from tvm.script import ir as I
from tvm.script import relax as R
from tvm.script import tirx as T

from spmd.collectives import Backend, Communicator, register_backend
from spmd.collectives.pool import WorkerError
from spmd.collectives.threads import ThreadBackend
from spmd.errors import ShardingError
from spmd.placement.mesh import Mesh
from spmd.placement.sharding import Sharding
from spmd.plan.decisions import Leaf, LeafTree, Signature
from spmd.run.workers import Workers, workers


@tvm_ffi.register_global_func("tests.workers.new_cache", override=True)
def new_cache(x: tvm.runtime.Tensor) -> tvm_ffi.Array:
    return tvm_ffi.convert([x, "cache"])


@tvm_ffi.register_global_func("tests.workers.read_cache", override=True)
def read_cache(cache: tvm_ffi.Array, out: tvm.runtime.Tensor) -> None:
    out.copyfrom(cache[0])


@tvm_ffi.register_global_func("tests.workers.explode", override=True)
def explode(x: tvm.runtime.Tensor, out: tvm.runtime.Tensor) -> None:
    if x.numpy()[0, 0] < 0:
        raise ValueError("no negative numbers")
    out.copyfrom(x)


@I.ir_module
class Program:
    """What each worker of Mesh(dp=2, tp=2) runs; sizes are local."""

    @R.function
    def main(x: R.Tensor(("n", 4), "float32"), w: R.Tensor((4, 6), "float32"), b: R.Tensor((6,), "float32")):
        R.func_attr({"num_input": 1})
        with R.dataflow():
            part = R.matmul(x, w)
            y = R.spmd.all_reduce(part, axis="tp", kind="sum", workers=2, value="part")
            z = R.add(y, b)
            R.output(z)
        return z

    @R.function
    def packed(x: R.Tensor(("n", 4), "float32"), ws: R.Tuple(R.Tensor((4, 6), "float32"), R.Tensor((6,), "float32"))):
        R.func_attr({"num_input": 1})
        with R.dataflow():
            part = R.matmul(x, ws[0])
            y = R.spmd.all_reduce(part, axis="tp", kind="sum", workers=2, value="part")
            z = R.add(y, ws[1])
            R.output(y, z)
        return (z, (y, x))

    @R.function
    def same_rows(x: R.Tensor(("n", 4), "float32"), y: R.Tensor(("n", 4), "float32")):
        with R.dataflow():
            z = R.add(x, y)
            R.output(z)
        return z

    @R.function
    def shaped(s: R.Shape(["n", "m"]), dtype_free: R.Prim("int64")):
        n = T.int64()
        m = T.int64()
        with R.dataflow():
            z = R.zeros(R.shape([n, m]), "float32")
            R.output(z)
        return (z, R.shape([m, n]), dtype_free)

    @R.function(pure=False)
    def create(x: R.Tensor((2, 4), "float32")):
        cache = R.call_packed("tests.workers.new_cache", x, ty_args=[R.Object])
        return cache

    @R.function
    def read(cache: R.Object):
        with R.dataflow():
            y = R.call_dps_packed("tests.workers.read_cache", (cache,), out_ty=R.Tensor((2, 4), "float32"))
            R.output(y)
        return y

    @R.function
    def fragile(x: R.Tensor((1, 4), "float32")):
        with R.dataflow():
            y = R.call_dps_packed("tests.workers.explode", (x,), out_ty=R.Tensor((1, 4), "float32"))
            z = R.spmd.all_reduce(y, axis="dp", kind="max", workers=2, value="y")
            R.output(z)
        return z

    @R.function
    def narrow(x: R.Tensor((2, 3), "bfloat16"), flag: R.Tensor((), "bool")):
        with R.dataflow():
            y = R.spmd.all_gather(x, axis="tp", dim=0, workers=2, value="x")
            R.output(y)
        return (y, flag)


def leaf(name: str, shape: tuple[int | str, ...], sharding: str, dtype: str = "float32") -> Leaf:
    return Leaf(name, shape, dtype, Sharding.parse(sharding, tuple(s if isinstance(s, int) else -1 for s in shape)))


X, W, B = leaf("x", ("n", 8), "[-, tp]"), leaf("w", (8, 6), "[tp, -]"), leaf("b", (6,), "[-]")
Y = leaf("y", ("n", 6), "[-, -]")
OBJECT = Leaf("cache", None, "object", None)


def signature(*params: LeafTree, out: LeafTree, num_input: int | None = None) -> Signature:
    return Signature(params, out, num_input)


SHARDED = SimpleNamespace(
    mod=Program,
    mesh=Mesh(dp=2, tp=2),
    plan=SimpleNamespace(
        divisible={},
        functions={
            "same_rows": signature(X, leaf("y", ("n", 8), "[-, tp]"), out=leaf("z", ("n", 8), "[-, tp]")),
            "main": signature(X, W, B, out=Y, num_input=1),
            "packed": signature(X, (W, B), out=(Y, (Y, X)), num_input=1),
            "shaped": signature(
                Leaf("s", None, "shape", None),
                Leaf("k", None, "int64", None),
                out=(leaf("z", ("n", "m"), "[-, -]"), Leaf("z.1", None, "shape", None), Leaf("z.2", None, "int64", None)),
            ),
            "create": signature(leaf("x", (4, 8), "[dp, tp]"), out=OBJECT),
            "read": signature(OBJECT, out=leaf("y", (4, 8), "[dp, tp]")),
            "fragile": signature(leaf("x", (2, 8), "[dp, tp]"), out=leaf("z", (1, 8), "[-, tp]")),
            "narrow": signature(
                leaf("x", (3, 3), "[tp, -]", "bfloat16"),
                leaf("flag", (), "[]", "bool"),
                out=(leaf("y", (4, 3), "[-, -]", "bfloat16"), leaf("flag", (), "[]", "bool")),
            ),
        },
    ),
)

rng = np.random.default_rng(0)
x, w, b = (rng.standard_normal(s).astype(np.float32) for s in ((3, 8), (8, 6), (6,)))
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


@pytest.fixture(scope="module")
def running() -> Iterator[Workers]:
    with workers(SHARDED, timeout=20.0) as running:
        yield running


def test_global_arrays_in_and_out(running: Workers) -> None:
    np.testing.assert_allclose(running["main"](x, w, b), x @ w + b, **CLOSE)
    np.testing.assert_allclose(running["main"](tvm.runtime.tensor(x), w, b), x @ w + b, **CLOSE)
    np.testing.assert_allclose(running["main"](x[::-1], np.asfortranarray(w), b), x[::-1] @ w + b, **CLOSE)


def test_tuples_stay_tuples(running: Workers) -> None:
    z, (y, same) = running["packed"](x, (w, b))
    np.testing.assert_allclose(z, x @ w + b, **CLOSE)
    np.testing.assert_allclose(y, x @ w, **CLOSE)
    np.testing.assert_array_equal(same, x)


def test_weights_are_placed_once(running: Workers) -> None:
    by_name, in_order = running.load({"b": b, "w": w}, "main"), running.load([w, b], "main")
    for handles in (by_name, in_order):
        assert [h.shape for h in handles] == [(8, 6), (6,)]
        np.testing.assert_allclose(running["main"](x, *handles), x @ w + b, **CLOSE)
        np.testing.assert_array_equal(handles[0].numpy(), w)
    assert len({id(o) for o in by_name[1].objects}) == 1, "workers of one device share what is replicated"
    (whole,) = running.load({"b": b, "w": w}, "packed")
    np.testing.assert_allclose(running["packed"](x, whole)[0], x @ w + b, **CLOSE)
    np.testing.assert_allclose(running["packed"](x, by_name)[0], x @ w + b, **CLOSE)
    assert len(running.load([w, b])) == 2, "of the first function that has weights"


def test_results_can_stay_on_the_workers(running: Workers) -> None:
    kept = running["same_rows"](x, x, keep=True)
    assert kept.shape == (3, 8)
    np.testing.assert_array_equal(kept.numpy(), 2 * x)
    np.testing.assert_array_equal(running["same_rows"](kept, x), 3 * x)
    with pytest.raises(ShardingError, match=r"float32 \[n, 8\], and got float32 \[2, 8\]: n is 3 in 'x'"):
        running["same_rows"](kept, x[:2])
    (_, (y, _)) = running["packed"](x, (w, b), keep=True)
    with pytest.raises(ShardingError, match=r"same_rows\(\), parameter 'x': it takes float32 \[n, 8\], and got float32 \[3, 6\]\."):
        running["same_rows"](y, x)


def test_shapes_and_numbers(running: Workers) -> None:
    for shape in ((2, 3), tvm.runtime.ShapeTuple([2, 3]), [np.int64(2), 3]):
        z, turned, number = running["shaped"](shape, np.int64(7))
        assert (z.shape, turned, number) == ((2, 3), (3, 2), 7)


def test_opaque_objects_are_handles(running: Workers) -> None:
    data = rng.standard_normal((4, 8)).astype(np.float32)
    cache = running["create"](data)
    assert len(cache.objects) == 4
    np.testing.assert_array_equal(running["read"](cache), data)
    with pytest.raises(ShardingError, match="a handle of something that is not one tensor"):
        cache.numpy()
    with pytest.raises(ShardingError, match=r"create\(\), parameter 'x': it takes float32 \[4, 8\], and got a handle of an object"):
        running["create"](cache)


def test_packed_functions_see_the_workers_own_object(running: Workers) -> None:
    sizes = running.call_packed("ffi.ArraySize", running["create"](np.zeros((4, 8), np.float32)))
    assert sizes == 2
    tensors = running.call_packed("ffi.ArrayGetItem", running["create"](np.arange(32, dtype=np.float32).reshape(4, 8)), 0)
    assert [float(t.numpy()[0, 0]) for t in tensors.objects] == [0.0, 4.0, 16.0, 20.0]
    with pytest.raises(ShardingError, match=r"call_packed: TVM knows no global function 'nothing'\."):
        running.call_packed("nothing")


def test_narrow_types_and_padding(running: Workers) -> None:
    data = np.arange(9).reshape(3, 3).astype(ml_dtypes.bfloat16)
    y, flag = running["narrow"](data, np.array(True))
    assert (y.dtype, y.shape, flag.dtype, flag.shape) == (data.dtype, (4, 3), np.bool_, ())
    np.testing.assert_array_equal(y[:3], data)
    assert not y[3].any()
    assert flag


def test_trace(running: Workers) -> None:
    running["main"](x, w, b)
    (record,) = running.trace()
    assert (record.kind, record.axis, record.bytes, record.value) == ("all_reduce", "tp", 3 * 6 * 4, "part")
    assert running.trace(3) == (record,)
    running["same_rows"](x, x)
    assert running.trace() == ()


def test_a_worker_that_fails_releases_the_others(running: Workers) -> None:
    bad = np.ones((2, 8), np.float32)
    bad[1, 0] = -1.0
    with pytest.raises(WorkerError) as raised:
        running["fragile"](bad)
    assert str(raised.value).startswith("worker 2 failed in 'fragile': ValueError: no negative numbers")
    assert raised.value.rank == 2
    assert isinstance(raised.value.__cause__, ValueError)
    np.testing.assert_array_equal(running["fragile"](np.ones((2, 8), np.float32)), np.ones((1, 8)))


ERRORS = [
    (lambda r: r["mian"], "workers: there is no function 'mian'. Did you mean 'main'?"),
    (lambda r: r["main"](x, w), "main(): it takes 3 arguments ('x', 'w', 'b'), and got 2."),
    (lambda r: r["packed"](x), "packed(): it takes 2 arguments ('x', 'w', 'b'), and got 1."),
    (lambda r: r["main"](x.astype("float64"), w, b), "main(), parameter 'x': it takes float32 [n, 8], and got float64 [3, 8]."),
    (lambda r: r["main"](x[:, :4], w, b), "main(), parameter 'x': it takes float32 [n, 8], and got float32 [3, 4]."),
    (lambda r: r["main"](x[0], w, b), "main(), parameter 'x': it takes float32 [n, 8], and got float32 [8]."),
    (lambda r: r["main"](x, 3, b), "main(), parameter 'w': it takes float32 [8, 6], and got int 3."),
    (lambda r: r["main"](x, [w], b), "main(), parameter 'w': it takes float32 [8, 6], and got a list."),
    (lambda r: r["packed"](x, (w,)), "packed(), parameter 'w', 'b': it takes a tuple of 2 values, and got 1 values."),
    (lambda r: r["packed"](x, w), "packed(), parameter 'w', 'b': it takes a tuple of 2 values, and got a ndarray."),
    (
        lambda r: r["same_rows"](x, x[:2]),
        "same_rows(), parameter 'y': it takes float32 [n, 8], and got float32 [2, 8]: n is 3 in 'x'.",
    ),
    (lambda r: r.load({"w": w}, "main"), "main(), weights: 'b' is missing. Did you mean 'w'?"),
    (lambda r: r.load({"w.": w, "b": b}, "main"), "main(), weights: 'w' is missing. Did you mean 'w.'?"),
    (
        lambda r: r.load({"w": w, "b": b, "bias": b, "gain": b}, "main"),
        "main(), weights: 'bias' is no weight of it (and 1 more). Did you mean 'b'?",
    ),
    (lambda r: r.load([w], "main"), "main(), weights: it takes 2 weights, and got 1."),
    (lambda r: r.load([w.T, b], "main"), "main(), parameter 'w': it takes float32 [8, 6], and got float32 [6, 8]."),
    (lambda r: r.load([w, "b"], "main"), "main(), weight 'b': it takes float32 [6], and got str 'b'."),
]


@pytest.mark.parametrize("case", range(len(ERRORS)))
def test_errors_come_before_anything_runs(running: Workers, case: int) -> None:
    wrong, text = ERRORS[case]
    with pytest.raises(ShardingError) as error:
        wrong(running)
    assert str(error.value) == text


def test_handles_of_others_and_closed_workers_are_refused(running: Workers) -> None:
    (h, *_) = running.load([w, b])
    with (
        workers(SHARDED) as other,
        pytest.raises(ShardingError, match=r"main\(\), parameter 'w': its handle belongs to other workers\."),
    ):
        other["main"](x, h, b)
    with pytest.raises(RuntimeError, match="'main' cannot run: the workers are closed"):
        other["main"](x, w, b)


@I.ir_module
class OneDevice:
    @R.function
    def main(x: R.Tensor(("n", 8), "float32"), ws: R.Tuple(R.Tensor((8, 6), "float32"), R.Tensor((6,), "float32"))):
        R.func_attr({"num_input": 1})
        with R.dataflow():
            y = R.add(R.matmul(x, ws[0]), ws[1])
            R.output(y)
        return (y, x)


def test_a_module_that_is_not_sharded_has_one_worker() -> None:
    with workers(OneDevice) as running:
        assert running.mesh == Mesh(tp=1)
        (weights,) = running.load({"ws.0": w, "ws.1": b})
        y, same = running["main"](x, weights)
        np.testing.assert_allclose(y, x @ w + b, **CLOSE)
        np.testing.assert_array_equal(same, x)
        assert running.trace() == ()


def test_a_function_without_weights_loads_none() -> None:
    function = OneDevice["main"].without_attr("num_input").with_attr("global_symbol", "f")
    with workers(tvm.IRModule({"f": function})) as running:
        with pytest.raises(ShardingError, match="load: no function says which of its parameters are weights"):
            running.load([w, b])
        assert running.load({}) == running.load([]) == ()


class OneOfMany(Backend):
    """A backend of which only worker `rank` is here, as with a process for each worker; the others are in other threads."""

    def __init__(self, shared: ThreadBackend, barrier: threading.Barrier, board: dict[int, list], rank: int) -> None:
        super().__init__(shared.mesh, shared.timeout)
        self.shared, self.barrier, self.board, self.ranks = shared, barrier, board, (rank,)

    def communicator(self, rank: int) -> Communicator:
        return self.shared.communicator(rank)

    def begin(self) -> None:
        self.barrier.wait()  # whose action is the beginning of all

    def everyone(self, mine: list) -> list:
        (self.board[self.ranks[0]],) = mine
        self.barrier.wait()
        return [self.board[rank] for rank in range(self.mesh.size)]


def test_machines_start_one_after_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """Together they would corrupt the executable that they share."""
    make, starting, together = relax.VirtualMachine, [], []

    def start(*args: object) -> object:
        starting.append(1)
        together.append(len(starting))
        time.sleep(0.02)
        made = make(*args)
        starting.pop()
        return made

    monkeypatch.setattr(relax, "VirtualMachine", start)
    with workers(SHARDED) as running:
        np.testing.assert_array_equal(running["same_rows"](x, x), 2 * x)
    assert together == [1, 1, 1, 1]


def test_workers_of_which_only_one_is_in_this_process() -> None:
    mesh, results, board = SHARDED.mesh, {}, {}
    shared = ThreadBackend(mesh, 20.0)
    barrier = threading.Barrier(mesh.size, action=shared.begin, timeout=60.0)

    def process(rank: int) -> None:
        register_backend(f"one-{rank}", lambda _mesh, _timeout: OneOfMany(shared, barrier, board, rank))
        with workers(SHARDED, backend=f"one-{rank}") as running:
            handles = running.load([w, b], "main")
            results[rank] = (running["main"](x, *handles), running["same_rows"](x, x), len(handles[0].objects), running.trace())

    threads = [threading.Thread(target=process, args=(rank,), daemon=True) for rank in range(mesh.size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(100.0)
    assert sorted(results) == [0, 1, 2, 3]
    for y, doubled, held, trace in results.values():
        np.testing.assert_allclose(y, x @ w + b, **CLOSE)
        np.testing.assert_array_equal(doubled, 2 * x)
        assert (held, trace) == (1, ())
