"""Which values lie in memory that an operator writes in place.

Such an operator must write where its caller will look: into what a worker keeps of an argument, not into a copy in another sharding. A
view of memory, such as a reshape, is taken and made as it is kept, too. What nobody reads again after it was written is left free.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import tvm
import tvm_ffi
from tvm import relax

from spmd.errors import ShardingError
from spmd.ir.inline import IN_PLACE
from spmd.ir.trees import leaves
from spmd.placement.mesh import Mesh
from spmd.rules.kernel import aliases_of
from spmd.rules.strategy import Strategy

from .graph import PASSING, Function, Node, Value
from .opcalls import whole_rule

VIEWS = frozenset(
    {
        *("relax.reshape", "relax.flatten", "relax.expand_dims", "relax.squeeze"),
        *("relax.memory.view", "relax.memory.ensure_zero_offset", "relax.spmd.hint", "match_cast", "join"),
        *PASSING,
    }
)
"""Operators that give a view of what they take, where a worker's part of the one is its part of the other."""
_READS_ONLY = "vm.builtin."
"""Packed functions of TVM's own virtual machine write objects, but no tensors that they are given."""
Pairs = list[tuple[int, int]]
"""The inputs and outputs of an operator, by number, that lie in one memory."""


def mark_written(functions: Mapping[str, Function], mod: tvm.IRModule, new_class: Callable[[], int]) -> None:
    """Number the values that lie in memory which is written, and mark the operands that must stay where they are kept.

    An operator that is given memory twice and writes it runs whole: what it reads hangs on the order of its loops. `new_class` numbers a
    class of calls. Raises `ShardingError` for a constant that is written.
    """
    written = {n: found for f in functions.values() for n in f.nodes if (found := _written(n, mod))}
    if not written:
        return
    pairs = {n: _pairs(n, written.get(n, [])) for f in functions.values() for n in f.nodes}
    memory = _components((n.inputs[i], n.outputs[o]) for n, found in pairs.items() for i, o in found)
    known = _components((n.inputs[i], n.outputs[o]) for n, found in pairs.items() if n not in written or _is_declared(n) for i, o in found)
    for node, inputs in written.items():
        node.writes = tuple(inputs)
        lying = [known.get(v, v) for v in node.inputs if v.is_tensor]
        if any(lying.count(known.get(node.inputs[i], node.inputs[i])) > 1 for i in inputs):
            node.rule = whole_rule([v.shape for v in node.inputs], [v.shape for v in node.outputs])
            node.no_rule, node.call_class = "it is given the memory that it writes twice", new_class()
    numbers: dict[Value, int] = {}
    for function in functions.values():
        for first in _read_again(function, memory):
            numbers.setdefault(first, len(numbers) + 1)
    for function in functions.values():
        for value in dict.fromkeys(v for node in function.nodes for v in (*node.inputs, *node.outputs)):
            value.memory = numbers.get(memory.get(value, value), 0)
        for node in function.nodes:
            _mark(node, pairs[node])


def loses_writes(node: Node, strategy: Strategy, mesh: Mesh) -> bool:
    """Whether a strategy writes into a copy of what a node must write in place, or into padding, which whoever reads it takes for zeros."""
    if not node.stays:
        return False
    if not node.writes:  # a view, unless it is more than the same operator on a shard
        return any(f in node.rule.forms for f, _ in strategy.splits)
    is_kernel = node.op == IN_PLACE[0]
    for i in node.writes:
        value, sharding = node.inputs[i], strategy.inputs[i]
        if sharding.partial or (sharding.is_padded(mesh) and not is_kernel):
            return True
        for given, found in zip(node.outputs, strategy.outputs, strict=True):
            if given.memory == value.memory and given.shape == value.shape and found != sharding:
                return True
    return False


def _mark(node: Node, pairs: Pairs) -> None:
    """Say which operands of a node stay as they are kept."""
    touched = {node.inputs[i] for i in node.writes} | {v for i, o in pairs for v in (node.inputs[i], node.outputs[o])}
    stay = tuple(bool(v.memory) and v in touched for v in (*node.inputs, *node.outputs))
    stay = tuple(map(any, zip(stay, node.stays, strict=True))) if node.stays else stay
    node.stays = stay if any(stay) else ()
    for i in node.writes if _is_declared(node) else ():
        if node.inputs[i].memory and node.inputs[i].role == "constant":
            where = f"{node.function}: {node.op} {node.name!r}"
            raise ShardingError(where, "it writes into a constant in place", "Pass that as an argument of the function.")


def _written(node: Node, mod: tvm.IRModule) -> list[int]:
    """The inputs that a node writes, or may write."""
    if node.op.startswith("relax.") and node.op not in IN_PLACE:
        return []
    call = node.binding.value
    if not isinstance(call, tvm.ir.Call) or node.joined is not None:
        return []
    if _is_declared(node):
        return [i for inputs, _ in _declared(call) for i in inputs]
    writes = isinstance(call.op, relax.ExternFunc) and not str(call.op.global_symbol).startswith(_READS_ONLY)
    if writes or (isinstance(call.op, tvm.ir.GlobalVar) and _may_write(call.op, mod, set())):
        return [i for i, v in enumerate(node.inputs) if v.is_tensor]
    return []


