"""Before a program is compiled, each collective becomes a call by the name of its slot: what a backend carries is known before it runs.

A backend gives a function for each slot when the program starts. The program holds no handle of it: one library serves every
worker, and every backend that carries its slots.
"""

from __future__ import annotations

from typing import Any

import tvm
import tvm_ffi
from tvm import relax
from tvm.relax.expr_functor import PyExprMutator, mutator

from spmd import checks
from spmd.checks import door

from .dialect import OPS, SEPARATOR, inferred
from .rows import Asked, by_rows
from .slots import Site, Slot, Slots

Expr = Any  # relax.Expr: TVM ships no types
_PREFIX = "relax.spmd."


@door(mod=checks.instance(tvm.IRModule), rows=checks.flag)
def bind(mod: tvm.IRModule, *, rows: bool = False) -> tuple[tvm.IRModule, Slots]:
    """`mod` with its collectives called by the names of their slots, and these.

    With `rows`, they go along the first dimension, as libraries can (see `rows.py`).
    """
    binder = _Binder(mod, rows)
    for variable, function in mod.functions_items():
        if isinstance(function, relax.Function) and communicates(function):
            binder.builder_.update_func(variable, binder.visit_expr(function))
    if not binder.slots:
        return mod, Slots()
    bound = binder.builder_.get()
    made = tvm.IRModule(dict(bound.functions_items()), attrs=mod.attrs, global_infos=mod.global_infos)
    return made, Slots(tuple(binder.slots), tuple(binder.sites))


def communicates(function: relax.Function) -> bool:
    """Whether it calls a collective of the dialect."""
    return bool(called(function))


def called(function: relax.Function) -> list[Any]:
    """Its calls of collectives."""
    calls: list[Any] = []
    tvm_ffi.structural_walk(function.body, [((tvm.ir.Call,), calls.append)])
    return [call for call in calls if collective(call)]


def collective(call: Any) -> str:
    """The operation of the dialect that it calls, or nothing: `R.spmd.hint` is none, and stands in modules that are run unsharded."""
    name = call.op.name.removeprefix(_PREFIX) if isinstance(call.op, tvm.ir.Op) and call.op.name.startswith(_PREFIX) else ""
    return name if name in OPS else ""


@mutator
class _Binder(PyExprMutator):
    def __init__(self, mod: tvm.IRModule, rows: bool) -> None:
        super().__init__(mod)
        self.rows = rows
        self.slots: dict[Slot, int] = {}
        self.sites: list[Site] = []
        self.bundles = 0

    def visit_call_(self, call: Any) -> Expr:
        call = self.visit_expr_post_order(call)
        if not (name := collective(call)):
            return call
        op = OPS[name]
        attrs = {key: plain(call.attrs[key]) for key in op.attrs}
        if not op.has_input:
            slot = self._slot(op.name, attrs, "int64")
            return relax.call_dps_packed(slot.name, relax.Tuple([]), out_ty=call.ty)
        bundle = isinstance(call.args[0].ty, relax.TupleType)
        xs = fields_of(self.builder_, call.args[0]) if bundle else [call.args[0]]
        values = attrs["value"].split(SEPARATOR) if bundle else [attrs["value"]]
        dtypes = [str(x.ty.dtype) for x in xs]
        if not self.rows:
            return self._call(op.name, xs, attrs, values, dtypes)

        def carry(asked: list[Asked]) -> list[Expr]:
            return self._carried(asked, values, dtypes)

        done = by_rows(self.builder_, op.name, xs, [{**attrs, "value": value} for value in values], carry)
        return relax.Tuple(done) if bundle else done[0]

    def _carried(self, asked: list[Asked], values: list[str], dtypes: list[str]) -> list[Expr]:
        """What comes of each: by one call for all that are carried alike, which all are but those of no elements."""
        alike: dict[str, list[int]] = {}
        for i, one in enumerate(asked):
            alike.setdefault(repr((one.operation, {**one.attrs, "value": ""})), []).append(i)
        self.bundles += 1
        came: dict[int, Expr] = {}
        for members in alike.values():
            first, bundle = asked[members[0]], self.bundles if len(alike) > 1 else -1
            xs = [asked[i].x for i in members]
            call = self._call(first.operation, xs, first.attrs, [values[i] for i in members], [dtypes[i] for i in members], bundle)
            done = self.builder_.emit(call)
            fields = [done] if len(members) == 1 else [self.builder_.emit(relax.TupleGetItem(done, n)) for n in range(len(members))]
            came.update(zip(members, fields, strict=True))
        return [came[i] for i in range(len(asked))]

    def _call(self, operation: str, xs: list[Expr], attrs: dict[str, Any], values: list[str], dtypes: list[str], bundle: int = -1) -> Expr:
        slot = self._slot(operation, attrs, "+".join(str(x.ty.dtype) for x in xs))
        site = relax.prim_value(len(self.sites))
        self.sites.append(Site(self.slots[slot], tuple(values), tuple(dtypes), bundle))
        types = [inferred(OPS[operation], attrs, x.ty) for x in xs]
        return relax.call_dps_packed(slot.name, [site, *xs], out_ty=types if len(xs) > 1 else types[0])

    def _slot(self, operation: str, attrs: dict[str, Any], dtype: str) -> Slot:
        dims = tuple(attrs[name] for name in ("dim", "split_dim", "concat_dim") if name in attrs)
        pairs = tuple(position for pair in attrs.get("pairs", ()) for position in pair)
        slot = Slot(operation, attrs["axis"], attrs["workers"], dtype, attrs.get("kind", ""), dims, pairs, attrs.get("root", -1))
        self.slots.setdefault(slot, len(self.slots))
        return slot


def fields_of(builder: Any, operand: Expr) -> list[Expr]:
    """The tensors of a bundle."""
    if isinstance(operand, relax.Tuple):
        return list(operand.fields)
    return [builder.emit(relax.TupleGetItem(operand, i)) for i in range(len(operand.ty.fields))]


def plain(value: Any) -> Any:
    """An attribute as Python has it."""
    if isinstance(value, str):
        return str(value)
    return int(value) if isinstance(value, int) else tuple(tuple(int(p) for p in pair) for pair in value)
