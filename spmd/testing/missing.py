"""What a rule does not say: every placement of the inputs is tried with the operator as it is on each shard, and those that give the
right result and are not in the rule are named.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import tvm
from tvm import relax

from ..arguments import Handle
from ..graph import Function, Node, Value, leaves
from ..layout import Array, cut, join
from ..mesh import Mesh
from ..plan import Leaf, Signature
from ..propagate import build_graph
from ..sharding import Segment, Sharding, Split
from ..workers import workers
from .equivalence import difference, random_arguments
from .oracle import Arguments, Program, Verdict, empty_plan, operator_of, strategies_of


def find_missing(
    mod: tvm.IRModule, mesh: Mesh | int, *, arguments: Arguments | None = None, seed: int = 0, most: int = 256
) -> list[Verdict]:
    """Placements under which the operator itself, run on each shard, is right, and that its rule does not have ("missing").

    A placement whose shards do not fit together is none; one for which TVM fails in another way is an "error". Tries at most `most`
    combinations of whole or evenly split inputs of each function, and reads off the result whether it is whole,
    split over one dimension, or a partial sum.
    """
    graph = build_graph(mod)
    mesh = Mesh.of(mesh)
    axis = next(iter(mesh.axes))
    builder = relax.BlockBuilder()
    trials: dict[str, tuple[Function, tuple[Sharding, ...]]] = {}
    found: list[Verdict] = []
    for function in graph.functions.values():
        node = operator_of(function)
        known = {s.inputs for s in strategies_of(graph, node, mesh)}
        options = [[Sharding.replicated(len(v.shape)), *_even_splits(v, axis, mesh)] for v in node.inputs]
        for i, placement in enumerate(itertools.islice(itertools.product(*options), most)):
            if placement in known or all(s.is_replicated for s in placement):
                continue
            try:
                if _emit_local(builder, f"{function.name}__{i}", node, placement, mesh):
                    trials[f"{function.name}__{i}"] = (function, placement)
            except Exception as error:
                found.append(Verdict(function.name, node.op, tuple(map(str, placement)), (), "error", f"{type(error).__name__}: {error}"))
    if not trials:
        return found
    local = builder.finalize()
    with workers(mod) as one, workers(_raw_program(local, mesh)) as many:
        for name, (function, placement) in trials.items():
            node = operator_of(function)
            params = list(leaves(tuple(function.params)))
            given = list(
                (arguments or {}).get(function.name) or random_arguments(one.signatures[function.name].params, function.name, seed)
            )
            flat = dict(zip(params, _flat(given), strict=True))
            expected = one[function.name](*given)
            if not isinstance(expected, np.ndarray):
                continue
            objects = [
                tuple(tvm.runtime.tensor(cut(np.asarray(flat[v]), s, mesh, r)) for r in range(mesh.size))
                for v, s in zip(node.inputs, placement, strict=True)
            ]
            result = many[name](*[Handle(o, many.backend) for o in objects], keep=True)
            shards = [o.numpy() for o in result.objects]
            for sharding in _explains(shards, expected, axis, mesh):
                found.append(Verdict(function.name, node.op, tuple(map(str, placement)), (str(sharding),), "missing"))
                break
    return found


def _even_splits(value: Value, axis: str, mesh: Mesh) -> Iterator[Sharding]:
    for dim, size in enumerate(value.shape):
        if size and size % mesh.size == 0:
            yield Sharding(tuple(Split((axis,), (Segment(size),)) if d == dim else None for d in range(len(value.shape))))


def _emit_local(builder: relax.BlockBuilder, name: str, node: Node, placement: Sequence[Sharding], mesh: Mesh) -> bool:
    """Emit the operator itself on shards; False where it does not take their shapes, which TVM says in three ways."""
    call = node.binding.value
    if not isinstance(call, tvm.ir.Call) or not isinstance(call.op, tvm.ir.Op) or call.op.name.startswith("relax.call_"):
        return False
    shapes = [s.local_shape(tuple(n or 0 for n in v.shape), mesh) for v, s in zip(node.inputs, placement, strict=True)]
    params = [relax.Var(f"x{i}", relax.TensorType(shape, v.dtype)) for i, (shape, v) in enumerate(zip(shapes, node.inputs, strict=True))]
    rest = iter(params)

    def local(arg: Any) -> Any:
        if isinstance(arg, relax.Tuple):
            return relax.Tuple([local(f) for f in arg.fields])
        return next(rest) if isinstance(arg, tvm.ir.Expr) and isinstance(arg.ty, relax.TensorType) else arg

    made = tvm.ir.Call(call.op, [local(a) for a in call.args], call.attrs)
    scratch = relax.BlockBuilder()
    try:
        with scratch.function(name, params):
            result = scratch.emit(made)
            scratch.emit_func_output(result)
        if _is_impossible(result.ty):
            return False
        relax.transform.LegalizeOps()(scratch.finalize())  # type inference does not see all that does not fit
    except (ValueError, AssertionError, tvm.error.InternalError):
        return False
    with builder.function(name, params):
        builder.emit_func_output(builder.emit(made))
    return True


def _is_impossible(ty: Any) -> bool:
    """Whether a size has come out negative, as where a window is larger than a shard."""
    if isinstance(ty, relax.TupleType):
        return any(_is_impossible(f) for f in ty.fields)
    sizes = ty.shape.values if isinstance(ty, relax.TensorType) and isinstance(ty.shape, relax.ShapeExpr) else ()
    return any(isinstance(s, tvm.tirx.IntImm) and s.value < 0 for s in sizes)


def _raw_program(mod: tvm.IRModule, mesh: Mesh) -> Program:
    signatures: dict[str, Signature] = {}
    for var, function in mod.functions.items():
        if isinstance(function, relax.Function):
            params = tuple(Leaf(p.name, None, "", None) for p in function.params)
            signatures[var.name_hint] = Signature(params, Leaf(var.name_hint, None, "", None), None)
    return Program(mod, empty_plan(mesh, signatures))


def _flat(values: Sequence[Any]) -> Iterator[Any]:
    for value in values:
        if isinstance(value, tuple):
            yield from _flat(value)
        else:
            yield value


def _explains(shards: list[Array], expected: Array, axis: str, mesh: Mesh) -> Iterator[Sharding]:
    """The placements under which these shards are the expected result."""
    rank, size = expected.ndim, mesh.size
    whole = Sharding.replicated(rank)
    options = [whole, Sharding(whole.dims, ((axis, "sum"),))]
    options += [
        Sharding(tuple(Split((axis,), (Segment(n),)) if d == dim else None for d in range(rank)))
        for dim, n in enumerate(expected.shape)
        if n and n % size == 0
    ]
    for sharding in options:
        if shards[0].shape != sharding.local_shape(expected.shape, mesh):
            continue
        if sharding.is_replicated and any(difference(shards[0], s, None) for s in shards[1:]):
            continue
        if not difference(expected, join(shards, sharding, mesh, expected.shape), None):
            yield sharding
