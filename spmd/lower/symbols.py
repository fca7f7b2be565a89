"""Sizes of parameters that are all split: ``n`` is then told by no argument, and comes from the local size."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import tvm
import tvm_ffi
from tvm import tirx

from ..errors import ShardingError
from ..mesh import Mesh
from ..sharding import Sharding
from .reshard import local_dims

Blocks = Mapping[Any, tuple[int, Any]]
"""Variable -> how many times as large it is as another one, which some parameter has as its local size."""


def find_blocks(params: Iterable[tuple[Sequence[Any], Sharding]], known: Iterable[Any], mesh: Mesh, where: str) -> Blocks:
    """The variables in the local shapes of `params` that none of them has as a size, and that are not `known` otherwise."""
    params = list(params)
    local = [dim for dims, sharding in params for dim in local_dims(dims, sharding, mesh)]
    told = [*known, *(d for d in local if isinstance(d, tvm.ir.Var))]
    found: dict[Any, tuple[int, Any]] = {}
    for dim in local:
        for var in _variables(dim):
            if any(var.same_as(other) for other in (*told, *found)):
                continue
            splits = [s for dims, sharding in params for d, s in zip(dims, sharding.dims, strict=True) if _is(d, var) and s is not None]
            sizes = [mesh.axis_size(*s.axes) for s in splits]
            most = max(sizes, default=0)
            if not most or any(most % size for size in sizes):
                what = f"no parameter tells the size {var.name!r}: all are split, over {sorted(set(sizes))} workers"
                raise ShardingError(where, what, "Keep one whole that has it, or split them over the same workers.")
            found[var] = (most, tirx.Var(f"{var.name}_block", "int64"))
    return found


def in_blocks_of(dims: Iterable[Any], blocks: Blocks) -> list[Any]:
    """Local sizes with each such variable as a multiple of the other."""

    def replaced(var: Any, _: Any) -> Any:
        return next((times * block for other, (times, block) in blocks.items() if other.same_as(var)), var)

    return [d if isinstance(d, int) else tvm.sym.Analyzer().simplify(tvm_ffi.structural_mutate(d, [(tvm.ir.Var, replaced)])) for d in dims]


def _is(dim: Any, var: Any) -> bool:
    return isinstance(dim, tvm.ir.Var) and dim.same_as(var)


def _variables(dim: Any) -> list[Any]:
    found: list[Any] = []
    if not isinstance(dim, int):
        tvm_ffi.structural_walk(dim, [((tvm.ir.Var,), found.append)])
    return found
