"""The Relax ops ``R.spmd.*``: communication between the workers of one mesh axis, as ordinary pure operators.

Given a tuple of tensors instead of one, an op is a bundle: it does the same to each of them, in one call, and gives a tuple.

Every op is a row of `OPS`. From its row it gets type inference, printing and parsing in TVMScript, and its legalization
to ``R.call_dps_packed("spmd.<op>", (x, *attributes))``, whose run-time side is `spmd.collectives.carry`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, cast

import tvm
import tvm_ffi
from tvm import relax
from tvm.relax import script as _script
from tvm.relax.script import parser as _parser

from spmd import checks
from spmd.checks import told
from spmd.errors import ShardingError
from spmd.placement.sharding import PARTIAL_KINDS

Expr = Any  # relax.Expr: TVM ships no types
Operand = Expr | Sequence[Expr]
"""One tensor, or those of a bundle, whose `value` names each, with `SEPARATOR` between."""
SEPARATOR = ", "
"""Between the names of what a bundle moves."""
Sizes = list[Any]  # of a shape: each an int or a TIR expression
Attrs = dict[str, Any]


@dataclass(frozen=True)
class Op:
    """One op of the dialect, named and described by the function that builds its calls.

    `attrs` are its attributes, in the order in which the run-time function takes them. `check` raises on attributes that
    no tensor could have. `shape` gives the sizes of the result from those of `x`; it is not asked where they are unknown.
    """

    build: Callable[..., Expr]
    attrs: tuple[str, ...]
    check: Callable[[str, Attrs], None]
    shape: Callable[[str, Sizes, Attrs], Sizes]
    has_input: bool = True

    @property
    def name(self) -> str:
        """Its name after ``R.spmd.``."""
        return self.build.__name__

    @property
    def relax_name(self) -> str:
        """The name under which TVM knows the op."""
        return f"relax.spmd.{self.name}"

    @property
    def runtime_name(self) -> str:
        """The global function that carries it."""
        return f"spmd.{self.name}"

    def where(self, attrs: Attrs) -> str:
        """What an error calls this op."""
        return f"R.spmd.{self.name} of {attrs['value']!r}" if attrs.get("value") else f"R.spmd.{self.name}"


def all_reduce(x: Operand, axis: str, kind: str, workers: int, value: str) -> Expr:
    """The sum (max, min or prod: `kind`) of `x` over the `workers` along mesh `axis`, on each of them: the shape of `x`."""
    return _call("all_reduce", x, axis=axis, kind=kind, workers=workers, value=value)


def all_gather(x: Operand, axis: str, dim: int, workers: int, value: str) -> Expr:
    """The workers' `x` concatenated along `dim` in their order along `axis`: that size becomes ``size * workers``."""
    return _call("all_gather", x, axis=axis, dim=dim, workers=workers, value=value)


def reduce_scatter(x: Operand, axis: str, kind: str, dim: int, workers: int, value: str) -> Expr:
    """`all_reduce`, of which worker i keeps the i-th part of `dim`: that size becomes ``size / workers``."""
    return _call("reduce_scatter", x, axis=axis, kind=kind, dim=dim, workers=workers, value=value)


def all_to_all(x: Operand, axis: str, split_dim: int, concat_dim: int, workers: int, value: str) -> Expr:
    """Worker i gets the i-th part of `split_dim` of every worker's `x`, concatenated along `concat_dim` in their order."""
    return _call("all_to_all", x, axis=axis, split_dim=split_dim, concat_dim=concat_dim, workers=workers, value=value)


def permute(x: Operand, axis: str, pairs: Sequence[Sequence[int]], workers: int, value: str) -> Expr:
    """`x` sent from the first to the second position along `axis` of each pair; who receives nothing gets zeros."""
    return _call("permute", x, axis=axis, pairs=pairs, workers=workers, value=value)


def broadcast(x: Operand, axis: str, root: int, workers: int, value: str) -> Expr:
    """The `x` of the worker at position `root` along `axis`, on each of them: the shape of `x`."""
    return _call("broadcast", x, axis=axis, root=root, workers=workers, value=value)


def axis_index(axis: str, workers: int) -> Expr:
    """The position of this worker along mesh `axis`: a tensor of no dimensions, int64."""
    return _call("axis_index", axis=axis, workers=workers)


def _plain(where: str, key: str, value: Any) -> Any:
    """An attribute as Python has it: a text, a whole number, or pairs of them."""
    if key in ("axis", "kind", "value"):
        return str(checks.instance(str)(where, value))
    if key == "pairs":
        pairs = list(value) if isinstance(value, (list, tuple, tvm_ffi.Array)) else None
        if pairs is None or not all(isinstance(pair, (list, tuple, tvm_ffi.Array)) for pair in pairs):
            raise ShardingError(where, f"it takes pairs of positions, and got {told(value)}", "Write pairs=[(0, 1), (1, 0)].")
        return tuple(tuple(_whole(where, p) for p in pair) for pair in pairs)
    return _whole(where, value)


