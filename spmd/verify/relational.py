"""Engine one: reads a function of the module and that of the workers as relations, and compares what they give."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import tvm
import tvm_ffi
from tvm import relax

from spmd.placement.mesh import Mesh

from .heads import Heads
from .indices import Indices, NoRelation
from .opaque import ATTENTION
from .operations import Operators
from .reading import Function, Reading
from .relations import Relations, Shape, Value
from .signature import Signature
from .terms import Term, Terms


class Relational:
    """Proves functions of two modules by relations."""

    def __init__(self, mod: tvm.IRModule, local: tvm.IRModule, mesh: Mesh, divisible: Mapping[str, int]) -> None:
        self.mod, self.local, self.mesh, self.divisible = mod, local, mesh, divisible
        self.indices = Indices(mesh)
        self.terms = Terms(self.indices)
        self.operators = Operators()
        self.heads: dict[tuple[int, int], Heads] = {}
        """How workers hold so many heads of a cache, in all functions."""

    def unrelated(self, signatures: Mapping[str, Signature]) -> dict[str, str]:
        """The functions that are not proven, each with the first value that has no relation. Of those with attention on a cache it is all
        or none: what a worker's head is, is said once for all of them.
        """
        found: dict[str, str] = {}
        for name, signature in signatures.items():
            try:
                self._show(name, signature)
            except (NoRelation, ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as reason:
                found[name] = str(reason)
        cached = [name for name in signatures if _has_attention(self.mod[name]) or _has_attention(self.local[name])]
        if any(name in found for name in cached):
            found = {**dict.fromkeys(cached, "another function with its cache has no relation"), **found}
        return found

    def _show(self, name: str, signature: Signature) -> None:
        """Prove a function, or raise `NoRelation` with the first value that has none."""
        funcs = self.mod[name], self.local[name]
        self.relations = Relations(self.indices, self.terms)
        self.reading = Reading(self.relations, self.operators, self.heads, self.divisible)
        one, many = Function(self.mod, False), Function(self.local, True)
        for param in funcs[0].params:
            one.values[param] = self.reading.argument(param.ty, param.name, one)
        expected = self.reading.expression(funcs[0].body, one)
        named = {size.name: number for size, number in one.sizes.items()}
        told = [Shape(tuple(named[size] for size in signature.sizes))] if signature.sizes else []
        held = [*(one.values[p] for p in funcs[0].params), *told, *(self.reading.constant(data) for _, data in signature.constants)]
        places = [*signature.params, *(None for _ in told), *(place for place, _ in signature.constants)]
        if len(funcs[1].params) != len(held):
            raise NoRelation("it takes another number of arguments")
        for param, value, place in zip(funcs[1].params, held, places, strict=True):
            many.values[param] = self._placed(value, place, param.ty, many)
        found = self.reading.expression(funcs[1].body, many)
        if not self.reading.is_all_called():
            raise NoRelation("it calls other functions that nobody looks into")
        self._compare(expected, found, signature.outputs, "the result")

    def _placed(self, value: Any, place: Any, ty: Any, function: Function) -> Any:
        """What a worker holds of an argument."""
        if isinstance(value, tuple):
            return tuple(self._placed(v, p, t, function) for v, p, t in zip(value, place, ty.fields, strict=True))
        if isinstance(value, Shape):
            self.reading.bind(value.sizes, ty.values, function)
            return value
        if not isinstance(value, Value):
            return value
        shape, at = self._places(value, place)
        if place is not None and place.partial:
            raise NoRelation("an argument that is a partial value")
        self.reading.bind(shape, ty.shape.values, function)
        if str(ty.dtype) != value.dtype:
            raise NoRelation("an argument of another type")
        return self.relations.moved(value, shape, at)

    def _places(self, value: Value, place: Any) -> tuple[tuple[int, ...], dict[int, Term]]:
        """The sizes of what a worker holds of a value, and where in it each of its elements is."""
        if place is None:
            return value.shape, {}
        if len(place.dims) != len(value.shape):
            raise NoRelation("it is placed by another number of dimensions")
        splits = [self._held(split, n) for split, n in zip(place.dims, value.shape, strict=True)]
        shape = tuple(sum_of(self.indices, [length for length, _ in pieces]) for pieces in splits)
        at: dict[int, Term] = {}
        for d, (split, pieces, v) in enumerate(zip(place.dims, splits, self.relations.variables(shape), strict=True)):
            self.indices.places(value.shape[d], shape[d], v)  # these are known to be inside from here on
            if split is not None:
                at[d] = ("ix", self._piece(pieces, v, self.indices.index(tuple(split.axes))))
        return shape, at

    def _held(self, split: Any, size: int) -> list[tuple[int, int]]:
        """For each piece of a dimension how much a worker holds of it, and where the piece begins."""
        if split is None:
            return [(size, self.indices.number(0))]
        workers, found, begin = self.mesh.axis_size(*split.axes), list[tuple[int, int]](), 0
        if self.indices.constant(size) is None and len(split.segments) == 1 and split.symbolic:
            return [(self.indices.share(size, workers), self.indices.number(0))]
        if any(getattr(split, kind, None) for kind in ("symbolic", "repeated", "uneven", "length")):
            raise NoRelation("a symbolic size that is split in parts")
        for segment in split.segments:
            if int(segment.size) % (int(segment.unit) * workers):
                raise NoRelation("padding")
            found.append((self.indices.number(int(segment.size) // workers), self.indices.number(begin)))
            begin += int(segment.size)
        if self.indices.constant(size) != begin:
            raise NoRelation("segments that are no dimension")
        return found

    def _piece(self, pieces: Sequence[tuple[int, int]], at: int, worker: int) -> int:
        """Where an element of a dimension in pieces is."""
        (length, begin), *rest = pieces
        step = self.indices.binary("Add", begin, self.indices.binary("Mul", worker, length))
        own = self.indices.binary("Add", step, at)
        if not rest:
            return own
        other = self._piece(rest, self.indices.binary("Sub", at, length), worker)
        return self.indices.select(self.indices.binary("LT", at, length), own, other)

    def _compare(self, expected: Any, found: Any, place: Any, where: str) -> None:
        if isinstance(expected, tuple) and isinstance(found, tuple) and len(expected) == len(found):
            for i, (a, b) in enumerate(zip(expected, found, strict=True)):
                self._compare(a, b, place[i] if isinstance(place, tuple) else None, f"{where}[{i}]")
        elif isinstance(expected, Value) and isinstance(found, Value):
            shape, at = self._places(expected, place)
            there, found = self.relations.moved(expected, shape, at), self.relations.related(found, None, ())
            partial = {(axis, kind) for axis, kind in (place.partial if place is not None else ())}
            if {(axis, found.kind) for axis in found.pending} != partial:
                raise NoRelation(f"{where} is still to be reduced over {', '.join(sorted(found.pending)) or 'nothing'}")
            if found.shape != shape or found.dtype != expected.dtype or not self.relations.same(found.body, there.body):
                raise NoRelation(f"{where} is another value")
        elif expected != found or isinstance(expected, Value | tuple):
            raise NoRelation(f"{where} is something else")


def _has_attention(func: Any) -> bool:
    """Whether a function has attention on a cache."""
    found: list[Any] = []
    tvm_ffi.structural_walk(func.body, ((relax.ExternFunc,), found.append))
    return any(str(called.global_symbol).startswith(ATTENTION) for called in found)


def sum_of(indices: Indices, parts: Sequence[int]) -> int:
    """A sum of sizes."""
    found = indices.number(0)
    for part in parts:
        found = indices.binary("Add", found, part)
    return found
