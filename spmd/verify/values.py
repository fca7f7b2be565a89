"""What programs compute with here, besides Python's numbers and texts."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np

from .field import Array


@dataclass(eq=False)
class Tensor:
    """A tensor: `data` holds numbers of the field where `dtype` is one of floats."""

    data: Array
    dtype: str


class Sizes(tuple[int, ...]):
    """A shape."""

    __slots__ = ()


@dataclass(frozen=True, eq=False)
class Unknown:
    """A value that cannot be decided: `why` names what its meaning depends on."""

    why: str


class Wrong(Exception):
    """A program that cannot be right, whatever it computes."""


def digest(value: Any) -> str:
    """What tells a value from others: its contents, or what an object says of itself."""
    made = hashlib.blake2b(digest_size=12)

    def add(part: Any) -> None:
        if isinstance(part, Tensor):
            made.update(f"{part.dtype}{part.data.shape}".encode())
            made.update(np.ascontiguousarray(part.data).tobytes())
        elif isinstance(part, tuple):
            made.update(f"({len(part)}".encode())
            for one in part:
                add(one)
        else:
            made.update(f"{part}".encode())

    add(value)
    return made.hexdigest()


def first_unknown(values: Any) -> Unknown | None:
    """The first value, also inside tuples, that cannot be decided."""
    for value in values:
        found = first_unknown(value) if isinstance(value, tuple) and not isinstance(value, Sizes) else value
        if isinstance(found, Unknown):
            return found
    return None