def _whole(where: str, value: Any) -> int:
    return int(value) if isinstance(value, tvm.tirx.IntImm) else checks.whole(-(2**31))(where, value)


def _call(name: str, *args: Operand, **attrs: Any) -> Expr:
    op = OPS[name]
    plain: Attrs = {key: _plain(f"R.spmd.{name}, {key}", key, value) for key, value in attrs.items()}
    for arg in args:
        for x in cast("Sequence[Any]", arg) if isinstance(arg, (list, tuple)) else (arg,):
            checks.instance(tvm.ir.Expr)(f"R.spmd.{name}, x", x)
    if plain["workers"] < 1:
        raise ShardingError(op.where(plain), f"mesh axis {plain['axis']!r} has {plain['workers']} workers")
    op.check(op.where(plain), plain)
    operands = [relax.Tuple(list(arg)) if isinstance(arg, (list, tuple)) else arg for arg in args]
    return relax.Call(tvm.ir.Op.get(op.relax_name), operands, tvm.ir.make_node("ir.DictAttrs", **plain))


def _free(where: str, attrs: Attrs) -> None:
    """Nothing to check."""


def _check_kind(where: str, attrs: Attrs) -> None:
    if attrs["kind"] not in PARTIAL_KINDS:
        raise ShardingError(where, f"there is no reduction {attrs['kind']!r}", f"Kinds are {', '.join(PARTIAL_KINDS)}.")


def _check_root(where: str, attrs: Attrs) -> None:
    if not 0 <= attrs["root"] < attrs["workers"]:
        what = f"position {attrs['root']} is not on mesh axis {attrs['axis']!r} of {attrs['workers']} workers"
        raise ShardingError(where, what)


def _check_pairs(where: str, attrs: Attrs) -> None:
    pairs, axis, workers = attrs["pairs"], attrs["axis"], attrs["workers"]
    for pair in pairs:
        if len(pair) != 2 or not all(0 <= p < workers for p in pair):
            what = f"{pair} is no (source, target) pair of positions on mesh axis {axis!r} of {workers} workers"
            raise ShardingError(where, what)
    for name, positions in (("source", [p[0] for p in pairs]), ("target", [p[1] for p in pairs])):
        twice = sorted({p for p in positions if positions.count(p) > 1})
        if twice:
            way_out = "Each position sends at most once and receives at most once."
            raise ShardingError(where, f"position {twice[0]} is the {name} of two pairs", way_out)


def _at(where: str, sizes: Sizes, dim: int) -> int:
    if not 0 <= dim < len(sizes):
        raise ShardingError(where, f"there is no dimension {dim} in a tensor of {len(sizes)} dimensions")
    return dim


def _same(where: str, sizes: Sizes, attrs: Attrs) -> Sizes:
    return sizes


def _grown(where: str, sizes: Sizes, attrs: Attrs, name: str = "dim") -> Sizes:
    dim = _at(where, sizes, attrs[name])
    return [size * attrs["workers"] if i == dim else size for i, size in enumerate(sizes)]


