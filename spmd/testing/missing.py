"""What a rule does not say: every placement of the inputs is tried with the operator as it is on each shard, and those that give the
right result and are not in the rule are named.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tvm
from tvm import relax

from spmd.checks import door
from spmd.collectives.pool import WorkerError
from spmd.ir.builder import Builder
from spmd.ir.trees import leaves
from spmd.placement.layout import Array, cut, join
from spmd.placement.mesh import Mesh, MeshLike
from spmd.placement.sharding import Segment, Sharding, Split
from spmd.plan.decisions import Leaf, Signature
from spmd.program.build import build_graph
from spmd.program.graph import Function, Node, Value
from spmd.run.arguments import Handle
from spmd.run.workers import workers

from .alone import operators_alone
from .equivalence import difference, random_arguments
from .oracle import ORACLE, Arguments, Program, Verdict, empty_plan, operator_of, strategies_of
from .resized import KERNELS, Unfit, Untried, kernel_call, packed_call

_UNCHECKED: Mapping[str, int | None] = {
    "relax.scatter_elements": 0,
    "relax.scatter_nd": 0,
    "relax.index_put": 0,
    "relax.grad.take_backward": 1,
    "relax.vision.non_max_suppression": None,
    "relax.vision.all_class_non_max_suppression": None,
}
"""Operators that TVM lets write past the end of memory, where shards do not fit: the input that has to be whole, None for all of them."""


@door(**{name: check for name, check in ORACLE.items() if name != "tolerance"})
def find_missing(mod: tvm.IRModule, mesh: MeshLike, *, arguments: Arguments | None = None, seed: int = 0, most: int = 256) -> list[Verdict]:
    """Placements under which the operator itself, run on each shard, is right, and that its rule does not have ("missing").

    A placement whose shards do not fit together is none; one for which TVM fails in another way is an "error", and what cannot be run on
    shards is "untried". Tries at most `most` combinations of whole or evenly split inputs of each function, and reads off the results
    whether they are whole, split over one dimension, or partial sums. Kernels are made for the sizes of shards.
    """
    mod, taken_apart = operators_alone(mod)
    graph, mesh = build_graph(mod), Mesh.of(mesh)
    axis = next(iter(mesh.axes))
    builder = Builder()
    trials: dict[str, tuple[Function, tuple[Sharding, ...]]] = {}
    found: list[Verdict] = []
    untried: dict[tuple[str, str, str], None] = {}
    for function in graph.functions.values():
        node = operator_of(function)
        known = {s.inputs for s in strategies_of(graph, node, mesh)}
        if (why := _untold(node)) is not None:
            untried[function.name, node.op, why] = None
            continue
        options = [[Sharding.replicated(len(v.shape)), *_even_splits(v, axis, mesh)] for v in node.inputs]
        for i, placement in enumerate(itertools.islice(itertools.product(*options), most)):
            if placement in known or all(s.is_replicated for s in placement):
                continue
            if (at := _UNCHECKED.get(node.op)) is not None and not placement[at].is_replicated:
                untried[function.name, node.op, "its indices may reach beyond a shard of what it writes to, which TVM does not check"] = (
                    None
                )
                continue
            try:
                if _emit_local(builder, f"{function.name}__{i}", node, placement, mesh, mod):
                    trials[f"{function.name}__{i}"] = (function, placement)
            except Unfit:
                continue
            except Untried as reason:
                untried[function.name, node.op, str(reason)] = None
            except Exception as error:
                found.append(Verdict(function.name, node.op, tuple(map(str, placement)), (), "error", f"{type(error).__name__}: {error}"))
    if trials:
        found += _run(mod, _raw_program(builder.finalize(), mesh), trials, arguments or {}, seed)
    found += [Verdict(name, op, (), (), "untried", why) for name, op, why in untried]
    return found + [Verdict("", what, (), (), "untried", why) for what, why in taken_apart.items()]


def _untold(node: Node) -> str | None:
    """Why an operator is not tried at all."""
    call = node.binding.value
    if not isinstance(call, tvm.ir.Call) or not isinstance(call.op, tvm.ir.Op):
        return "it is no call of an operator"
    if not all(v.is_tensor for v in (*node.inputs, *node.outputs)):
        return "it takes or gives what is no tensor"
    if node.op in _UNCHECKED and _UNCHECKED[node.op] is None:
        return "TVM does not check that the shapes of what it takes fit together"
    return "its sizes are symbolic" if any(None in v.shape for v in node.inputs) else None


def _run(
    mod: tvm.IRModule, local: Program, trials: Mapping[str, tuple[Function, tuple[Sharding, ...]]], arguments: Arguments, seed: int
) -> Iterator[Verdict]:
    """The trials whose results are parts of what the operator gives whole."""
    mesh = local.mesh
    with workers(mod) as one, workers(local) as many:
        given: dict[str, list[Any]] = {}
        expected: dict[str, list[Array]] = {}
        for name, (function, placement) in trials.items():
            node, of = operator_of(function), function.name
            if of not in given:
                given[of] = list(arguments.get(of) or random_arguments(one.signatures[of].params, of, seed))
                expected[of] = list(_flat([one[of](*given[of])]))
            flat = dict(zip(leaves(tuple(function.params)), _flat(given[of]), strict=True))
            objects = [
                tuple(tvm.runtime.tensor(cut(np.asarray(x), s, mesh, r)) for r in range(mesh.size))
                for x, s in zip(_operands(node, flat), placement, strict=True)
            ]
            try:
                result = many[name](*[Handle(o, many.backend) for o in objects], keep=True)
            except WorkerError:
                if not _is_packed(node):
                    raise
                continue  # it does not take such shapes
            if not all(isinstance(made, Handle) for made in _flat([result])):
                continue  # a number, which every worker has
            shards = [parts for one in _flat([result]) for parts in zip(*map(_arrays, one.objects), strict=True)]
            explained = [
                next(_explains(list(parts), whole, next(iter(mesh.axes)), mesh), None)
                for parts, whole in zip(shards, expected[of], strict=True)
            ]
            if None not in explained:
                yield Verdict(of, node.op, tuple(map(str, placement)), tuple(map(str, explained)), "missing")


def _operands(node: Node, given: Mapping[Value, Any]) -> Iterator[Any]:
    """What an operator takes: arguments, and constants of the program."""
    found: list[Any] = []

    def see(arg: Any) -> None:
        for part in arg.fields if isinstance(arg, relax.Tuple) else [arg]:
            if isinstance(part, relax.Tuple):
                see(part)
            elif isinstance(part, tvm.ir.Expr) and isinstance(part.ty, relax.TensorType):
                found.append(part)

    for arg in node.binding.value.args:
        see(arg)
    for value, operand in zip(node.inputs, found, strict=True):
        yield operand.value.numpy() if isinstance(operand, tvm.ir.GenericConst) else given[value]


def _arrays(made: Any) -> list[Array]:
    """What one worker made: a tensor, or several."""
    return [made.numpy()] if isinstance(made, tvm.runtime.Tensor) else [array for part in made for array in _arrays(part)]


def _even_splits(value: Value, axis: str, mesh: Mesh) -> Iterator[Sharding]:
    for dim, size in enumerate(value.shape):
        if size and size % mesh.size == 0:
            yield Sharding(tuple(Split((axis,), (Segment(size),)) if d == dim else None for d in range(len(value.shape))))


def _emit_local(builder: relax.BlockBuilder, name: str, node: Node, placement: Sequence[Sharding], mesh: Mesh, mod: tvm.IRModule) -> bool:
    """Emit the operator itself on shards; False where it does not take their shapes, which TVM says in three ways."""
    call = node.binding.value
    shapes = [s.local_shape(tuple(n or 0 for n in v.shape), mesh) for v, s in zip(node.inputs, placement, strict=True)]
    params = [relax.Var(f"x{i}", relax.TensorType(shape, v.dtype)) for i, (shape, v) in enumerate(zip(shapes, node.inputs, strict=True))]
    rest = iter(params)

    def local(arg: Any) -> Any:
        if isinstance(arg, relax.Tuple):
            return relax.Tuple([local(f) for f in arg.fields])
        return next(rest) if isinstance(arg, tvm.ir.Expr) and isinstance(arg.ty, relax.TensorType) else arg

    args = [local(a) for a in call.args]
    if call.op.name in KERNELS:
        made = kernel_call(builder, name, call, args, mod)
    elif _is_packed(node):
        made = packed_call(call, args)
    elif _fits(made := tvm.ir.Call(call.op, args, call.attrs), name, params):
        pass
    else:
        return False
    with builder.function(name, params):
        builder.emit_func_output(builder.emit(made))
    return True


def _is_packed(node: Node) -> bool:
    """Whether it calls a packed function, which says only when it runs whether shards fit."""
    return "packed" in node.binding.value.op.name


def _fits(call: Any, name: str, params: Sequence[Any]) -> bool:
    """Whether TVM takes an operator with these shapes."""
    scratch = Builder()
    try:
        with scratch.function(name, params):
            result = scratch.emit(call)
            scratch.emit_func_output(result)
        if _is_impossible(result.ty):
            return False
        relax.transform.LegalizeOps()(scratch.finalize())  # type inference does not see all that does not fit
    except (ValueError, AssertionError, tvm.error.InternalError):
        return False
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
        if any(shard.shape != sharding.local_shape(expected.shape, mesh) for shard in shards):
            continue
        if sharding.is_replicated and any(difference(shards[0], s, None) for s in shards[1:]):
            continue
        if not difference(expected, join(shards, sharding, mesh, expected.shape), None):
            yield sharding
