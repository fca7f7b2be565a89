"""The dialect as `R.ccl.*`, which runtimes of TVM's Disco carry, such as MLC-LLM's: what those lack is composed of what they have.

`R.ccl` reduces and gathers, over all workers or over groups of neighbours; worker 0 sends to all, the same or to each its part. Where a
worker stands is a part of a table that worker 0 scatters. What one worker gets of an exchange is taken from what all have gathered.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tvm
from tvm import relax
from tvm.relax.expr_functor import PyExprMutator, mutator

from spmd import checks
from spmd.checks import door
from spmd.errors import ShardingError
from spmd.placement.mesh import Mesh

from .bind import called, collective, communicates, fields_of, plain
from .dialect import OPS, SEPARATOR, inferred
from .rows import Asked, Writer, by_rows

Expr = Any  # relax.Expr: TVM ships no types
_CARRIED = {
    **{name: name for name in ("float16", "bfloat16", "float32", "float64", "float8_e4m3fn", "float8_e5m2")},
    **{f"{sign}int{bits}": f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 32, 64)},
    **{"bool": "uint8", "int16": "int32", "uint16": "uint32"},
}
"""What values go as."""
_TRUTH = {"sum": "max", "prod": "min"}
_WAY_OUT = "Keep it whole over that axis, put the axis last in the mesh, or run on a backend of spmd."


@door(mod=checks.instance(tvm.IRModule), mesh=checks.instance(Mesh, "Write Mesh(tp=2)."))
def to_ccl(mod: tvm.IRModule, mesh: Mesh) -> tvm.IRModule:
    """`mod`, the program of each worker of `mesh`, with its collectives as `R.ccl.*`; `mod` is not changed.

    Where it communicates over an inner axis alone, its session has a group for each position along the outer ones: the function
    attribute ``ccl_groups`` is their number, as in ``ProcessSession(num_workers, num_groups)``. Raises `ShardingError` for collectives
    whose workers are no neighbours.
    """
    axes = dict.fromkeys(call.attrs["axis"] for _, function in _functions(mod) for call in called(function) if call.args)
    reach = {axis: size for axis in axes if (size := _neighbours(mesh, axis)) > 1}
    grouped = {size: axis for axis, size in reach.items() if size < mesh.size}
    if len(grouped) > 1:
        one, other, *_ = grouped.values()
        what = f"it communicates over {one!r} and over {other!r}, and R.ccl has groups of one size"
        raise ShardingError("collectives='ccl'", what, _WAY_OUT)
    writer = _Writer(mod, mesh, reach, bool(grouped))
    for variable, function in _functions(mod):
        if communicates(function):
            written = writer.visit_expr(function)
            writer.builder_.update_func(variable, written.with_attr("ccl_groups", mesh.size // min(grouped, default=mesh.size)))
    made = writer.builder_.get()
    return tvm.IRModule(dict(made.functions_items()), attrs=mod.attrs, global_infos=mod.global_infos)


def _functions(mod: tvm.IRModule) -> list[tuple[Any, Any]]:
    return [(variable, f) for variable, f in mod.functions_items() if isinstance(f, relax.Function)]


def _neighbours(mesh: Mesh, axis: str) -> int:
    """How many workers meet over an axis, in the order of their ranks with no other between them: all, or a group of R.ccl."""
    groups = mesh.groups(axis)
    size = len(groups[0])
    if size == 1 or sorted(groups) == [list(range(first, first + size)) for first in range(0, mesh.size, size)]:
        return size
    what = f"over mesh axis {axis!r} of {mesh} workers {', '.join(map(str, groups[0]))} meet"
    raise ShardingError("collectives='ccl'", f"{what}, and R.ccl has groups of neighbours, or all in the order of their ranks", _WAY_OUT)


@mutator
class _Writer(PyExprMutator):
    def __init__(self, mod: tvm.IRModule, mesh: Mesh, reach: dict[str, int], grouped: bool) -> None:
        super().__init__(mod)
        self._composer = _Composer(self.builder_, mesh, reach, grouped)

    def visit_dataflow_block_(self, block: Any) -> Any:
        return self._apart(super().visit_dataflow_block_, block)

    def visit_binding_block_(self, block: Any) -> Any:
        return self._apart(super().visit_binding_block_, block)

    def _apart(self, visit: Callable[[Any], Any], block: Any) -> Any:
        """What is found in a block is not seen outside."""
        before, self._composer.positions = self._composer.positions, {}
        made = visit(block)
        self._composer.positions = before
        return made

    def visit_call_(self, call: Any) -> Expr:
        call = self.visit_expr_post_order(call)
        if not (name := collective(call)):
            return call
        attrs = {key: plain(call.attrs[key]) for key in OPS[name].attrs}
        if not OPS[name].has_input:
            return self._composer.reshaped(self._composer.position(attrs["axis"]), [])
        bundle = isinstance(call.args[0].ty, relax.TupleType)
        xs = fields_of(self.builder_, call.args[0]) if bundle else [call.args[0]]
        values = attrs["value"].split(SEPARATOR) if bundle else [attrs["value"]]
        each = [{**attrs, "value": value} for value in values]
        done = by_rows(self.builder_, name, xs, each, lambda asked: [self._composer.carried(one) for one in asked])
        return relax.Tuple(done) if bundle else done[0]


class _Composer(Writer):
    """Writes what stands for one collective along the first dimension. `positions` has where this worker is along an axis."""

    def __init__(self, builder: Any, mesh: Mesh, reach: dict[str, int], grouped: bool) -> None:
        super().__init__(builder)
        self.mesh, self.reach, self.grouped = mesh, reach, grouped
        self.positions: dict[str, Expr] = {}

    def carried(self, asked: Asked) -> Expr:
        x, dtype = asked.x, str(asked.x.ty.dtype)
        shape = inferred(OPS[asked.operation], asked.attrs, x.ty).shape
        if any(isinstance(size, tvm.tirx.IntImm) and int(size) == 0 for size in x.ty.shape.values):
            return self.emit(relax.op.zeros(shape, dtype))
        if dtype not in _CARRIED:
            what = f"R.ccl carries no {dtype}"
            raise ShardingError(f"R.spmd.{asked.operation} of {asked.attrs['value']!r}", what, "Convert it first.")
        sent = x if _CARRIED[dtype] == dtype else self.emit(relax.op.astype(x, _CARRIED[dtype]))
        y = _COMPOSED[asked.operation](self, sent, asked.attrs, dtype)
        y = self.reshaped(y, list(shape.values))
        return y if _CARRIED[dtype] == dtype else self.emit(relax.op.astype(y, dtype))

    def in_group(self, axis: str) -> bool:
        """Whether its workers are a group of the session, of which all are one where there are no others."""
        return not self.grouped or self.reach[axis] < self.mesh.size

    def position(self, axis: str) -> Expr:
        """The position of this worker along an axis, a tensor of shape (1,)."""
        if axis not in self.positions:
            places = [self.mesh.index(rank, (axis,)) for rank in range(self.mesh.size)]
            self.positions[axis] = self.emit(relax.op.ccl.scatter_from_worker0(_table(places), self.mesh.size))
        return self.positions[axis]

    def all_reduce(self, x: Expr, attrs: dict[str, Any], dtype: str) -> Expr:
        """The sum of truth values is whether any is true, and their product whether all are."""
        if attrs["workers"] == 1:
            return x
        kind = _TRUTH.get(attrs["kind"], attrs["kind"]) if dtype == "bool" else attrs["kind"]
        return self.emit(relax.op.ccl.allreduce(x, kind, self.in_group(attrs["axis"])))

    def gathered(self, x: Expr, attrs: dict[str, Any], inner: Sequence[Any]) -> Expr:
        """Everybody's `x`, each as of these sizes: (workers, *inner)."""
        workers, rows = attrs["workers"], x
        if not x.ty.ndim:
            rows = self.reshaped(x, [1])
        y = rows if workers == 1 else self.emit(relax.op.ccl.allgather(rows, workers, self.in_group(attrs["axis"])))
        return self.reshaped(y, [workers, *inner])

    def all_gather(self, x: Expr, attrs: dict[str, Any], dtype: str) -> Expr:
        """The tensors of all workers, each in its own row."""
        return self.gathered(x, attrs, list(x.ty.shape.values))

    def reduce_scatter(self, x: Expr, attrs: dict[str, Any], dtype: str) -> Expr:
        """A part of the sum."""
        return self.mine(self.all_reduce(x, attrs, dtype), attrs, 0, _parts(x, attrs["workers"]))

    def all_to_all(self, x: Expr, attrs: dict[str, Any], dtype: str) -> Expr:
        """The worker takes from everybody the part that is for it."""
        parts = _parts(x, attrs["workers"])
        return self.mine(self.gathered(x, attrs, parts), attrs, 1, [attrs["workers"], *parts])

    def mine(self, x: Expr, attrs: dict[str, Any], dim: int, sizes: Sequence[Any]) -> Expr:
        """The part of `x`, cut into these sizes along `dim`, at this worker's position."""
        apart = self.reshaped(x, list(sizes))
        return self.emit(relax.op.take(apart, self.position(attrs["axis"]), dim, "clip"))

    def permute(self, x: Expr, attrs: dict[str, Any], dtype: str) -> Expr:
        """What the source of this worker has, or zeros."""
        source = {target: origin for origin, target in attrs["pairs"]}
        if not source:
            return self.emit(relax.op.zeros_like(x))
        workers, position = range(attrs["workers"]), self.position(attrs["axis"])
        everyone = self.gathered(x, attrs, list(x.ty.shape.values))
        origin = self.emit(relax.op.take(_table([source.get(w, 0) for w in workers]), position, 0, "clip"))
        y = self.emit(relax.op.take(everyone, origin, 0, "clip"))
        if len(source) == len(workers):
            return y
        has = self.emit(relax.op.take(_table([w in source for w in workers], "bool"), position, 0, "clip"))
        shaped = self.reshaped(has, [1] * (x.ty.ndim + 1))
        return self.emit(relax.op.where(shaped, y, relax.const(0, str(x.ty.dtype))))

    def broadcast(self, x: Expr, attrs: dict[str, Any], dtype: str) -> Expr:
        """Worker 0 has an operation of its own."""
        if attrs["workers"] == self.mesh.size and attrs["root"] == 0:
            return self.emit(relax.op.ccl.broadcast_from_worker0(x))
        return self.emit(relax.op.take(self.gathered(x, attrs, list(x.ty.shape.values)), _table([attrs["root"]]), 0, "clip"))


_COMPOSED: dict[str, Callable[[_Composer, Expr, dict[str, Any], str], Expr]] = {
    "all_reduce": _Composer.all_reduce,
    "all_gather": _Composer.all_gather,
    "reduce_scatter": _Composer.reduce_scatter,
    "all_to_all": _Composer.all_to_all,
    "permute": _Composer.permute,
    "broadcast": _Composer.broadcast,
}


def _parts(x: Expr, workers: int) -> list[Any]:
    """The sizes of `x` with its first dimension as so many parts."""
    first, *rest = x.ty.shape.values
    return [workers, tvm.sym.Analyzer().simplify(tvm.tirx.floordiv(first, workers)), *rest]


def _table(values: Sequence[int | bool], dtype: str = "int64") -> Expr:
    return relax.const(np.array(values, dtype), dtype)
