"""scaling(): the plans of a module for more and more workers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import tvm

from . import checks
from .annotate import Specs, specs_of
from .checks import door
from .costs.profile import Profile, profile_of, profile_taken
from .errors import ShardingError
from .explain import Scaling
from .explain.scaling import Point
from .pipeline import plan
from .placement.mesh import Mesh, MeshLike

_MOST = 64
"""The number of workers up to which powers of two are planned where nobody says for which."""


def _meshes(where: str, given: Any) -> tuple[Mesh, ...]:
    found = tuple(Mesh.taken(where, one) for one in checks.listed(where, given))
    if not found:
        raise ShardingError(where, "it is empty", "Write meshes=[1, 2, 4].")
    return found


@door(
    mod=checks.module,
    meshes=_meshes,
    specs=specs_of,
    profile=profile_taken,
    sizes=checks.maybe(checks.sizes),
    divisible=checks.maybe(checks.divisible),
    memory=checks.maybe(checks.memory),
)
def scaling(
    mod: tvm.IRModule,
    meshes: Sequence[MeshLike] = tuple(1 << i for i in range(_MOST.bit_length())),
    specs: Specs | None = None,
    *,
    profile: Profile | str = "generic",
    sizes: Mapping[str, int] | None = None,
    divisible: Mapping[str, int] | None = None,
    memory: float | None = None,
) -> Scaling:
    """The predicted times of a module over meshes, by default 1 to 64 workers in powers of two, and where its plan changes.

    The other arguments are those of `plan`. A mesh for which there is no plan, such as one worker with too little memory, is a point with
    its problem. Raises `ShardingError` where there is none for any.
    """
    points: list[Point] = []
    first: ShardingError | None = None
    for mesh in map(Mesh.of, meshes):
        try:
            made = plan(mod, mesh, specs, profile=profile, sizes=sizes, divisible=divisible, memory=memory)
        except ShardingError as error:
            first = first or error
            points.append(Point(mesh, {}, 0, {}, str(error)))
        else:
            points.append(Point.of(made))
    if first is not None and all(point.problem for point in points):
        raise first
    return Scaling(tuple(points), profile_of(profile).name)
