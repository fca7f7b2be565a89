"""Which factors the two shapes of a reshape share."""

from __future__ import annotations

from typing import Any

from spmd.ir.expressions import static
from spmd.rules.extents import ONE, Extent, divides, equal, extent_of, shared_by, without
from spmd.rules.model import Dim, Size, Spec


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
        while not equal(extent_of(source[a[0] : i]), extent_of(target[b[0] : j])):
            left, right = extent_of(source[a[0] : i]), extent_of(target[b[0] : j])
            if i < len(source) and (divides(left, right) or j == len(target)):
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
        elif equal(extent_of(big_in), extent_of(big_out)):
            names_in, names_out = self._common([extent_of((d,)) for d in big_in], [extent_of((d,)) for d in big_out])
        else:
            names_in, names_out = [self.opaque(d) for d in big_in], [self.opaque(d) for d in big_out]
        return _place(source, names_in), _place(target, names_out)

    def opaque(self, size: Any) -> tuple[str, ...]:
        """A factor that stays whole."""
        name = self.new(static(size) if size is not None else None)
        self.whole.add(name)
        return (name,)

    def _common(self, source: list[Extent], target: list[Extent]) -> tuple[list[tuple[str, ...]], list[tuple[str, ...]]]:
        """Split off greatest common factors, major first, until a pair has none; what is left stays whole."""
        ins: list[tuple[str, ...]] = [() for _ in source]
        outs: list[tuple[str, ...]] = [() for _ in target]
        left, right = list(source), list(target)
        i = j = 0
        while i < len(left) and j < len(right):
            shared = shared_by(left[i], right[j])
            if shared != ONE:
                name = self.new(_number(shared))
                ins[i], outs[j] = (*ins[i], name), (*outs[j], name)
                left[i], right[j] = without(left[i], shared), without(right[j], shared)
            # Going on is only right where one side of the pair is used up.
            if left[i] != ONE and right[j] != ONE:
                break
            if left[i] == ONE:
                i += 1
            if j < len(right) and right[j] == ONE:
                j += 1
        for k, rest in enumerate(left):
            if rest != ONE:
                ins[k] = (*ins[k], *self.opaque(_number(rest)))
        for k, rest in enumerate(right):
            if rest != ONE:
                outs[k] = (*outs[k], *self.opaque(_number(rest)))
        return ins, outs


def _place(dims: tuple[Any, ...], names: list[tuple[str, ...]]) -> list[Dim]:
    rest = iter(names)
    return [((),) if static(d) == 1 else (next(rest),) for d in dims]


def _number(product: Extent) -> Size:
    """A product as a size of a factor."""
    return None if product[1] else product[0]
