"""What weights are read from: tensors by name, of which any box can be read; and what is made of them without reading them whole."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np

from spmd.checks import told
from spmd.errors import ShardingError, nearest
from spmd.placement.arrays import array_of
from spmd.placement.dtypes import numpy_dtype
from spmd.placement.layout import Array
from spmd.placement.mesh import Mesh
from spmd.placement.sharding import Sharding

from .gather import Box
from .shards import Cut


class Tensor(Protocol):
    """One tensor that is somewhere."""

    @property
    def where(self) -> str:
        """Its name and its file, for errors."""
        ...

    @property
    def shape(self) -> tuple[int, ...]:
        """The whole shape."""
        ...

    @property
    def dtype(self) -> str:
        """The dtype as TVM calls it."""
        ...

    def read(self, box: Box, out: Array) -> None:
        """Write a box of it to `out`, which has that shape and this dtype."""
        ...


@runtime_checkable
class Source(Protocol):
    """Tensors by name."""

    def names(self) -> Collection[str] | None:
        """The names of all tensors; None where nobody knows before they are asked for."""
        ...

    def tensor(self, name: str, dtype: str) -> Tensor:
        """The tensor of that name; in this dtype, where it is stored so that it can be read in several. Raises `ShardingError`."""
        ...

    def identity(self) -> str | None:
        """Differs where the tensors do, as files that were changed; None where nobody can tell."""
        ...


@dataclass(frozen=True)
class InMemory:
    """An array as a tensor."""

    where: str
    data: Array

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the array."""
        return self.data.shape

    @property
    def dtype(self) -> str:
        """The dtype of the array."""
        return self.data.dtype.name

    def read(self, box: Box, out: Array) -> None:
        """Copy a box of it."""
        out[...] = self.data[(*(slice(*ends) for ends in box), ...)]


@dataclass
class Called:
    """What a function gives for a name. The last array is kept, as its parts are asked for one after another."""

    function: Callable[[str], Any]
    _last: tuple[str, InMemory] | None = field(default=None, repr=False)

    def names(self) -> None:
        """Nobody knows what it can be asked for."""
        return

    def identity(self) -> None:
        """Nor what it will answer."""
        return

    def tensor(self, name: str, dtype: str) -> Tensor:
        """Ask for it. Raises `ShardingError` for what is no array; what the function raises comes through."""
        if self._last is None or self._last[0] != name:
            given, where = self.function(name), f"weight {name!r}"
            array = array_of(where, given)
            if array is None:
                raise ShardingError(where, f"the function gave {told(given)} for it, and no array", "Give an array for each name.")
            self._last = name, InMemory(where, array)
        return self._last[1]


@dataclass(frozen=True)
class Stacked:
    """Tensors that stand one under another, along the first dimension: what a checkpoint holds apart and a model takes as one."""

    where: str
    parts: tuple[Tensor, ...]

    def __post_init__(self) -> None:
        for part in self.parts:
            if not part.shape or part.shape[1:] != self.parts[0].shape[1:] or part.dtype != self.parts[0].dtype:
                said = " and ".join(f"{p.where} is {p.dtype}{list(p.shape)}" for p in (self.parts[0], part))
                raise ShardingError(self.where, f"{said}, and they are to stand one under another", "Name tensors of the same rows.")

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of all together."""
        return (sum(part.shape[0] for part in self.parts), *self.parts[0].shape[1:])

    @property
    def dtype(self) -> str:
        """The dtype of each."""
        return self.parts[0].dtype

    def read(self, box: Box, out: Array) -> None:
        """Read what each part has of the box."""
        (begin, end), base = box[0], 0
        for part in self.parts:
            first, last = max(begin, base), min(end, base + part.shape[0])
            if first < last:
                part.read(((first - base, last - base), *box[1:]), out[first - begin : last - begin])
            base += part.shape[0]


@dataclass(frozen=True)
class Converted:
    """A tensor in another dtype, rounded as NumPy rounds."""

    tensor: Tensor
    dtype: str

    @property
    def where(self) -> str:
        """The place of the tensor, for errors."""
        return self.tensor.where

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the tensor."""
        return self.tensor.shape

    def read(self, box: Box, out: Array) -> None:
        """Read the box as it is, and convert it."""
        held = np.empty(out.shape, numpy_dtype(self.tensor.dtype))
        self.tensor.read(box, held)
        out[...] = held.astype(out.dtype)


@dataclass(frozen=True)
class Named:
    """A source under the names of a model, perhaps fused and converted."""

    source: Source
    made_of: Mapping[str, tuple[str, ...]]
    """The tensors of the source that stand one under another in a weight; a weight that is not here has its own name."""
    convert: bool = False
    """Whether a tensor of another dtype than asked for is converted."""

    def names(self) -> Collection[str] | None:
        """The names of the weights that it can make."""
        known = self.source.names()
        if known is None:
            return None
        taken = {part for parts in self.made_of.values() for part in parts}
        return [*self.made_of, *(name for name in known if name not in taken and name not in self.made_of)]

    def identity(self) -> str | None:
        """What tells this source, and what is made of it, from others."""
        inner = self.source.identity()
        return None if inner is None else f"{inner} {sorted(self.made_of.items())} {self.convert}"

    def tensor(self, name: str, dtype: str) -> Tensor:
        """Find, stack and convert it."""
        parts = self.made_of.get(name, (name,))
        known = self.source.names()
        for part in parts:
            if known is not None and part not in known:
                made = f", of which weight {name!r} is made" if parts != (name,) else ""
                raise ShardingError(self.label, f"there is no tensor {part!r} in it{made}", nearest(part, known))
        found = [self.source.tensor(part, dtype) for part in parts]
        if len(found) > 1 and known is None:
            found = [InMemory(part.where, whole(part)) for part in found]  # a function keeps its last array only
        tensor = found[0] if len(found) == 1 else Stacked(f"weight {name!r}", tuple(found))
        return Converted(tensor, dtype) if self.convert and tensor.dtype != dtype else tensor

    @property
    def label(self) -> str:
        """What errors call it."""
        return str(getattr(self.source, "path", "the weights"))


def whole(tensor: Tensor) -> Array:
    """All of it, read in pieces: what decodes or converts it needs little memory besides."""
    return Cut.of(tensor.shape, Sharding.replicated(len(tensor.shape)), Mesh(tp=1), 0).array(numpy_dtype(tensor.dtype), tensor.read)


def parts_of(where: str, names: Mapping[str, str | Sequence[str]] | None) -> dict[str, tuple[str, ...]]:
    """What each weight is made of, checked."""
    found: dict[str, tuple[str, ...]] = {}
    for name, parts in (names or {}).items():
        listed = (parts,) if isinstance(parts, str) else tuple(parts) if isinstance(parts, (list, tuple)) else ()  # pyright: ignore[reportUnnecessaryIsInstance]
        if not listed or not all(isinstance(part, str) and part for part in listed):  # pyright: ignore[reportUnnecessaryIsInstance]
            what = f"weight {name!r} is to be made of {told(parts)}"
            raise ShardingError(where, what, 'Write {"model.qkv": ["model.q", "model.k", "model.v"]}.')
        found[name] = listed
    return found
