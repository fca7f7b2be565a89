"""Rules as data: how the dimensions of an operator's tensors go together by factors, and what its call on shards needs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

from spmd.placement.length import Length

if TYPE_CHECKING:
    from spmd.placement.mesh import Mesh
    from spmd.placement.sharding import Split

Piece = tuple[str, ...]
"""A product of factors, major first; empty for size 1."""
Dim = tuple[Piece, ...]
"""A concatenation of pieces: one for an ordinary dimension."""
Spec = tuple[Dim, ...]
Size = int | None
"""None where a size is symbolic."""
Shape = tuple[Size, ...]


@dataclass(frozen=True)
class Exchange:
    """One collective inside an operator: each worker brings a tensor of `spec` (factors at their local sizes)."""

    kind: str
    spec: str
    """Factors, ``"b h"``; a number is a size."""
    dtype: str = ""
    """The dtype of what is sent, where it is not that of the first input."""


@dataclass(frozen=True)
class Form:
    """How an operator runs on a split factor that it has to see whole: the name of a form in `lower.forms`, and what it sends."""

    name: str
    exchanges: tuple[Exchange, ...] | Callable[[Mapping[str, Split], Mesh], tuple[Exchange, ...]] = ()
    """What it sends; where that hangs on who holds what, a function (that can be hashed) of the splits of its factors."""
    partial: str | None = None
    """The kind of partial that it leaves, if it does."""
    ordered: bool = False
    """Whether shards must be consecutive: one segment."""
    padded: bool = True
    """Whether it copes with padding."""
    together: tuple[str, ...] = ()
    """Other factors with the same form that are split with this one, such as the size before and after a slice."""
    beside: bool = False
    """Whether one call of the form serves several such factors, each split for itself."""


@dataclass(frozen=True)
class Rule:
    """How the tensors of one operator call go together, and what the lowered call must change.

    `inputs` and `outputs` give one spec a tensor, in the order in which the call holds them, and `sizes` the size of each factor.
    """

    inputs: tuple[Spec, ...]
    outputs: tuple[Spec, ...]
    sizes: Mapping[str, Size]
    reduce: str | None = "sum"
    """The kind of partial that splitting a reduced factor leaves; None: a reduced factor stays whole."""
    whole: frozenset[str] = frozenset()
    """Factors that the operator must see whole."""
    symbolic: frozenset[str] = frozenset()
    """Factors whose size is known only when the program runs; `sizes` then says by what it can be divided."""
    uneven: frozenset[str] = frozenset()
    """Factors whose size is known only when the program runs, and which may be split in units, with padding."""
    lengths: Mapping[str, Length] = field(default_factory=dict[str, Length])
    """How such sizes are written, of those that are products."""
    unread: frozenset[str] = frozenset()
    """Factors of what the operator leaves out (the rest of a slice): no output has them, and splitting them leaves no partial."""
    uncounted: frozenset[str] = frozenset()
    """Factors that are no loop of their own and so no work: the input rows under a window that slides over the output's."""
    nests: tuple[tuple[str, ...], ...] | None = None
    """The loop nests that do the work, each by the factors that it runs over; None: one over all factors."""
    linear: tuple[tuple[int, ...], ...] = ()
    """Sets of inputs in which the operator is linear: all partial sums in, a partial sum out."""
    zero: Literal["", "any", "all"] = ""
    """When the result is zero: "any" where one input is (a product), "all" where all are (a sum), "" where nobody knows.
    Zero padding stays zero through such an operator, and may be summed over."""
    neutral: bool = False
    """Whether it reduces its inputs as they are: the neutral element of `reduce` in padding then changes nothing."""
    forms: Mapping[str, Form] = field(default_factory=dict[str, Form])
    """Factors over which the operator is more than the same operator on each shard, and how it is then made."""
    sparse: tuple[int, ...] = ()
    """Inputs of which no more is read than one element at each point of the loops."""
    pointers: tuple[int, ...] = ()
    """Inputs that only tell where others are read: `zero` says nothing of what they hold."""
    shape_args: Mapping[int, int] = field(default_factory=dict[int, int])
    """Call argument number -> output number whose local shape it must be given."""
    local_attrs: Callable[[Callable[[str], int]], dict[str, Any]] | None = None
    """What makes of local factor sizes the attributes that the local call needs."""
    local_args: Callable[[Callable[[str], int]], dict[int, Any]] | None = None
    """What makes of local factor sizes the call arguments, by number, that the local call needs."""
    scalar_args: Mapping[int, str] = field(default_factory=dict[int, str])
    """Call argument number -> the factors (``"h r"``) whose local sizes multiply to it."""
    kernels: str | None = None
    """Name of the cutter in `lower` that makes the local kernels of this call."""
    work: str = "full"
    """What it does: products and sums, and all else ("full"); arithmetic on single elements ("pointwise"); it puts elements elsewhere, and
    computes nothing ("view"). Any other name is as "full", but for a `Cost` of the user's that knows it."""

    @cached_property
    def factors(self) -> list[str]:
        """Every factor, in order of first use."""
        return list(dict.fromkeys(f for spec in (*self.outputs, *self.inputs) for dim in spec for piece in dim for f in piece))

    @cached_property
    def reduced(self) -> frozenset[str]:
        """The factors that no output has, though they are read."""
        out = {f for spec in self.outputs for dim in spec for piece in dim for f in piece}
        return frozenset(f for f in self.factors if f not in out and f not in self.unread)

    def is_unknown(self, piece: Sequence[str]) -> bool:
        """Whether the size of a product of factors is known only when the program runs."""
        return any(f in self.symbolic or self.sizes[f] is None for f in piece)

    def blocks(self, piece: Sequence[str]) -> int:
        """The size of a product of factors, in blocks where it is not known."""
        total = 1
        for f in piece:
            total *= 1 if self.sizes[f] is None else self.sizes[f] or 0
        return total

    def touching(self) -> Rule:
        """The rule of an operator whose loops nobody knows: it is taken to touch every element of each tensor once."""
        specs = (*self.inputs, *self.outputs)
        return replace(self, nests=tuple(tuple(f for dim in spec for piece in dim for f in piece) for spec in specs))

    def joint(self) -> list[tuple[str, ...]]:
        """The factors that can only be split together: the major ones of each concatenated dimension, and those that a form needs."""
        group = {f: f for f in self.factors}

        def root(f: str) -> str:
            while group[f] != f:
                f = group[f]
            return f

        for spec in (*self.outputs, *self.inputs):
            for dim in spec:
                majors = [next((f for f in piece if self.sizes[f] != 1), piece[0] if piece else None) for piece in dim]
                for a, b in pairwise(majors):
                    if a is not None and b is not None:
                        group[root(b)] = root(a)
        for a, form in self.forms.items():
            for b in form.together:
                group[root(b)] = root(a)
        sets: dict[str, list[str]] = {}
        for f in self.factors:
            sets.setdefault(root(f), []).append(f)
        return [tuple(s) for s in sets.values()]
