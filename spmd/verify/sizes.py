"""Small numbers for the sizes of two programs, such that what hangs together still does."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass

KEPT = 4
"""Sizes up to this one stay what they are."""
_SMALL = 8
"""Sizes up to this one stay where they can: what workers are shared out to is often one of them."""
_FREE = 25
_TRIES, _MOST = 1 << 13, 1 << 12
Test = Callable[[Mapping[int, int]], bool]


@dataclass(frozen=True)
class Equation:
    """What sizes must fulfil: `test` of the values of `names`. Equations of one `key` are the same."""

    key: Hashable
    names: tuple[int, ...]
    test: Test
    is_equality: bool = True
    """Whether it leaves the last name that is not known hardly a choice."""
    exact: Callable[[Mapping[int, int], int], int | None] = lambda of, name: None
    """The one value that a name can have where all others are known, if that is easily said."""


class Sizes:
    """Sizes of two programs: places that have the same one are one variable."""

    def __init__(self) -> None:
        self._ids: dict[Hashable, int] = {}
        self._parents: list[int] = []
        self.numbers: list[int] = []
        """What each variable is in the programs as they are."""
        self._found: list[Callable[[], Equation]] = []

    def at(self, place: Hashable, number: int) -> int:
        """The variable of a place, which has this size; small sizes are the same everywhere."""
        key = ("kept", number) if number <= KEPT else place
        if key not in self._ids:
            self._ids[key] = len(self._parents)
            self._parents.append(len(self._parents))
            self.numbers.append(number)
        return self.root(self._ids[key])

    def root(self, name: int) -> int:
        """The variable that stands for this one."""
        while self._parents[name] != name:
            self._parents[name] = self._parents[self._parents[name]]
            name = self._parents[name]
        return name

    def same(self, names: Iterable[int]) -> None:
        """Make one variable of those that have the same number."""
        first: dict[int, int] = {}
        for name in names:
            root = self.root(name)
            self._parents[root] = self.root(first.setdefault(self.numbers[root], root))

    def equal(self, a: Iterable[int], b: Iterable[int]) -> None:
        """Make one variable of each of `a` and that of `b`."""
        for x, y in zip(a, b, strict=True):
            if x >= 0:
                self.same((x, y))

    def every(self, number: int) -> int:
        """One variable of all that have this number."""
        name = self.at(("every", number), number)
        self.same((name, *(n for n, one in enumerate(self.numbers) if one == number)))
        return name

    def known(self, place: Hashable) -> int | None:
        """The variable of a place, where there is one."""
        return self._ids.get(place)

    def product(self, a: Iterable[int], b: Iterable[int], factor: int = 1) -> None:
        """The product of `a` is `factor` times that of `b`."""
        a, b = tuple(a), tuple(b)

        def made() -> Equation:
            left, right = Counter(map(self.root, a)), Counter(map(self.root, b))
            x, y = tuple(sorted((left - right).elements())), tuple(sorted((right - left).elements()))

            def exact(of: Mapping[int, int], name: int) -> int | None:
                own, other, times, rest = (x, y, factor, 1) if name in x else (y, x, 1, factor)
                rest *= math.prod(of[n] for n in own if n != name)
                return times * math.prod(of[n] for n in other) // max(rest, 1) if own.count(name) == 1 else None

            def test(of: Mapping[int, int]) -> bool:
                return math.prod(of[n] for n in x) == factor * math.prod(of[n] for n in y)

            return Equation(("product", x, y, factor), (*x, *y), test, exact=exact)

        self._found.append(made)

    def total(self, whole: int, parts: Iterable[int]) -> None:
        """One is the sum of others."""
        pieces = tuple(parts)
        if len(pieces) == 1:
            return self.equal([whole], pieces)
        self.fulfil("sum", (whole, *pieces), lambda all, *each: all == sum(each))

    def fixed(self, name: int) -> None:
        """It stays what it is."""
        self.fulfil("fixed", (name,), lambda value: value == self.numbers[self.root(name)])

    def fulfil(self, key: Hashable, names: tuple[int, ...], test: Callable[..., bool], is_equality: bool = True) -> None:
        """The values of these names pass a test."""

        def made() -> Equation:
            roots = tuple(map(self.root, names))
            return Equation((key, roots), roots, lambda of: test(*(of[n] for n in roots)), is_equality)

        self._found.append(made)

    def solved(self) -> dict[int, int] | None:
        """A small value for each variable, different ones for different numbers; None where none were found."""
        every = {self.root(n) for n in range(len(self._parents))}
        value = {n: self.numbers[n] for n in every if self.numbers[n] <= KEPT}
        of: dict[int, list[Equation]] = {n: [] for n in every}
        for equation in {e.key: e for e in (made() for made in self._found)}.values():
            for n in set(equation.names):
                of[n].append(equation)
        order = sorted(every, key=lambda n: (self.numbers[n], n))
        return value if self._search(value, of, order, [_TRIES]) else None

    def _search(self, value: dict[int, int], of: Mapping[int, list[Equation]], order: list[int], left: list[int]) -> bool:
        def is_known(e: Equation, but: int) -> bool:
            return all(m in value or m == but for m in e.names)

        unknown = [n for n in order if n not in value]
        if not unknown:
            return True
        forced = next((n for n in unknown if any(e.is_equality and is_known(e, n) for e in of[n])), None)
        n = unknown[0] if forced is None else forced
        own = self.numbers[n]
        known = [e for e in of[n] if is_known(e, n)]
        others = {v for m, v in value.items() if self.numbers[m] != own}
        alike = sorted({v for m, v in value.items() if self.numbers[m] == own and v < _FREE})
        free = [*alike, *([own] if own <= _SMALL else []), *range(2, _FREE), own]
        exact = next((one for e in known if (one := e.exact(value, n)) is not None), None)
        for candidate in free if forced is None else range(1, min(own, _MOST) + 1) if exact is None else (exact,):
            value[n] = candidate
            if candidate not in others and all(e.test(value) for e in known):
                left[0] -= 1
                if self._search(value, of, order, left):
                    return True
            del value[n]
            if left[0] < 0:
                return False
        return False