def _operator(node: Node) -> str:
    """The name of the operator of TVM that a node calls; empty where it calls none."""
    call = node.binding.value
    return str(call.op.name) if isinstance(call, tvm.ir.Call) and isinstance(call.op, tvm.ir.Op) else ""


def _is_declared(node: Node) -> bool:
    """Whether a node says what it writes."""
    return _operator(node) in IN_PLACE


def _may_write(var: Any, mod: tvm.IRModule, seen: set[str]) -> bool:
    """Whether a function that is called as it stands, or one that it calls, may write its arguments."""
    function = mod[var]
    if var.name_hint in seen or not isinstance(function, relax.Function):
        return False
    seen.add(var.name_hint)
    found = False

    def visit(call: Any, visitor: Any) -> None:
        nonlocal found
        op = call.op
        found |= isinstance(op, relax.ExternFunc) and not str(op.global_symbol).startswith(_READS_ONLY)
        found |= isinstance(op, tvm.ir.Op) and op.name in IN_PLACE
        found |= isinstance(op, tvm.ir.GlobalVar) and _may_write(op, mod, seen)
        visitor.default_visit(call)

    tvm_ffi.structural_visit(function.body, [(relax.Call, visit)])
    return found


def _declared(call: Any) -> Iterator[tuple[list[int], list[int]]]:
    """The tensors of each argument that a call says to be written, and those of the result that lies there, by number."""
    aliases = aliases_of(call)
    types = [a.ty for a in call.args[1:]] if aliases is None else call.args[1].ty.fields[:]
    aliases = tuple(int(i) for i in call.attrs.inplace_indices) if aliases is None else aliases
    results = call.ty.fields[:] if isinstance(call.ty, relax.TupleType) and len(aliases) > 1 else [call.ty]
    starts, ends = _starts(types), _starts(results)
    for result, i in enumerate(aliases):
        if i >= 0:
            yield list(range(starts[i], starts[i + 1])), list(range(ends[result], ends[result + 1]))


def _starts(types: Iterable[Any]) -> list[int]:
    """The number of the operand at which each of these begins, and where the last one ends."""
    found = [0]
    for ty in types:
        found.append(found[-1] + _count(ty))
    return found


def _count(ty: Any) -> int:
    if isinstance(ty, relax.TupleType):
        return sum(map(_count, ty.fields))
    return int(isinstance(ty, (relax.TensorType, relax.AnyType)))


def _pairs(node: Node, written: list[int]) -> Pairs:
    """The operands that lie, or may lie, in one memory."""
    call = node.binding.value
    if node.op in VIEWS:
        return [(i, i) for i in range(min(len(node.inputs), len(node.outputs)))][: 1 if node.op != "match_cast" else None]
    if _is_declared(node):
        return [pair for inputs, outputs in _declared(call) for pair in zip(inputs, outputs, strict=False)]
    if written or _operator(node) == "relax.call_pure_packed":  # which may give what it is given
        return [(i, o) for i, v in enumerate(node.inputs) if v.is_tensor for o, w in enumerate(node.outputs) if w.is_tensor]
    return []


def _components(pairs: Iterable[tuple[Value, Value]]) -> dict[Value, Value]:
    """The first value of each memory, by the values that share it."""
    first: dict[Value, Value] = {}
    members: dict[Value, list[Value]] = {}
    for pair in pairs:
        one, other = (first.setdefault(v, v) for v in pair)
        if one is not other:
            moved = members.pop(other, [other])
            members.setdefault(one, [one]).extend(moved)
            first.update(dict.fromkeys(moved, one))
    return first


def _read_again(function: Function, memory: Mapping[Value, Value]) -> Iterator[Value]:
    """The memory that is written and then read, by this function or by its caller, otherwise than through what its writer gives."""
    writes: dict[Value, list[int]] = {}
    made: dict[Value, int] = {}
    read: dict[Value, int] = {}
    for at, node in enumerate(function.nodes):
        for i in node.writes:
            writes.setdefault(memory.get(node.inputs[i], node.inputs[i]), []).append(at)
        made.update(dict.fromkeys(node.outputs, at))
        read.update(dict.fromkeys(node.inputs, at))
    read.update(dict.fromkeys(leaves(function.result) if function.result is not None else (), len(function.nodes)))
    lying: dict[Value, list[Value]] = {}
    for value in {**dict.fromkeys(leaves(tuple(function.params))), **made, **read}:
        lying.setdefault(memory.get(value, value), []).append(value)
    for first, times in writes.items():
        for value in lying[first]:
            if value.role != "temporary" or any(made[value] < at < read.get(value, -1) for at in times):
                yield first
                break
