"""Relations of local values to global ones: proof at the true sizes, without numbers.

The module's values are elements of arguments, of reductions, and of what is computed from them element by element: its *atoms*. A worker's
value is related to them: each of its elements is a term over elements of atoms, whose places depend on where it is and on the worker, and
it may be what is still to be reduced over axes. A term that an atom's definition can be laid over becomes an element of that atom.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice, product
from typing import Any

from .expressions import is_float
from .indices import Indices, NoRelation
from .terms import Definition, Pairs, Term, Terms, is_moved

_MOST = 64
"""Ways to lay one term over another that are tried."""
_WHOLE: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Value:
    """A tensor: the term of its element at the variables of its dimensions. It is still to be reduced over the axes of `pending`."""

    shape: tuple[int, ...]
    dtype: str
    body: Term
    pending: frozenset[str] = _WHOLE
    kind: str = "sum"


@dataclass(frozen=True)
class Thing:
    """What is no tensor and is only passed on: a cache, a text."""

    name: str


@dataclass(frozen=True)
class Shape:
    """A shape, or a number as a shape of one."""

    sizes: tuple[int, ...]


@dataclass(frozen=True)
class Reduced:
    """A variable that something is reduced over, and how far it goes."""

    variable: int
    extent: int


@dataclass(frozen=True)
class Atom:
    """A value of the module that terms are made of, with its definition, if it is no argument."""

    number: int
    shape: tuple[int, ...]
    dtype: str
    definition: Definition | None = None
    reduced: tuple[Reduced, ...] = ()


class Relations:
    """The atoms of one function of the module."""

    def __init__(self, indices: Indices, terms: Terms) -> None:
        self.indices, self.terms = indices, terms
        self._atoms = 0
        self._known: dict[Any, Value] = {}
        self._alike: dict[Any, list[Atom]] = {}

    def variables(self, shape: Sequence[int]) -> tuple[int, ...]:
        """The variables of dimensions."""
        return tuple(self.indices.variable("i", d, n) for d, n in enumerate(shape))

    def argument(self, shape: tuple[int, ...], dtype: str) -> Value:
        """A value of which nothing else is known."""
        return self._element(self._atom(shape, dtype, None, ()))

    def given(self, key: Any, shape: tuple[int, ...], dtype: str) -> Value:
        """A value that is the same wherever the key is."""
        if key not in self._known:
            self._known[key] = self.argument(shape, dtype)
        return self._known[key]

    def _atom(self, shape: tuple[int, ...], dtype: str, definition: Definition | None, reduced: tuple[Reduced, ...]) -> Atom:
        self._atoms += 1
        return Atom(self._atoms, shape, dtype, definition, reduced)

    def _element(self, atom: Atom) -> Value:
        return Value(atom.shape, atom.dtype, ("load", atom.number, tuple(("ix", v) for v in self.variables(atom.shape))))

    def define(self, value: Value, kind: str | None, reduced: tuple[Reduced, ...]) -> Value:
        """A value of the module, which becomes an atom where it is computed from others."""
        reduced = tuple(r for r in reduced if self.indices.constant(r.extent) != 1)
        kind = kind if reduced else None
        if kind is None and is_moved(value.body):
            return value
        key = (value.shape, value.dtype, kind, reduced, value.body)
        if key not in self._known:
            atom = self._atom(value.shape, value.dtype, Definition(kind, self.variables(value.shape), value.body), reduced)
            self._alike.setdefault((kind, self.terms.skeleton(value.body)), []).append(atom)
            self._known[key] = self._element(atom)
        return self._known[key]

    def related(self, value: Value, kind: str | None, reduced: tuple[Reduced, ...]) -> Value:
        """A value of a worker, as an element of an atom if it is one."""
        self._checked(value)
        if kind is None and is_moved(value.body):
            return value
        if kind is not None and value.pending and value.kind != kind:
            raise NoRelation(f"a {kind} of what is still a {value.kind} over {_axes(value.pending)}")
        for atom in self._alike.get((kind, self.terms.skeleton(value.body)), ()):
            if (found := self._laid(value, atom, reduced)) is not None:
                places, axes = found
                if axes & value.pending:
                    continue
                pending = value.pending | axes
                return self._checked(replace(value, body=("load", atom.number, places), pending=pending, kind=kind or value.kind))
        if any(self.indices.constant(r.extent) != 1 for r in reduced):
            raise NoRelation(f"a {kind} that is none of the module's")
        return value if kind is None else self.related(value, None, ())

    def reduced(self, value: Value, kind: str, axes: frozenset[str]) -> Value:
        """What workers have once they have reduced over axes what each holds."""
        if axes <= value.pending and value.kind == kind:
            return replace(value, pending=value.pending - axes)
        if axes & value.pending or (value.pending and value.kind != kind):
            raise NoRelation(f"a {kind} over {_axes(axes)} of what is to be reduced ({value.kind} over {_axes(value.pending)})")
        if self.terms.free(value.body) & {self.indices.rank(axis) for axis in axes}:
            found = self.related(value, kind, ())
            if found.pending - value.pending != axes:
                raise NoRelation(f"a {kind} over {_axes(axes)} of what is no part of one")
            return replace(found, pending=value.pending)
        if kind == "sum" and is_float(value.dtype):
            workers = ("const", self.indices.mesh.axis_size(*axes))
            return self.related(replace(value, body=self.terms.multiply([workers, value.body])), None, ())
        if kind not in ("max", "min"):
            raise NoRelation(f"a {kind} over {_axes(axes)} of what all of them have")
        return value

    def _checked(self, value: Value) -> Value:
        """What is still to be reduced over axes is one value along them."""
        if value.pending and self.terms.free(value.body) & {self.indices.rank(axis) for axis in value.pending}:
            raise NoRelation(f"what is to be reduced over {_axes(value.pending)} differs along them")
        return value

    def _laid(self, value: Value, atom: Atom, reduced: tuple[Reduced, ...]) -> tuple[tuple[Term, ...], frozenset[str]] | None:
        """Where in an atom a term is, and the axes that it is a part of a reduction over."""
        definition = atom.definition
        assert definition is not None
        if definition.body[0] == "ix" or value.dtype != atom.dtype:
            return None
        own = list(zip(self.variables(value.shape), value.shape, strict=True))
        inner = [(r.variable, r.extent) for r in reduced]
        open_dims = {v: n for v, n in zip(definition.variables, atom.shape, strict=True) if self.indices.is_variable(v)}
        open_reduced = {r.variable: r.extent for r in atom.reduced}
        found: list[tuple[int, tuple[Term, ...], frozenset[str]]] = []
        for pairs in islice(self.terms.pairs(value.body, definition.body), _MOST):
            for new in self._solved(pairs, open_dims, own, open_reduced, inner):
                axes = self._split(new, atom.reduced, reduced)
                if axes is None:
                    continue
                places = [new.get(v, v) for v in definition.variables]
                strange = {v for v, _ in inner} | {self.indices.rank(axis) for axis in axes}
                if any(self.indices.free(place) & strange for place in places):
                    continue
                # A symmetric product is several elements of an atom: the one in the order of its dimensions is what others look for.
                moved = sum(
                    v not in self.indices.free(place) for (v, _), place in zip(own, places, strict=False) if self.indices.is_variable(v)
                )
                found.append((moved, tuple(("ix", place) for place in places), axes))
                if not moved:
                    break
            if found and not found[-1][0]:
                break
        return min(found, key=lambda one: one[0])[1:] if found else None

    def _solved(self, pairs: Pairs, dims: Mapping[int, int], own: Any, reduced: Mapping[int, int], inner: Any) -> Iterator[dict[int, int]]:
        """What the variables of a definition are, such that all its places are those of the term."""
        indices, bound = self.indices, dict[int, int]()
        for a, b in pairs:
            if b in dims or b in reduced:
                bound.setdefault(b, a)
        ways: list[list[tuple[int, int]]] = []
        for open_, local in ((dims, own), (reduced, inner)):
            for v, whole in open_.items():
                if v not in bound:
                    ways.append([(v, place) for at, held in local for _, place in indices.places(whole, held, at)])
        for choice in islice(product(*ways), _MOST):
            new = {**bound, **dict(choice)}
            fits = all(indices.equal(a, indices.replaced(b, new)) for a, b in pairs)
            if fits and all(indices.within(place, {**dims, **reduced}[v]) for v, place in new.items()):
                yield new

    def _split(self, new: Mapping[int, int], whole: Sequence[Reduced], own: Sequence[Reduced]) -> frozenset[str] | None:
        """The axes over which what is reduced is split, if workers together reduce over all of it once."""
        left = [r for r in own if self.indices.constant(r.extent) != 1]
        axes: list[str] = []
        for one in whole:
            zero = Reduced(self.indices.number(0), self.indices.number(1))
            ways = [
                (r, order)
                for r in (*left, zero)
                for order, at in self.indices.places(one.extent, r.extent, r.variable)
                if at == new[one.variable]
            ]
            if not ways:
                return None
            used, order = ways[0]
            left = [r for r in left if r is not used]
            axes += order
        return frozenset(axes) if not left and len(axes) == len(set(axes)) else None

    def same(self, a: Term, b: Term) -> bool:
        """Whether two terms are one."""
        return any(all(self.indices.equal(x, y) for x, y in pairs) for pairs in islice(self.terms.pairs(a, b), _MOST))

    def moved(self, value: Value, shape: Sequence[int], at: Mapping[int, Term], ranks: Mapping[int, int] | None = None) -> Value:
        """A value of another shape whose elements are those of this one: at which place of each dimension, and of which worker."""
        new = {
            **{v: at[d] for d, v in enumerate(self.variables(value.shape)) if d in at},
            **{v: ("ix", r) for v, r in (ranks or {}).items()},
        }
        return self._checked(replace(value, shape=tuple(shape), body=self.terms.replaced(value.body, new)))


def _axes(axes: frozenset[str]) -> str:
    return ", ".join(sorted(axes))