def _cut(where: str, sizes: Sizes, attrs: Attrs, name: str = "dim") -> Sizes:
    dim, workers = _at(where, sizes, attrs[name]), attrs["workers"]
    if isinstance(sizes[dim], int) and sizes[dim] % workers:
        what = f"dimension {dim} has size {sizes[dim]}, and the {workers} workers of mesh axis {attrs['axis']!r}"
        raise ShardingError(where, f"{what} do not divide it", "Pad it to a multiple first.")
    return [size // workers if i == dim else size for i, size in enumerate(sizes)]


def _exchanged(where: str, sizes: Sizes, attrs: Attrs) -> Sizes:
    if attrs["split_dim"] == attrs["concat_dim"]:
        _cut(where, sizes, attrs, "split_dim")  # for its errors: the size itself stays
        return sizes
    return _grown(where, _cut(where, sizes, attrs, "split_dim"), attrs, "concat_dim")


OPS: dict[str, Op] = {
    op.name: op
    for op in (
        Op(all_reduce, ("axis", "kind", "workers", "value"), _check_kind, _same),
        Op(all_gather, ("axis", "dim", "workers", "value"), _free, _grown),
        Op(reduce_scatter, ("axis", "kind", "dim", "workers", "value"), _check_kind, _cut),
        Op(all_to_all, ("axis", "split_dim", "concat_dim", "workers", "value"), _free, _exchanged),
        Op(permute, ("axis", "pairs", "workers", "value"), _check_pairs, _same),
        Op(broadcast, ("axis", "root", "workers", "value"), _check_root, _same),
        Op(axis_index, ("axis", "workers"), _free, _same, has_input=False),
    )
}


def _infer(op: Op) -> Callable[[Any, Any], Any]:
    def infer(call: Any, _builder: Any) -> Any:
        attrs = {name: call.attrs[name] for name in op.attrs}
        if not op.has_input:
            return relax.TensorType([], "int64")
        return inferred(op, attrs, call.args[0].ty)

    return infer


def inferred(op: Op, attrs: Attrs, given: Any) -> Any:
    """The type of what comes out, for the type of what goes in."""
    if isinstance(given, relax.TupleType):
        return relax.TupleType([inferred(op, attrs, field) for field in given.fields])
    if not isinstance(given, relax.TensorType):
        raise ShardingError(op.where(attrs), f"it takes a tensor or a tuple of tensors, and its argument is {given}")
    if op.shape is _same:
        return given
    if given.shape is None or not isinstance(given.shape.ty, relax.ShapeType) or given.shape.ty.values is None:
        return relax.TensorType(dtype=given.dtype, ndim=given.ndim, vdevice=given.vdevice)
    sizes = [int(s) if isinstance(s, tvm.tirx.IntImm) else s for s in given.shape.ty.values]
    result = op.shape(op.where(attrs), sizes, attrs)
    return relax.TensorType([_simplified(size) for size in result], given.dtype, given.vdevice)


def _simplified(size: Any) -> Any:
    return size if isinstance(size, int) else tvm.sym.Analyzer().simplify(size)


def _legalize(op: Op) -> Callable[[Any, Any], Expr]:
    def legalize(builder: Any, call: Any) -> Expr:
        tensors = [tensor for arg in call.args for tensor in _tensors(builder, arg)]
        arguments = [*tensors, *(_argument(call.attrs[name]) for name in op.attrs)]
        out_ty = list(call.ty.fields) if isinstance(call.ty, relax.TupleType) else call.ty
        return relax.call_dps_packed(op.runtime_name, arguments, out_ty=out_ty)

    return legalize


def _tensors(builder: Any, operand: Any) -> list[Any]:
    """The tensors of an operand."""
    if isinstance(operand, relax.Tuple):
        return list(operand.fields)
    if isinstance(operand.ty, relax.TupleType):
        return [builder.emit(relax.TupleGetItem(operand, i)) for i in range(len(operand.ty.fields))]
    return [operand]


def _argument(value: Any) -> Expr:
    if isinstance(value, str):
        return tvm.ir.StringImm(value)
    if isinstance(value, int):
        return relax.prim_value(value)
    return relax.ShapeExpr([int(position) for pair in value for position in pair])  # pairs, one after the other


class _Restored(ShardingError):
    """A ShardingError that passed through TVM, of which the text is left."""

    def __init__(self, text: str) -> None:
        where, _, what = text.partition(": ")
        super().__init__(where, what)
        self.args = (text,)


_CALLBACKS: list[Any] = []  # what TVM calls back must live as long as its registry does


def _register() -> None:
    """Tell TVM of the ops and TVMScript of their names; a second time changes nothing but the callbacks."""
    tvm_ffi.register_error(ShardingError)  # into TVM by its type, out of it by this name
    tvm_ffi.register_error("ShardingError", _Restored)
    known = set(tvm.ir.Op.list_op_names())
    for row in OPS.values():
        new = row.relax_name not in known
        if new:
            tvm.ir.op._ffi_api.RegisterOp(row.relax_name, row.build.__doc__ or "")
        op = tvm.ir.Op.get(row.relax_name)
        if new:
            op.set_num_inputs(int(row.has_input))
            op.set_attrs_type_key("ir.DictAttrs")
            if row.has_input:
                op.add_argument("x", "Tensor or Tuple of Tensors", "the value of this worker")
        values = {"FInferType": tvm_ffi.convert(_infer(row)), "FLegalize": tvm_ffi.convert(_legalize(row)), "FPurity": True}
        for key, value in values.items():
            if op.has_attr(key):
                op.reset_attr(key)
            op.set_attr(key, value)
            _CALLBACKS.append(value)
    names = {name: op.build for name, op in OPS.items()}
    for namespace in (_script, _parser):  # `R` of a Python module, and `R` of a parsed text
        namespace.spmd = SimpleNamespace(**{**vars(getattr(namespace, "spmd", SimpleNamespace())), **names})


_register()
