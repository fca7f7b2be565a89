"""The shared suite of backends as one program: every operation, axis and type, compiled, run and compared with NumPy."""

from collections.abc import Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
from tvm import relax
from tvm.script import relax as R

import spmd
from spmd.collectives import SEPARATOR, Backend
from spmd.placement.mesh import Mesh
from spmd.placement.sharding import Sharding
from spmd.plan.decisions import Leaf, Signature
from tests.collectives.expected import KINDS, data, expect

REDUCED = ["float32", "float64", "float16", "bfloat16", "bool", *(f"{s}int{b}" for s in ("", "u") for b in (8, 16, 32, 64))]
MESHES = [
    *(Mesh(tp=n) for n in (1, 2, 3, 4)),
    Mesh(dp=2, tp=2),
]
EIGHT = [Mesh(tp=8), Mesh(dp=2, tp=4)]
PARTS = {"Mesh(tp=4)": ("tp(1)2", "tp(2)2")}
"""Parts of axes that are tried, too."""
VALUE = "moved"
SPECIAL = np.array([np.nan, np.inf, -np.inf, 0.0, 1.0, -2.5, 1e-7, -3e4])


@dataclass(frozen=True)
class Asked:
    """One collective: its attributes as the operator has them, and the shapes of what enters."""

    op: str
    axis: str
    attrs: dict[str, Any]
    shapes: tuple[tuple[int, ...], ...]
    dtype: str = "float32"
    special: bool = False
    """Whether NaN, infinities and zeros are among the numbers: a maximum is NaN wherever a worker has one."""

    def data(self, mesh: Mesh) -> list[list[np.ndarray]]:
        """One array a worker, for each tensor."""
        if not self.special:
            return [data(mesh, shape, self.dtype) for shape in self.shapes]
        rngs = [np.random.default_rng(rank) for rank in range(mesh.size)]
        return [[rng.choice(SPECIAL, shape).astype(self.dtype) for rng in rngs] for shape in self.shapes]

    @property
    def own(self) -> tuple:
        """As `expect` takes them."""
        if self.op == "permute":
            return (tuple(i for pair in self.attrs["pairs"] for i in pair),)
        return tuple(self.attrs.values())


def asked(mesh: Mesh) -> Iterator[Asked]:
    """All that is tried on a mesh."""
    joined = ["+".join(mesh.axes), "+".join(reversed(mesh.axes))] if len(mesh.axes) > 1 else []
    for axis in (*mesh.axes, *joined, *PARTS.get(str(mesh), ())):
        n = mesh.axis_size(axis)
        shape = (2 * n, 3, n)
        for kind in KINDS:
            yield Asked("all_reduce", axis, {"kind": kind}, (shape,))
            yield Asked("reduce_scatter", axis, {"kind": kind, "dim": 0}, (shape,))
        yield Asked("reduce_scatter", axis, {"kind": "sum", "dim": 2}, (shape,))
        for dim in range(3):
            yield Asked("all_gather", axis, {"dim": dim}, (shape,))
        for split in (0, 2):
            for concat in range(3):
                yield Asked("all_to_all", axis, {"split_dim": split, "concat_dim": concat}, (shape,))
        for root in range(n):
            yield Asked("broadcast", axis, {"root": root}, (shape,))
        for pairs in ([(s, (s + 1) % n) for s in range(n)], [(0, n - 1)], []):
            yield Asked("permute", axis, {"pairs": pairs}, (shape,))
    for dtype in REDUCED:
        for kind in KINDS:
            yield Asked("all_reduce", "tp", {"kind": kind}, ((3, 4),), dtype)
    n = mesh.axis_size("tp")
    for dtype in (*REDUCED, "float8_e4m3fn", "float8_e5m2"):
        yield Asked("all_gather", "tp", {"dim": 1}, ((3, 4),), dtype)
        yield Asked("all_to_all", "tp", {"split_dim": 0, "concat_dim": 1}, ((n, 4),), dtype)
        yield Asked("broadcast", "tp", {"root": n - 1}, ((3, 4),), dtype)
    for dtype in ("float32", "float64", "float16"):
        for op, attrs in (("all_reduce", {}), ("reduce_scatter", {"dim": 0})):
            for kind in ("max", "min"):
                yield Asked(op, "tp", {"kind": kind, **attrs}, ((n, 8),), dtype, special=True)
    yield Asked("all_reduce", "tp", {"kind": "sum"}, ((),))
    for op, attrs in (("all_reduce", {"kind": "sum"}), ("all_gather", {"dim": 1}), ("reduce_scatter", {"kind": "sum", "dim": 1})):
        yield Asked(op, "tp", attrs, ((0, 24),))
    for op, attrs in (("all_reduce", {"kind": "sum"}), ("all_gather", {"dim": 1}), ("reduce_scatter", {"kind": "max", "dim": 0})):
        yield Asked(op, "tp", attrs, ((2 * n, 6), (n, 3, 5)), "float16")


