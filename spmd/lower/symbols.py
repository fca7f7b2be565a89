"""Sizes of parameters that are all split: ``n`` is then told by no argument of a worker.

Where all workers hold an equal part it is written as a multiple of the local size. Where the last ones hold padding, shards of 3 may be 5
or 6 in all: then each worker is told by one more argument, a shape, after the function's own and before what were constants. `workers`
passes it. A size that any tensor tells that is whole needs neither.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import tvm
from tvm import relax, tirx

from spmd.errors import ShardingError
from spmd.ir.expressions import static, variables
from spmd.ir.lift import constants_of
from spmd.ir.trees import Tree, leaves
from spmd.placement.sharding import Sharding
from spmd.plan.decisions import Signature
from spmd.plan.model import Plan
from spmd.plan.sizes import evaluated
from spmd.program.graph import Function, Graph, Value

from .kept import kept_by
from .reshard import local_dims

_Shapes = list[tuple[Sequence[Any], Sharding]]
_ARGUMENT = "sizes"


@dataclass
class _Untold:
    """The sizes of one function that no argument of a worker tells."""

    multiples: dict[Any, tuple[int, Any]] = field(default_factory=dict[Any, tuple[int, Any]])
    """Each with how many times as large it is as a new one, a local size."""
    passed: list[Any] = field(default_factory=list[Any])
    """Those that are an argument of their own."""


def sizes_passed(graph: Graph, plan: Plan) -> dict[str, Signature]:
    """The signatures of the functions that are passed sizes, with their names.

    Raises `ShardingError` where a result is split unevenly, and no argument will tell how large it is.
    """
    found: dict[str, Signature] = {}
    for name, signature in plan.functions.items() if _splits_unknown(plan) else ():
        _check_results(name, signature)
        passed = tuple(str(var.name) for var in _untold(graph, plan, name).passed)
        if passed:
            found[name] = replace(signature, sizes=passed)
    return found


def _check_results(name: str, signature: Signature) -> None:
    told = {str(size): 1 for leaf in leaves(signature.params) for size in leaf.shape or () if str(size).isidentifier()}
    for leaf in leaves(signature.outputs):
        for size, split in zip(leaf.shape or (), leaf.sharding.dims if leaf.sharding is not None else (), strict=False):
            needed = (str(size), *(split.length.names if split.length is not None else ())) if split is not None else ()
            if split is not None and split.is_measured and any(evaluated(text, told) is None for text in needed):
                what = f"it returns {leaf.name!r} split as {split} along the size {size}, and no argument tells these"
                raise ShardingError(f"function {name!r}", what, "Return it whole.")


def told_by_shards(graph: Graph, plan: Plan) -> tvm.IRModule | None:
    """The module with each such size of a function written so; None where there is none, as where no symbolic size is split.

    Raises `ShardingError` where parameters are split over different workers and none of them tells it.
    """
    changed: dict[Any, Any] = {}
    for name in graph.functions if _splits_unknown(plan) else ():
        untold, source = _untold(graph, plan, name), graph.module[name]
        if untold.multiples or untold.passed:
            changed[graph.module.get_global_var(name)] = _written_by(source, untold, _free_name(graph))
    if not changed:
        return None
    module = tvm.IRModule(dict(graph.module.functions_items()), attrs=graph.module.attrs, global_infos=graph.module.global_infos)
    for var, function in changed.items():
        module[var] = function
    return module


def _splits_unknown(plan: Plan) -> bool:
    return any(sharding.is_symbolic for sharding in (*plan.params.values(), *plan.values.values(), *plan.outputs.values()))


def _untold(graph: Graph, plan: Plan, name: str) -> _Untold:
    shapes, known = _signature(graph.functions[name], graph.module[name], plan)
    if not any(sharding.is_symbolic for _, sharding in shapes):
        return _Untold()
    return _sorted(shapes, known, plan, f"function {name!r}")


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


def _sorted(shapes: _Shapes, known: Sequence[Any], plan: Plan, where: str) -> _Untold:
    """The variables in local shapes that are no local size themselves."""
    local = [dim for dims, sharding in shapes for dim in local_dims(dims, sharding, plan.mesh)]
    told = [*known, *(d for d in local if isinstance(d, tvm.ir.Var))]
    named = {name for sharding in plan.values.values() for name in sharding.names}
    found = _Untold()
    for var in (v for dim in local for v in variables(dim)):
        if any(var.same_as(other) for other in (*told, *found.multiples, *found.passed)):
            continue
        uneven = [d for dims, sharding in shapes for d, s in zip(dims, sharding.dims, strict=True) if s is not None and s.uneven]
        if var.name in named or any(_has(dim, var) for dim in uneven):  # lengths go on having its name
            found.passed.append(var)
            continue
        splits = [s for dims, sharding in shapes for d, s in zip(dims, sharding.dims, strict=True) if _is(d, var) and s is not None]
        sizes = [plan.mesh.axis_size(*s.axes) for s in splits]
        most = max(sizes, default=0)
        if not most or any(most % size for size in sizes):
            what = f"no parameter tells the size {var.name!r}: all are split, over {sorted(set(sizes))} workers"
            raise ShardingError(where, what, "Keep one whole that has it, or split them over the same workers.")
        found.multiples[var] = most, tirx.Var(f"{var.name}_block", "int64")
    return found


def _written_by(source: relax.Function, untold: _Untold, name: str) -> relax.Function:
    """The function with each variable as so many times another one, and one parameter more for those that are passed.

    For a moment a parameter tells the others too, as TVM asks for.
    """
    params, own = list(source.params), len(source.params) - len(constants_of(source))
    if untold.passed:
        params.insert(own, relax.Var(name, relax.ShapeType(untold.passed)))
    if not untold.multiples:
        return relax.Function(params, source.body, source.ret_ty, source.is_pure, source.attrs)
    teller = relax.Var("blocks", relax.ShapeType([block for _, block in untold.multiples.values()]))
    told = relax.Function([*params, teller], source.body, source.ret_ty, source.is_pure, source.attrs)
    bound = told.bind_symbolic_vars({var: times * block for var, (times, block) in untold.multiples.items()})
    return relax.Function(bound.params[:-1], bound.body, bound.ret_ty, bound.is_pure, bound.attrs)


def _free_name(graph: Graph) -> str:
    """A name that no parameter has."""
    taken = {str(param.name) for name in graph.functions for param in graph.module[name].params}
    name = _ARGUMENT
    while name in taken:
        name += "_"
    return name


def _is(dim: Any, var: Any) -> bool:
    return isinstance(dim, tvm.ir.Var) and dim.same_as(var)


def _has(dim: Any, var: Any) -> bool:
    return any(var.same_as(other) for other in variables(dim))
