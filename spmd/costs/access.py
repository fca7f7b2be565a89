"""What each operator reads from memory and writes to it, once compilers have fused it with its neighbours: what its time is made of.

It is worked out on the graph, before there is a plan: whatever may stay in registers is taken to do so. Where a plan converts such a value,
it pays for the conversion.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

from spmd.program.graph import Access, Function, Graph, Node, Value
from spmd.program.storage import VIEWS

from .fusion import TAKE_ALONG, fused
from .kv_bytes import CREATES_CACHE, READS_CACHE

_CUTS_OUT = frozenset(f"relax.{name}" for name in ("split", "strided_slice"))
"""Moves that read no more of what they take than they give."""


def mark_accesses(graph: Graph) -> Graph:
    """Write its `Access` into each node, and number the classes of calls anew, so that those of one class share theirs."""
    caches = {v: node for f in graph.functions.values() for node in f.nodes if node.op in CREATES_CACHE for v in node.outputs}
    classes: dict[tuple[object, ...], tuple[int, Access]] = {}
    for function in graph.functions.values():
        marked = _Accesses(function, caches)
        for node in function.nodes:
            access = marked.of(node)
            types = tuple([tuple([v.type_class for v in read]) for read in access.reads])
            key = (node.call_class, types, *access[1:])
            node.call_class, node.access = classes.setdefault(key, (len(classes), access))
    return graph


class _Accesses:
    """The accesses of one function, whose nodes are asked for in their order."""

    def __init__(self, function: Function, caches: Mapping[Value, Node]) -> None:
        self._caches, self._fused = caches, fused(function)
        self._registers: dict[Value, tuple[Value, ...]] = {}
        """What is made in registers, and the tensors in memory that are read for it where its kernel has not begun before."""
        self._begun: set[Value] = set()
        """What is made in registers by a kernel that some operator has begun."""

    def of(self, node: Node) -> Access:
        """What a node reads and writes."""
        tensors = [v for v in node.outputs if v.kind == "tensor"]
        if self._is_view(node, tensors):
            return _nothing(len(node.inputs), len(node.outputs))
        begun = not self._begun.isdisjoint(node.inputs)
        in_registers = bool(tensors) and self._fused.issuperset(tensors)
        if in_registers and node.op not in TAKE_ALONG:
            for value in tensors:
                self._registers[value] = self._made_of(node, value, begun)
            if begun:
                self._begun.update(tensors)
            return _nothing(len(node.inputs), len(node.outputs))
        access = Access(self._reads(node), (not in_registers,) * len(node.outputs), int(not begun), self._cache(node))
        if in_registers:
            self._registers.update(dict.fromkeys(tensors, ()))
            self._begun.update(tensors)
        return access

    def _is_view(self, node: Node, tensors: list[Value]) -> bool:
        if node.op in VIEWS:
            return self._registers.keys().isdisjoint(node.inputs)
        return node.rule.work == "view" and not (tensors and node.op.startswith("relax."))

    def _cache(self, node: Node) -> Node | None:
        return next((self._caches[v] for v in node.inputs if v in self._caches), None) if node.op in READS_CACHE else None

    def _reads(self, node: Node) -> tuple[tuple[Value, ...], ...]:
        """What is read from memory for each input, each tensor once."""
        found = [self._registers.get(v, (v,)) if v.kind == "tensor" else () for v in node.inputs]
        every = [v for sources in found for v in sources]
        if len(every) > len(seen := set[Value](every)):
            seen.clear()
            for i, sources in enumerate(found):
                found[i] = tuple([v for v in sources if v not in seen])
                seen.update(sources)
        return tuple(found)

    def _made_of(self, node: Node, value: Value, begun: bool) -> tuple[Value, ...]:
        """What is read from memory where `value` is made in registers; of what is cut out of a tensor, the part itself."""
        if node.op in _CUTS_OUT and not begun:
            return (value,)
        return tuple(dict.fromkeys([v for read in self._reads(node) for v in read]))


@cache
def _nothing(inputs: int, outputs: int) -> Access:
    return Access(((),) * inputs, (False,) * outputs, 0)
