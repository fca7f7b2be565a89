"""Which factors the two shapes of a reshape share."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import tvm
import tvm_ffi

from spmd.ir.expressions import static
from spmd.rules.model import Dim, Size, Spec

_Extent = tuple[int, tuple[Any, ...]]
"""A size as a known number times symbolic terms."""
_ONE: _Extent = (1, ())


def match_shapes(source: tuple[Any, ...], target: tuple[Any, ...]) -> tuple[Spec, Spec, dict[str, Size], frozenset[str]]:
    """Specs of a reshape's input and output, the sizes of their factors, and the factors that must stay whole.

    Dimensions are taken in order into groups of equal product; within a group of known sizes the common factors are split off,
    major first, so ``(9*64) -> (9, 64)`` gives ``(h d) -> h d``.
    """
    maker = _Factors()
    if any(static(d) == 0 for d in (*source, *target)):  # no elements: any product is any other
        empty = [tuple((maker.opaque(d),) for d in dims) for dims in (source, target)]
        return empty[0], empty[1], maker.sizes, frozenset(maker.whole)
    ins, outs = list[Dim](), list[Dim]()
    i = j = 0
    while i < len(source) or j < len(target):
        a, b = [i], [j]
        i, j = min(i + 1, len(source)), min(j + 1, len(target))
        while not _equal(_product(source[a[0] : i]), _product(target[b[0] : j])):
            left, right = _product(source[a[0] : i]), _product(target[b[0] : j])
            if i < len(source) and (_divides(left, right) or j == len(target)):
                i += 1
            elif j < len(target):
                j += 1
            else:
                break
        # Trailing dimensions of size 1 go with the group before them.
        while i < len(source) and static(source[i]) == 1:
            i += 1
        while j < len(target) and static(target[j]) == 1:
            j += 1
        group_in, group_out = maker.group(source[a[0] : i], target[b[0] : j])
        ins += group_in
        outs += group_out
    return tuple(ins), tuple(outs), maker.sizes, frozenset(maker.whole)


class _Factors:
    def __init__(self) -> None:
        self.sizes: dict[str, Size] = {}
        self.whole: set[str] = set()

    def new(self, size: Size) -> str:
        name = f"f{len(self.sizes)}"
        self.sizes[name] = size
        return name

    def group(self, source: tuple[Any, ...], target: tuple[Any, ...]) -> tuple[list[Dim], list[Dim]]:
        """Specs for dimensions whose products agree."""
        big_in = [d for d in source if static(d) != 1]
        big_out = [d for d in target if static(d) != 1]
        if len(big_in) == len(big_out) == 1:
            one = self.new(static(big_in[0]))
            names_in, names_out = [(one,)], [(one,)]
        elif len(big_out) == 1 and len(big_in) > 1:
            names_in = [(self.new(static(d)),) for d in big_in]
            names_out = [tuple(n for (n,) in names_in)]
        elif len(big_in) == 1 and len(big_out) > 1:
            names_out = [(self.new(static(d)),) for d in big_out]
            names_in = [tuple(n for (n,) in names_out)]
        elif _equal(_product(big_in), _product(big_out)):
            names_in, names_out = self._common([_product((d,)) for d in big_in], [_product((d,)) for d in big_out])
        else:
            names_in, names_out = [self.opaque(d) for d in big_in], [self.opaque(d) for d in big_out]
        return _place(source, names_in), _place(target, names_out)

    def opaque(self, size: Any) -> tuple[str, ...]:
        """A factor that stays whole."""
        name = self.new(static(size) if size is not None else None)
        self.whole.add(name)
        return (name,)

    def _common(self, source: list[_Extent], target: list[_Extent]) -> tuple[list[tuple[str, ...]], list[tuple[str, ...]]]:
        """Split off greatest common factors, major first, until a pair has none; what is left stays whole."""
        ins: list[tuple[str, ...]] = [() for _ in source]
        outs: list[tuple[str, ...]] = [() for _ in target]
        left, right = list(source), list(target)
        i = j = 0
        while i < len(left) and j < len(right):
            shared = _shared(left[i], right[j])
            if shared != _ONE:
                name = self.new(_number(shared))
                ins[i], outs[j] = (*ins[i], name), (*outs[j], name)
                left[i], right[j] = _without(left[i], shared), _without(right[j], shared)
            # Going on is only right where one side of the pair is used up.
            if left[i] != _ONE and right[j] != _ONE:
                break
            if left[i] == _ONE:
                i += 1
            if j < len(right) and right[j] == _ONE:
                j += 1
        for k, rest in enumerate(left):
            if rest != _ONE:
                ins[k] = (*ins[k], *self.opaque(_number(rest)))
        for k, rest in enumerate(right):
            if rest != _ONE:
                outs[k] = (*outs[k], *self.opaque(_number(rest)))
        return ins, outs


def _place(dims: tuple[Any, ...], names: list[tuple[str, ...]]) -> list[Dim]:
    rest = iter(names)
    return [((),) if static(d) == 1 else (next(rest),) for d in dims]


def _product(dims: Sequence[Any]) -> _Extent:
    number, terms = 1, []
    for dim in dims:
        stack = [dim]
        while stack:
            term = stack.pop()
            value = static(term)
            if value is not None:
                number *= value
            elif isinstance(term, tvm.tirx.Mul):
                stack += [term.a, term.b]
            else:
                terms.append(term)
    return number, tuple(terms)


def _equal(a: _Extent, b: _Extent) -> bool:
    return a[0] == b[0] and len(a[1]) == len(b[1]) and _divides(a, b)


def _divides(a: _Extent, b: _Extent) -> bool:
    """Whether `b` is a multiple of `a`."""
    return a[0] != 0 and b[0] % a[0] == 0 and len(_shared(a, b)[1]) == len(a[1])


def _shared(a: _Extent, b: _Extent) -> _Extent:
    """The greatest common factor."""
    rest, terms = list(b[1]), list[Any]()
    for term in a[1]:
        at = next((k for k, other in enumerate(rest) if tvm_ffi.structural_equal(term, other)), None)
        if at is not None:
            terms.append(term)
            del rest[at]
    return math.gcd(a[0], b[0]), tuple(terms)


def _without(a: _Extent, shared: _Extent) -> _Extent:
    """What is left of a product without a factor of it."""
    rest = list(a[1])
    for term in shared[1]:
        del rest[next(k for k, other in enumerate(rest) if tvm_ffi.structural_equal(term, other))]
    return a[0] // shared[0], tuple(rest)


def _number(product: _Extent) -> Size:
    """A product as a size of a factor."""
    return None if product[1] else product[0]
