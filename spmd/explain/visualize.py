"""`visualize`: the picture of a value of a plan, of an array on workers, or of a sharding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, cast, runtime_checkable

from spmd import checks
from spmd.checks import door, told
from spmd.errors import ShardingError
from spmd.placement.mesh import Mesh, MeshLike
from spmd.placement.sharding import Sharding
from spmd.placement.spec import P
from spmd.plan import model
from spmd.plan.decisions import LeafTree, TensorInfo

from .picture import Picture
from .text import known_name

_WAY_OUT = 'Write spmd.visualize("w", plan), spmd.visualize(handle), or spmd.visualize(P("tp", None), shape=(8, 4), mesh=2).'


@runtime_checkable
class Placed(Protocol):
    """What knows where it lives, such as an array that stays on workers."""

    @property
    def shape(self) -> Sequence[int] | None:
        """The global shape; None of what is no tensor."""
        ...

    @property
    def sharding(self) -> Sharding | None:
        """How it is placed; None of what is no tensor."""
        ...

    @property
    def mesh(self) -> Mesh:
        """The workers."""
        ...


def picture_of(plan: model.Plan, name: str) -> Picture:
    """The picture of a value of a plan, at the sizes that were planned for. Raises `ShardingError` for a name that it does not have."""
    sharding = known_name(plan, name, "visualize")
    info = plan.tensors.get(name) or _result(plan, name)
    if info is None:
        raise ShardingError(f"visualize({name!r})", "it is no tensor", "Draw a single tensor.")
    return _picture(sharding, info.sizes, plan.mesh)


def _result(plan: model.Plan, name: str) -> TensorInfo | None:
    """The shape of a result, ``function`` or ``function[i]``; results have the names of values inside of the function."""

    def look(name_of: str, tree: LeafTree, function: str) -> TensorInfo | None:
        if isinstance(tree, tuple):
            parts = (look(f"{name_of}[{i}]", part, function) for i, part in enumerate(tree))
            return next((found for found in parts if found is not None), None)
        return (plan.tensors.get(f"{function}.{tree.name}") or plan.tensors.get(tree.name)) if name_of == name else None

    found = (look(function, signature.outputs, function) for function, signature in plan.signatures.items())
    return next((info for info in found if info is not None), None)


def _plan(where: str, given: Any) -> model.Plan:
    found = given if isinstance(given, model.Plan) else getattr(given, "plan", None)
    if not isinstance(found, model.Plan):
        raise ShardingError(where, f"it takes a Plan or a ShardedModule, and got {told(given)}", _WAY_OUT)
    return found


def _sizes(where: str, given: Any) -> tuple[int, ...]:
    if not isinstance(given, list | tuple):
        raise ShardingError(where, f"it takes a tuple of sizes, and got {told(given)}", _WAY_OUT)
    return tuple(checks.whole(0)(where, size) for size in cast("Sequence[Any]", given))


@door(_WAY_OUT, of=checks.maybe(_plan), shape=checks.maybe(_sizes), mesh=checks.maybe(Mesh.taken))
def visualize(
    what: str | Sharding | P | Placed, of: model.Plan | Any = None, *, shape: Sequence[int] | None = None, mesh: MeshLike | None = None
) -> Picture:
    """Which workers hold which block of a tensor, as a picture for terminals and notebooks.

    `what` is the name of a value of the plan (or sharded module) `of`; or an array that stays on workers, as `Workers.load` and
    ``keep=True`` give it; or a `Sharding` or `P` of a tensor of `shape` on `mesh`. Raises `ShardingError` for a name that the plan does
    not have, and for a sharding that the shape or the mesh does not fit.
    """
    if isinstance(what, str):
        if of is None:
            raise ShardingError("visualize(), of", f"nothing says whose value {told(what)} is", _WAY_OUT)
        _unused("a value of a plan", shape=shape, mesh=mesh)
        return picture_of(of, what)
    if not isinstance(what, Sharding | P):
        _unused("an array on workers", of=of, shape=shape, mesh=mesh)
        return _of_placed(what)
    _unused("a sharding", of=of)
    if shape is None or mesh is None:
        missing = "shape" if shape is None else "mesh"
        raise ShardingError(f"visualize(), {missing}", f"{what} says nothing of the {missing}", _WAY_OUT)
    workers = Mesh.of(mesh)
    placed = what.sharding(tuple(shape), workers, "visualize(), what") if isinstance(what, P) else what
    return _picture(placed, tuple(shape), workers)


def _of_placed(given: Any) -> Picture:
    if not isinstance(given, Placed) or not isinstance(given.mesh, Mesh):  # pyright: ignore[reportUnnecessaryIsInstance]
        what = f"it takes a name, a sharding or an array on workers, and got {told(given)}"
        raise ShardingError("visualize(), what", what, _WAY_OUT)
    if not isinstance(given.sharding, Sharding) or given.shape is None:
        raise ShardingError("visualize(), what", "this is a handle of something that is not one tensor", "Draw a single tensor.")
    return _picture(given.sharding, tuple(given.shape), given.mesh)


def _picture(sharding: Sharding, sizes: tuple[int, ...], mesh: Mesh) -> Picture:
    """A picture of what fits together."""
    made = Picture(sharding.at(sizes), sizes, mesh)
    made.sharding.local_shape(sizes, mesh)
    mesh.parts(*(axis for axis, _ in sharding.partial))
    return made


def _unused(what: str, **given: Any) -> None:
    """Refuse arguments that say again what is known."""
    for name, value in given.items():
        if value is not None:
            raise ShardingError(f"visualize(), {name}", f"{what} has its own, and got {told(value)}, too", f"Leave {name} out.")