def program(mesh: Mesh, cases: list[Asked]) -> SimpleNamespace:
    """What `spmd.workers` takes: a function for each case, of a global tensor whose first dimension has a place for each worker."""
    builder, functions = relax.BlockBuilder(), {}
    everyone = "+".join(mesh.axes)
    for number, case in enumerate(cases):
        name = f"case_{number}"
        params = [relax.Var(f"x{i}", relax.TensorType((1, *shape), case.dtype)) for i, shape in enumerate(case.shapes)]
        with builder.function(name, params):
            with builder.dataflow():
                xs = [builder.emit(relax.op.squeeze(x, [0])) for x in params]
                build = getattr(R.spmd, case.op)
                value = SEPARATOR.join(f"{VALUE}{i}" for i in range(len(xs)))
                done = builder.emit(
                    build(xs if len(xs) > 1 else xs[0], case.axis, **case.attrs, workers=mesh.axis_size(case.axis), value=value)
                )
                results = [done] if len(xs) == 1 else [builder.emit(relax.TupleGetItem(done, i)) for i in range(len(xs))]
                outs = [builder.emit(relax.op.expand_dims(y, 0)) for y in results]
                given = builder.emit_output(relax.Tuple(outs))
            builder.emit_func_output(given)
        functions[name] = _signature(mesh, everyone, case, [tuple(map(int, o.ty.shape.values)) for o in outs])
    functions["positions"] = _positions(builder, mesh)
    return SimpleNamespace(mod=builder.get(), mesh=mesh, plan=SimpleNamespace(divisible={}, functions=functions))


def _axes(mesh: Mesh) -> list[str]:
    return [*mesh.axes, "+".join(mesh.axes)]


def _positions(builder: relax.BlockBuilder, mesh: Mesh) -> Signature:
    """Adds a function of `axis_index` along each axis, and along all joined."""
    axes = _axes(mesh)
    with builder.function("positions", []):
        with builder.dataflow():
            found = [builder.emit(relax.op.expand_dims(builder.emit(R.spmd.axis_index(a, mesh.axis_size(a))), 0)) for a in axes]
            given = builder.emit_output(relax.Tuple(found))
        builder.emit_func_output(given)
    whole = (mesh.size,)
    leaves = tuple(Leaf(a, whole, "int64", Sharding.parse(f"[{'+'.join(mesh.axes)}]", whole)) for a in axes)
    return Signature((), leaves, None)


def _signature(mesh: Mesh, everyone: str, case: Asked, outs: list[tuple[int, ...]]) -> Signature:
    def leaf(name: str, shape: tuple[int, ...]) -> Leaf:
        whole = (mesh.size, *shape)
        return Leaf(name, whole, case.dtype, Sharding.parse(f"[{', '.join([everyone, *('-' for _ in shape)])}]", whole))

    params = tuple(leaf(f"x{i}", shape) for i, shape in enumerate(case.shapes))
    return Signature(params, tuple(leaf(f"y{i}", out[1:]) for i, out in enumerate(outs)), None)


def run(mesh: Mesh, backend: str, every: int = 1, target: str = "llvm") -> int:
    """Run every case on a backend, or one of so many; how many there were. Raises AssertionError for a wrong number or a wrong trace, or
    where a worker does not know its place.
    """
    cases, traces = list(asked(mesh))[::every], []
    with spmd.workers(program(mesh, cases), backend, target, timeout=60.0) as w:
        for axis, column in zip(_axes(mesh), w["positions"](), strict=True):
            assert list(column) == [mesh.index(rank, (axis,)) for rank in range(mesh.size)]
        for number, case in enumerate(cases):
            given = case.data(mesh)
            found = w[f"case_{number}"](*map(np.stack, given))
            groups = {rank: group for group in mesh.groups(case.axis) for rank in group}
            for xs, ys in zip(given, found, strict=True):
                for rank in range(mesh.size):
                    want = expect(case.op, [xs[m] for m in groups[rank]], groups[rank].index(rank), case.own)
                    np.testing.assert_array_equal(ys[rank], want, err_msg=f"{case}, worker {rank}")
                    assert ys[rank].dtype == want.dtype, case
            trace = w.trace()
            sent = [(r.kind, r.axis, r.bytes, r.dtype, r.value, r.call) for r in trace]
            assert sent == [(case.op, case.axis, x[0].nbytes, case.dtype, f"{VALUE}{i}", 0) for i, x in enumerate(given)], case
            traces.append((next(iter(w._recorded.values())), trace))
    assert all(recorded() == trace for recorded, trace in traces), "a trace that is listed later is that of its own run"
    return len(cases)


def in_rows(backend: type[Backend]) -> type[Backend]:
    """A backend that is given programs as libraries carry them."""
    return type(f"{backend.__name__}InRows", (backend,), {"rows": True})
