"""What an element of a value is, as a term over elements of global values.

A term is a tuple: ``ix`` (an integer or condition that depends on places alone), ``const`` (a number of the field), ``load`` (an element of
a global value), ``add`` and ``mul`` of floats, whose parts have no order, and ``op`` for everything else. Floats are real numbers here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from .field import PRIME
from .indices import Indices

Term = tuple[Any, ...]
Pairs = tuple[tuple[int, int], ...]
"""A place in one term and what is there in another."""
ZERO: Term = ("const", 0)


@dataclass(frozen=True)
class Definition:
    """What an element of a global value is: a term over variables of its dimensions, reduced over others where it has a kind."""

    kind: str | None
    variables: tuple[int, ...]
    body: Term


class Terms:
    """Builds and compares terms."""

    def __init__(self, indices: Indices) -> None:
        self.indices = indices
        self.skeleton = cache(self._skeleton)

    def add(self, parts: Sequence[Term]) -> Term:
        """A sum of floats."""
        flat, total = list[Term](), 0
        for part in parts:
            for one in part[1] if part[0] == "add" else (part,):
                if one[0] == "const" and one[1] >= 0:
                    total = (total + one[1]) % PRIME
                else:
                    flat.append(one)
        flat += [("const", total)] if total or not flat else []
        return flat[0] if len(flat) == 1 else ("add", tuple(flat))

    def multiply(self, parts: Sequence[Term]) -> Term:
        """A product of floats."""
        flat, factor = list[Term](), 1
        for part in parts:
            if part[0] == "const" and part[1] >= 0:
                factor = factor * part[1] % PRIME
            elif part[0] == "mul":
                factor = factor * part[1] % PRIME
                flat += part[2]
            else:
                flat.append(part)
        if not flat:
            return ("const", factor)
        return flat[0] if len(flat) == 1 and factor == 1 else ("mul", factor, tuple(flat))

    def over(self, a: Term, b: Term) -> Term:
        """A quotient of floats."""
        is_number = b[0] == "const" and b[1] > 0
        return self.multiply([a, ("const", pow(b[1], -1, PRIME)) if is_number else ("op", "over", (b,))])

    def negative(self, a: Term) -> Term:
        """A float with the other sign."""
        return self.multiply([("const", PRIME - 1), a])

    def binary(self, name: str, a: Term, b: Term) -> Term:
        """Two integers or conditions."""
        if a[0] == b[0] == "ix":
            return ("ix", self.indices.binary(name, a[1], b[1]))
        return ("op", name, (a, b))

    def negated(self, a: Term) -> Term:
        """A condition that does not hold."""
        return ("ix", self.indices.negated(a[1])) if a[0] == "ix" else ("op", "Not", (a,))

    def select(self, condition: Term, a: Term, b: Term) -> Term:
        """One or the other."""
        if condition[0] == "ix":
            always = self.indices.is_true(condition[1])
            if always is not None:
                return a if always else b
            if a[0] == b[0] == "ix":
                return ("ix", self.indices.select(condition[1], a[1], b[1]))
        return a if a == b else ("op", "select", (condition, a, b))

    def replaced(self, term: Term, new: Mapping[int, Term]) -> Term:
        """A term with others for some variables."""
        if term[0] == "ix":
            own = self.indices.free(term[1]) & new.keys()
            if all(new[v][0] == "ix" for v in own):
                return ("ix", self.indices.replaced(term[1], {v: new[v][1] for v in own}))
            made = (lambda n: ("ix", self.indices.number(n))), (lambda n: ("ix", self.indices.truth(n)))
            return self.indices.walked(term[1], lambda v: new.get(v, ("ix", v)), self.binary, *made, self.select, self.negated)
        if term[0] == "load":
            return ("load", term[1], tuple(self.replaced(i, new) for i in term[2]))
        if term[0] == "add":
            return self.add([self.replaced(part, new) for part in term[1]])
        if term[0] == "mul":
            return self.multiply([("const", term[1]), *(self.replaced(part, new) for part in term[2])])
        if term[0] == "op":
            parts = [self.replaced(part, new) for part in term[2]]
            return self.select(*parts) if term[1] == "select" else ("op", term[1], tuple(parts))
        return term

    def free(self, term: Term) -> frozenset[int]:
        """The variables in a term."""
        if term[0] == "ix":
            return self.indices.free(term[1])
        return frozenset().union(*map(self.free, _parts(term)))

    def _skeleton(self, term: Term) -> int:
        """The same number for terms that differ in places alone, and in the order of sums and products."""
        if term[0] == "ix":
            return hash("ix")
        parts = [self.skeleton(part) for part in _parts(term)]
        if term[0] in ("add", "mul"):
            parts.sort()
        own = term[1:2] if term[0] in ("const", "load", "op", "mul") else ()
        return hash((term[0], *own, *parts))

    def pairs(self, a: Term, b: Term) -> Iterator[Pairs]:
        """The ways to lay a term over another one: which places must be which."""
        if a[0] == "ix" == b[0]:
            yield ((a[1], b[1]),)
        elif a[0] != b[0] or self.skeleton(a) != self.skeleton(b) or (a[0] != "add" and a[1] != b[1]):
            return
        elif a[0] == "const":
            yield ()
        elif a[0] in ("add", "mul"):
            yield from self._unordered(_parts(a), _parts(b))
        else:
            yield from self._ordered(_parts(a), _parts(b))

    def _ordered(self, a: Sequence[Term], b: Sequence[Term]) -> Iterator[Pairs]:
        if not a:
            yield ()
            return
        for first in self.pairs(a[0], b[0]):
            for rest in self._ordered(a[1:], b[1:]):
                yield (*first, *rest)

    def _unordered(self, a: Sequence[Term], b: Sequence[Term]) -> Iterator[Pairs]:
        if not a:
            yield ()
            return
        for i, one in enumerate(b):
            for first in self.pairs(a[0], one):
                for rest in self._unordered(a[1:], [*b[:i], *b[i + 1 :]]):
                    yield (*first, *rest)


def _parts(term: Term) -> Sequence[Term]:
    return term[1] if term[0] == "add" else term[2] if term[0] in ("mul", "load", "op") else ()


def loads(term: Term) -> bool:
    """Whether any element of a value is in a term."""
    return term[0] == "load" or any(map(loads, _parts(term)))


def is_moved(term: Term) -> bool:
    """Whether a term is an element of another value, one or the other by its place, or depends on none."""
    if term[:2] == ("op", "select") and term[2][0][0] == "ix":
        return all(map(is_moved, term[2][1:]))
    return term[0] == "load" or not loads(term)
