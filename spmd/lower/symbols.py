"""Sizes of parameters that are all split: ``n`` is then told by no argument of a worker, and is written as a multiple of the local size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import tvm
from tvm import relax, tirx

from spmd.errors import ShardingError
from spmd.ir.expressions import static, variables
from spmd.ir.trees import Tree
from spmd.placement.sharding import Sharding
from spmd.plan.model import Plan
from spmd.program.graph import Function, Graph, Value

from .kept import kept_by
from .reshard import local_dims

_Shapes = list[tuple[Sequence[Any], Sharding]]


def told_by_shards(graph: Graph, plan: Plan) -> tvm.IRModule | None:
    """The module with each such size of a function written so; None where there is none, as where no symbolic size is split.

    Raises `ShardingError` where parameters are split over different workers and none of them tells it.
    """
    if not any(sharding.is_symbolic for sharding in (*plan.params.values(), *plan.values.values())):
        return None
    changed: dict[Any, Any] = {}
    for name, function in graph.functions.items():
        source = graph.module[name]
        shapes, known = _signature(function, source, plan)
        if any(sharding.is_symbolic for _, sharding in shapes):
            bound = _multiples(shapes, known, plan, f"function {name!r}")
            if bound:
                changed[graph.module.get_global_var(name)] = _written_by(source, bound)
    if not changed:
        return None
    module = tvm.IRModule(dict(graph.module.functions_items()), attrs=graph.module.attrs, global_infos=graph.module.global_infos)
    for var, function in changed.items():
        module[var] = function
    return module


def _signature(function: Function, source: relax.Function, plan: Plan) -> tuple[_Shapes, list[Any]]:
    """The shapes of the tensors among the parameters with how they are kept, and the sizes that other parameters tell."""
    shapes: _Shapes = []
    known: list[Any] = []

    def visit(tree: Tree[Value], ty: Any) -> None:
        if isinstance(tree, tuple):
            for part, field in zip(tree, ty.fields, strict=True):
                visit(part, field)
        elif tree.is_tensor and tree.dims:
            dims = [d if (n := static(d)) is None else n for d in ty.shape.values]
            shapes.append((dims, kept_by(plan, tree)))
        elif isinstance(ty, relax.ShapeType) and ty.values is not None:
            known.extend(ty.values)

    for param, tree in zip(source.params, function.params, strict=True):
        visit(tree, param.ty)
    return shapes, known


def _multiples(shapes: _Shapes, known: Sequence[Any], plan: Plan, where: str) -> dict[Any, tuple[int, Any]]:
    """The variables in local shapes that are no local size themselves, each with how many times as large it is as a new one that is."""
    local = [dim for dims, sharding in shapes for dim in local_dims(dims, sharding, plan.mesh)]
    told = [*known, *(d for d in local if isinstance(d, tvm.ir.Var))]
    found: dict[Any, tuple[int, Any]] = {}
    for var in (v for dim in local for v in variables(dim)):
        if any(var.same_as(other) for other in (*told, *found)):
            continue
        splits = [s for dims, sharding in shapes for d, s in zip(dims, sharding.dims, strict=True) if _is(d, var) and s is not None]
        sizes = [plan.mesh.axis_size(*s.axes) for s in splits]
        most = max(sizes, default=0)
        if not most or any(most % size for size in sizes):
            what = f"no parameter tells the size {var.name!r}: all are split, over {sorted(set(sizes))} workers"
            raise ShardingError(where, what, "Keep one whole that has it, or split them over the same workers.")
        found[var] = most, tirx.Var(f"{var.name}_block", "int64")
    return found


def _written_by(source: relax.Function, multiples: Mapping[Any, tuple[int, Any]]) -> relax.Function:
    """The function with each variable as so many times another one. For a moment a parameter tells these, as TVM asks for."""
    teller = relax.Var("blocks", relax.ShapeType([block for _, block in multiples.values()]))
    told = relax.Function([*source.params, teller], source.body, source.ret_ty, source.is_pure, source.attrs)
    bound = told.bind_symbolic_vars({var: times * block for var, (times, block) in multiples.items()})
    return relax.Function(bound.params[:-1], bound.body, bound.ret_ty, bound.is_pure, bound.attrs)


def _is(dim: Any, var: Any) -> bool:
    return isinstance(dim, tvm.ir.Var) and dim.same_as(var)
