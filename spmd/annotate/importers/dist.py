"""TVM's own annotations: ``R.dist.annotate_sharding`` and ``R.DTensor`` types, read and taken out of a module."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import tvm
from tvm import relax
from tvm.relax.distributed import DeviceMesh, DTensorType
from tvm.relax.expr_functor import PyExprMutator, mutator

from spmd import checks
from spmd.annotate.hint import hint
from spmd.checks import door
from spmd.errors import ShardingError
from spmd.placement.mesh import Mesh
from spmd.placement.spec import P

_HINTS = ("relax.dist.annotate_sharding", "relax.dist.redistribute")


class Imported(NamedTuple):
    """``spmd.shard(*imported)`` shards as the module asked."""

    mod: tvm.IRModule
    """Without a word of ``R.dist``: its calls are hints, its types those of ordinary tensors."""
    mesh: Mesh
    specs: dict[str, P]
    """What the types of parameters and results asked for."""


@door(mod=checks.module, axes=checks.texts)
def from_dist(mod: tvm.IRModule, axes: Sequence[str] = ("tp",)) -> Imported:
    """Read a module annotated for ``relax.distributed``; `axes` names the dimensions of its device mesh.

    Calls become hints, ``DTensor`` types of parameters and results become specs; those of values between were inferred, and go.
    Raises `ShardingError` for a module that is lowered already, and for more than one mesh.
    """
    meshes = {str(m): m for infos in dict(mod.global_infos).values() for m in infos if isinstance(m, DeviceMesh)}
    functions = {gv: f for gv, f in mod.functions_items() if isinstance(f, relax.Function)}
    if len(meshes) != 1:
        raise ShardingError("from_dist", f"the module has {len(meshes)} device meshes", "It needs one, in I.module_global_infos.")
    (device_mesh,) = meshes.values()
    shape = [int(n) for n in device_mesh.shape]
    if len(axes) != len(shape):
        raise ShardingError("from_dist", f"axes={tuple(axes)} are {len(axes)}, and {device_mesh} has {len(shape)}", "Name each once.")
    if [int(i) for i in device_mesh.device_ids] != list(range(len(device_mesh.device_ids))):
        raise ShardingError("from_dist", f"{device_mesh} names its devices out of order", "Number them from 0.")
    reader = _Reader(tuple(axes))
    specs: dict[str, P] = {}
    for gv, f in functions.items():
        for name, ty in _signature(gv.name_hint, f):
            if (spec := reader.spec_of(ty)) is not None and specs.setdefault(name, spec) != spec:
                raise ShardingError("from_dist", f"{name!r} is {specs[name]} in one function, and {spec} in {gv.name_hint!r}")
    made: Any = {gv: _Strip(reader, gv.name_hint, mod).function(f) if gv in functions else f for gv, f in mod.functions_items()}
    kept = {k: infos for k, infos in dict(mod.global_infos).items() if not any(isinstance(m, DeviceMesh) for m in infos)}
    attrs = {k: v for k, v in (mod.attrs.items() if mod.attrs else ()) if k != "device_num"}
    plain = tvm.IRModule(made, attrs=tvm.ir.make_node("ir.DictAttrs", **attrs), global_infos=kept)
    sizes: Any = dict(zip(axes, shape, strict=True))
    return Imported(plain, Mesh(**sizes), specs)


class _Reader:
    """Placements as specs."""

    def __init__(self, axes: tuple[str, ...]) -> None:
        self.axes = axes

    def spec(self, placement: Any, rank: int) -> P:
        """`S[0], R` on axes dp and tp is ``P("dp", None)``."""
        entries: list[tuple[str, ...]] = [()] * rank
        for axis, one in zip(self.axes, placement.dim_specs, strict=True):
            if int(one.kind) == 0:
                entries[int(one.axis)] += (axis,)
        return P(*(e[0] if len(e) == 1 else e or None for e in entries))

    def spec_of(self, ty: Any) -> P | None:
        """That of a type."""
        return self.spec(ty.placement, ty.tensor_ty.ndim) if isinstance(ty, DTensorType) else None


def _signature(function: str, f: relax.Function) -> Iterator[tuple[str, Any]]:
    """Parameters and results by the names that specs have for them."""
    inputs = int(f.attrs["num_input"]) if f.attrs and "num_input" in f.attrs else len(f.params)
    for i, param in enumerate(f.params):
        for name, ty in _types(param.name, param.ty):
            yield (name if i >= inputs else f"{function}.{name}"), ty
    yield from _types(f"{function}.return", f.ret_ty)


def _types(name: str, ty: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(ty, relax.TupleType):
        for i, field in enumerate(ty.fields):
            yield from _types(f"{name}[{i}]", field)
    else:
        yield name, ty


def _plain(ty: Any) -> Any:
    if isinstance(ty, relax.TupleType):
        return relax.TupleType([_plain(f) for f in ty.fields])
    return ty.tensor_ty if isinstance(ty, DTensorType) else ty


@mutator
class _Strip(PyExprMutator):
    """A function with hints for calls of ``R.dist`` and tensors for DTensors."""

    def __init__(self, reader: _Reader, name: str, mod: tvm.IRModule) -> None:
        super().__init__(mod)
        self.reader, self.name = reader, name

    def function(self, f: relax.Function) -> relax.Function:
        params: list[Any] = []
        for param in f.params:
            params.append(relax.Var(param.name, _plain(param.ty)))
            self.set_var_remap(param, params[-1])
        body = self.visit_expr(f.body)
        made = relax.Function(params, body, _plain(f.ret_ty), f.is_pure, f.attrs)
        for var in relax.analysis.all_vars(made):
            if any(isinstance(ty, DTensorType) for _, ty in _types(var.name, var.ty)):
                where = f"from_dist: function {self.name!r}"
                raise ShardingError(where, f"{var.name!r} stays a DTensor", "Write R.dist.annotate_sharding where its type says it.")
        return made

    def visit_call_(self, call: Any) -> Any:
        name = call.op.name if isinstance(call.op, tvm.ir.Op) else ""
        if name in _HINTS:
            value = self.visit_expr(call.args[0])
            return hint(value, self.reader.spec(call.attrs.placement, value.ty.ndim))
        if name.startswith(("relax.dist.", "relax.ccl.")):
            where = f"from_dist: function {self.name!r}"
            raise ShardingError(where, f"it calls {name}: it is lowered already", "Import the module as it was before.")
        args = [self.visit_expr(a) for a in call.args]
        return self.builder_.normalize(relax.Call(call.op, args, call.attrs, [_plain(t) for t in call.ty_args], call.span))
