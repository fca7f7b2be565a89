"""Sizes as products, a known number times symbolic terms, and what products share."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import tvm
import tvm_ffi

from spmd.placement.length import Length

Extent = tuple[int, tuple[Any, ...]]
ONE: Extent = (1, ())


def extent_of(dims: Sequence[Any]) -> Extent:
    """The product of sizes."""
    number, terms = 1, []
    for dim in dims:
        stack = [dim]
        while stack:
            term = stack.pop()
            if isinstance(term, int | tvm.tirx.IntImm):
                number *= int(term)
            elif isinstance(term, tvm.tirx.Mul):
                stack += [term.a, term.b]
            else:
                terms.append(term)
    return number, tuple(terms)


def equal(a: Extent, b: Extent) -> bool:
    """Whether both are the same."""
    return a[0] == b[0] and len(a[1]) == len(b[1]) and divides(a, b)


def divides(a: Extent, b: Extent) -> bool:
    """Whether `b` is a multiple of `a`."""
    return a[0] != 0 and b[0] % a[0] == 0 and len(shared_by(a, b)[1]) == len(a[1])


def shared_by(a: Extent, b: Extent) -> Extent:
    """The greatest common factor."""
    rest, terms = list(b[1]), list[Any]()
    for term in a[1]:
        at = next((k for k, other in enumerate(rest) if tvm_ffi.structural_equal(term, other)), None)
        if at is not None:
            terms.append(term)
            del rest[at]
    return math.gcd(a[0], b[0]), tuple(terms)


def without(a: Extent, part: Extent) -> Extent:
    """What is left of a product without a factor of it."""
    rest = list(a[1])
    for term in part[1]:
        del rest[next(k for k, other in enumerate(rest) if tvm_ffi.structural_equal(term, other))]
    return a[0] // part[0], tuple(rest)


def length_of(product: Extent) -> Length | None:
    """A product of a number and variables as a length; None where there is more in it."""
    names = [str(term.name) for term in product[1] if isinstance(term, tvm.ir.Var)]
    known = len(names) == len(product[1]) and product[0] > 0 and all(name.isidentifier() for name in names)
    return Length(product[0], tuple(sorted(names))) if known else None


def part_of(product: Extent, length: Length) -> Extent | None:
    """The factor of a product that is of this length; None where there is none, or several."""
    terms: list[Any] = []
    for name in length.names:
        found = [term for term in product[1] if isinstance(term, tvm.ir.Var) and term.name == name]
        if not found or not all(term.same_as(found[0]) for term in found) or length.names.count(name) > len(found):
            return None
        terms.append(found[0])
    return (length.number, tuple(terms)) if product[0] % length.number == 0 else None
