"""What the graph reads off one Relax call: its name, its tensors, and what makes two calls alike."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import tvm
import tvm_ffi
from tvm import relax

from spmd.rules.families.linearity import constant_kind
from spmd.rules.model import Dim, Rule, Shape, Size, Spec

from .graph import Value

_PACKED = ("relax.call_dps_packed", "relax.call_pure_packed", "relax.call_inplace_packed")


def op_name(call: Any, args: Sequence[Any]) -> str:
    """The name under which the rule of a call is registered; `args` are the expressions that it reads."""
    if not isinstance(call, tvm.ir.Call):
        return type(call).__name__
    op = call.op
    if isinstance(op, tvm.ir.Op):
        name = str(op.name)
        return str(args[0].global_symbol) if name in _PACKED and isinstance(args[0], relax.ExternFunc) else name
    if isinstance(op, relax.ExternFunc):
        return str(op.global_symbol)
    return op.name_hint if isinstance(op, tvm.ir.GlobalVar) else str(op)


def tensor_args(value: Any) -> Sequence[Any]:
    """The expressions that may hold the tensors that a binding reads."""
    if isinstance(value, tvm.ir.Call):
        return value.args[:]  # a slice is a list, much faster to walk than the container
    if isinstance(value, (tvm.ir.Var, relax.Tuple, relax.TupleGetItem)):
        return [value]
    return relax.analysis.free_vars(value)


def rule_key(name: str, call: Any, args: Sequence[Any], inputs: Iterable[Value], outputs: Iterable[Value]) -> tuple[object, ...] | None:
    """Calls with equal keys have equal rules; None where a rule may look at more than these."""
    if not isinstance(call, tvm.ir.Call) or not isinstance(op := call.op, tvm.ir.Op) or op.name in _PACKED:
        return None
    attrs = call.attrs
    types = (tuple([v.type_class for v in inputs]), tuple([v.type_class for v in outputs]))
    return (name, None if attrs is None else tvm_ffi.StructuralKey(attrs), tuple(map(_argument_key, args)), types)


def _argument_key(arg: Any) -> object:
    """What a rule can see of an argument: of tensors what kind of a factor they are, as their shapes are there already."""
    if isinstance(arg, (tvm.ir.Var, relax.TupleGetItem, tvm.ir.GenericConst)):
        return constant_kind(arg) if isinstance(arg.ty, (relax.TensorType, relax.TupleType)) else hash(arg)
    if isinstance(arg, relax.Tuple):
        return tuple(map(_argument_key, arg.fields[:]))
    return arg.name_hint if isinstance(arg, tvm.ir.GlobalVar) else tvm_ffi.StructuralKey(arg)


def whole_rule(inputs: Iterable[Shape], outputs: Iterable[Shape]) -> Rule:
    """Every dimension of every tensor whole."""
    sizes: dict[str, Size] = {}

    def spec(shape: Shape) -> Spec:
        dims: list[Dim] = []
        for size in shape:
            name = f"w{len(sizes)}"
            sizes[name] = size
            dims.append(((name,),))
        return tuple(dims)

    return Rule(tuple(map(spec, inputs)), tuple(map(spec, outputs)), sizes, whole=frozenset(sizes), reduce=None).touching()


def pass_rule(shape: Shape) -> Rule:
    """What goes from one function to another as it is, split or whole; who returns it, or takes it in turn, knows of no partial sums."""
    return replace(join_rule(shape), linear=())


def join_rule(shape: Shape) -> Rule:
    """What a branch gives goes on as it is: split, partial or whole."""
    spec: Spec = tuple(((f"d{i}",),) for i in range(len(shape)))
    return Rule((spec,), (spec,), {f"d{i}": size for i, size in enumerate(shape)}, linear=((0,),), zero="all", work="view")
