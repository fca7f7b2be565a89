"""A size as it is written, a number times symbolic sizes: ``8.s`` is ``8 * s``."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass


@dataclass(frozen=True)
class Length:
    """`number` times the sizes of these `names`, which are in order."""

    number: int = 1
    names: tuple[str, ...] = ()

    @property
    def wrong(self) -> str:
        """What no length can have."""
        return "" if self.number > 0 and self.names == tuple(sorted(self.names)) else "a length has a number above 0, and names in order"

    def times(self, other: Length) -> Length:
        """Both multiplied."""
        return Length(self.number * other.number, tuple(sorted(self.names + other.names)))

    def without(self, other: Length) -> Length | None:
        """What times `other` is this one; None where nothing is."""
        names, less = Counter(self.names), Counter(other.names)
        if self.number % other.number or less - names:
            return None
        return Length(self.number // other.number, tuple(sorted((names - less).elements())))

    def __str__(self) -> str:
        return ".".join([*([str(self.number)] if self.number > 1 or not self.names else []), *self.names])

    @classmethod
    def parse(cls, text: str) -> Length:
        """Read back ``str(length)``."""
        first, *rest = text.split(".")
        return cls(int(first), tuple(rest)) if first.isdigit() else cls(1, (first, *rest))
