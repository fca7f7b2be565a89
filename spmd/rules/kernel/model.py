"""What is known of a kernel once it has been read."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tvm import tirx

from spmd.rules.model import Size, Spec

DATA_PARALLEL, REDUCE = 0, 2  # IterVar.DataPar, IterVar.CommReduce
NEUTRAL = {"sum": 0, "prod": 1}
"""What a reduction must start from so that it may do so on every worker; any start will do for a maximum or a minimum."""


class Unreadable(Exception):
    """Why the factors of a kernel cannot be read; the text goes into the report."""


@dataclass(frozen=True)
class Store:
    """``buffer[indices] = value``; where it reduces, `kind` of what was there and `update`, starting from `start`."""

    buffer: Any
    indices: tuple[Any, ...]
    value: Any
    kind: str | None = None
    update: Any = None
    start: Any = None


@dataclass(eq=False)
class Block:
    """A leaf block: its stores, where it is nothing but stores that do not depend on each other (else None)."""

    realize: Any
    top: int
    """The number of the top-level statement that it stands in."""
    stores: tuple[Store, ...] | None
    careful: bool = False
    """Whether it must not run on padding: it divides integers by what it has read."""
    around: tuple[Any, ...] = ()
    """The variables of the blocks that it stands in."""
    positional: set[Any] = field(default_factory=set[Any])
    """Block variables whose position counts, beyond saying which element is meant."""
    pointing: set[Any] = field(default_factory=set[Any])
    """Block variables that choose the places at which it reads from what it has read: it must not run on their padding."""
    reads: list[Any] = field(default_factory=list[Any])
    writes: list[Any] = field(default_factory=list[Any])

    @property
    def variables(self) -> list[Any]:
        """The variables that it runs over, those of the blocks around it first."""
        return [*self.around, *(v.var for v in self.realize.block.iter_vars)]

    def cares(self, var: Any) -> bool:
        """Whether a part of one of its variables is more to it than fewer elements: by its position, or its padding."""
        return self.careful or var in self.positional or var in self.pointing


@dataclass(frozen=True)
class Staged:
    """How a kernel runs on a split factor that it reduces on the way, or whose position counts."""

    reduced: tuple[tuple[Any, str], ...]
    """Buffers to be reduced over the workers as soon as they are written, and the kind of reduction."""
    partial: str | None
    """The kind of partial that the output is, where the last reduction is left to whoever reads it."""


@dataclass(frozen=True)
class Kernel:
    """The factors of a PrimFunc."""

    func: tirx.PrimFunc
    """The PrimFunc in normal form; everything below is about this one."""
    params: tuple[Spec, ...]
    """One spec a buffer parameter, new outputs last."""
    outputs: tuple[Any, ...]
    """The buffer parameters that are results, in order."""
    in_place: tuple[Any, ...]
    """Those among them that the kernel is given, and writes into: what it does not write stays."""
    sizes: dict[str, Size]
    whole: frozenset[str]
    """Factors that cannot be split."""
    reduce: str | None
    """The kind of reduction that ends the kernel, if one does."""
    staged: dict[str, Staged]
    """Factors that can be split by more than running the same kernel on shards."""
    loops: dict[Any, tuple[str, ...]]
    """Loop variable -> its factors."""
    iters: dict[Any, tuple[str, ...]]
    """Block variable -> its factors."""
    buffers: dict[Any, Spec]
    """Buffer -> its spec, those that the kernel allocates too."""
    blocks: tuple[Block, ...]
    zero: bool
    """Whether zeros in all inputs give zeros out."""
    linear: tuple[tuple[int, ...], ...]
    """Sets of buffer parameters in which the kernel is linear."""
    gathered: frozenset[int]
    """Buffer parameters that are read at places that the kernel reads elsewhere."""
    pointers: frozenset[Any] = frozenset()
    """Buffer parameters that are read for nothing but such places."""

    @property
    def tensors(self) -> tuple[Any, ...]:
        """The parameters that are buffers."""
        return tuple(p for p in self.func.params if isinstance(p.ty, tirx.BufferType))
