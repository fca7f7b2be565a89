"""What collectives make of relations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from spmd.placement.mesh import Mesh

from .indices import NoRelation
from .relations import Relations, Value
from .terms import Term

Axes = tuple[str, ...]
Step = Callable[[Relations, Value, Axes], Value]


def of_call(e: Any, name: str, mesh: Mesh) -> tuple[Axes, Step]:
    """The axes of a collective, and what it does to a value."""
    short, attrs = name.split(".")[-1], e.attrs
    if name.startswith("relax.ccl."):
        axes = tuple(mesh.axes)
        if mesh.groups("+".join(axes)) != [list(range(mesh.size))]:
            raise NoRelation("a collective over workers in another order")
        if not bool(getattr(attrs, "in_group", True)):
            raise NoRelation("a collective over several groups")
        return axes, _OF_TVM[short](attrs) if short in _OF_TVM else _unknown(short)
    return axes_of(attrs, mesh), _OF_SPMD[short](attrs) if short in _OF_SPMD else _unknown(short)


def axes_of(attrs: Any, mesh: Mesh) -> Axes:
    """The axes that something of the dialect is about."""
    axes = tuple(str(attrs["axis"]).split("+"))
    if any(axis not in mesh.axes for axis in axes) or mesh.axis_size(*axes) != int(attrs["workers"]):
        raise NoRelation("a collective over what is no axis, or another number of workers")
    return axes


def _unknown(short: str) -> Step:
    def step(relations: Relations, value: Value, axes: Axes) -> Value:
        raise NoRelation(f"{short} of what workers hold")

    return step


def _reduced(kind: str) -> Step:
    def step(relations: Relations, value: Value, axes: Axes) -> Value:
        return relations.reduced(value, kind, frozenset(axes))

    return step


def _kept(value: Value, axes: Axes) -> None:
    if value.pending & set(axes):
        raise NoRelation(f"it moves what is still to be reduced over {', '.join(axes)}")


def _gathered(dim: int) -> Step:
    def step(relations: Relations, value: Value, axes: Axes) -> Value:
        _kept(value, axes)
        indices, held = relations.indices, value.shape[dim]
        shape = list(value.shape)
        shape[dim] = indices.times(held, indices.mesh.axis_size(*axes))
        at = relations.variables(shape)[dim]
        place: dict[int, Term] = {dim: ("ix", indices.binary("FloorMod", at, held))}
        return relations.moved(value, shape, place, indices.coordinates(axes, indices.binary("FloorDiv", at, held)))

    return step


def _cut(dim: int) -> Step:
    def step(relations: Relations, value: Value, axes: Axes) -> Value:
        indices, shape = relations.indices, list(value.shape)
        shape[dim] = indices.share(value.shape[dim], indices.mesh.axis_size(*axes))
        at = indices.binary("Add", indices.binary("Mul", indices.index(axes), shape[dim]), relations.variables(shape)[dim])
        return relations.moved(value, shape, {dim: ("ix", at)})

    return step


def _scattered(kind: str, dim: int) -> Step:
    def step(relations: Relations, value: Value, axes: Axes) -> Value:
        return _cut(dim)(relations, relations.reduced(value, kind, frozenset(axes)), axes)

    return step


def _exchanged(split: int, concat: int) -> Step:
    def step(relations: Relations, value: Value, axes: Axes) -> Value:
        _kept(value, axes)
        indices, workers = relations.indices, relations.indices.mesh.axis_size(*axes)
        if split == concat:
            raise NoRelation("an exchange in one dimension")
        held, shape = value.shape[concat], list(value.shape)
        shape[split], shape[concat] = indices.share(value.shape[split], workers), indices.times(held, workers)
        new = relations.variables(shape)
        own = indices.binary("Add", indices.binary("Mul", indices.index(axes), shape[split]), new[split])
        place: dict[int, Term] = {split: ("ix", own), concat: ("ix", indices.binary("FloorMod", new[concat], held))}
        return relations.moved(value, shape, place, indices.coordinates(axes, indices.binary("FloorDiv", new[concat], held)))

    return step


def _broadcast(root: int) -> Step:
    def step(relations: Relations, value: Value, axes: Axes) -> Value:
        _kept(value, axes)
        return relations.moved(value, value.shape, {}, relations.indices.coordinates(axes, relations.indices.number(root)))

    return step


_OF_SPMD: dict[str, Callable[[Any], Step]] = {
    "all_reduce": lambda attrs: _reduced(str(attrs["kind"])),
    "all_gather": lambda attrs: _gathered(int(attrs["dim"])),
    "reduce_scatter": lambda attrs: _scattered(str(attrs["kind"]), int(attrs["dim"])),
    "all_to_all": lambda attrs: _exchanged(int(attrs["split_dim"]), int(attrs["concat_dim"])),
    "broadcast": lambda attrs: _broadcast(int(attrs["root"])),
}
_OF_TVM: dict[str, Callable[[Any], Step]] = {
    "allreduce": lambda attrs: _reduced(str(attrs.op_type)),
    "allgather": lambda attrs: _gathered(0),
    "broadcast_from_worker0": lambda attrs: _broadcast(0),
}
