"""Rules as expressions: ``"...m k, k n -> ...m n"`` says which dimensions of an operator's tensors go together.

A word is a *factor*, a range of the iteration space. ``(h d)`` is a merged dimension (h major), ``[a b]`` a concatenated one,
``1`` or ``()`` a dimension of size 1, ``...`` any number of leading dimensions, broadcast as NumPy does. Splitting a factor
splits every dimension that holds it; a factor that no output has is reduced, and splitting it leaves a partial.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal, cast

from .checks import told
from .errors import ShardingError, nearest

if TYPE_CHECKING:
    from .mesh import Mesh
    from .sharding import Split

Piece = tuple[str, ...]
"""A product of factors, major first; empty for size 1."""
Dim = tuple[Piece, ...]
"""A concatenation of pieces: one for an ordinary dimension."""
Spec = tuple[Dim, ...]
Size = int | None
"""None where a size is symbolic."""
Shape = tuple[Size, ...]

_KINDS = ("sum", "max", "min", "prod")
_TOKEN = re.compile(r"\s*(\.\.\.|[()\[\]1]|[A-Za-z_]\w*)")


@dataclass(frozen=True)
class Exchange:
    """One collective inside an operator: each worker brings a tensor of `spec` (factors at their local sizes)."""

    kind: str
    spec: str
    """Factors, ``"b h"``; a number is a size."""
    dtype: str = ""
    """Of what is sent, where it is not that of the first input."""


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
    """From local factor sizes to the attributes that the local call needs."""
    local_args: Callable[[Callable[[str], int]], dict[int, Any]] | None = None
    """From local factor sizes to the call arguments, by number, that the local call needs."""
    scalar_args: Mapping[int, str] = field(default_factory=dict[int, str])
    """Call argument number -> the factors (``"h r"``) whose local sizes multiply to it."""
    kernels: str | None = None
    """Name of the cutter in `lower` that makes the local kernels of this call."""
    work: str = "full"
    """What it costs: memory and arithmetic ("full"); arithmetic alone, as it is fused into what makes or reads it ("pointwise"); nothing
    ("view"). Any other name is as "full", but for a `Cost` of the user's that knows it."""

    @cached_property
    def factors(self) -> list[str]:
        """Every factor, in order of first use."""
        return list(dict.fromkeys(f for spec in (*self.outputs, *self.inputs) for dim in spec for piece in dim for f in piece))

    @cached_property
    def reduced(self) -> frozenset[str]:
        """The factors that no output has, though they are read."""
        out = {f for spec in self.outputs for dim in spec for piece in dim for f in piece}
        return frozenset(f for f in self.factors if f not in out and f not in self.unread)

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


def bind(text: str, inputs: Sequence[Shape], outputs: Sequence[Shape], sizes: Mapping[str, Size] | None = None, **details: Any) -> Rule:
    """The `Rule` that `text` means for tensors of these shapes; `details` are the other fields of `Rule`.

    `whole`, `unread` and `uncounted` may be given as one string of factors. Raises `ShardingError` when the text does not fit the shapes.
    """
    left, right = _sides(text)
    shapes = [list(inputs), list(outputs)]
    specs = [
        [_parse(t, text) for t in side.split(",")] if side.strip() or hs else [] for side, hs in zip((left, right), shapes, strict=True)
    ]
    for side, side_specs, side_shapes in zip(("inputs", "outputs"), specs, shapes, strict=True):
        if len(side_specs) != len(side_shapes):
            raise ShardingError(f"rule {text!r}", f"it has {len(side_specs)} {side}, the call has {len(side_shapes)}")
    _check_details(text, details, len(shapes[0]))
    known: dict[str, Size] = dict(sizes or {})
    batch = max(
        (
            len(shape) - len(spec) + 1
            for ss, hs in zip(specs, shapes, strict=True)
            for spec, shape in zip(ss, hs, strict=True)
            if spec[:1] == ("...",)
        ),
        default=0,
    )
    full = [[_expand(spec, shape, batch, text) for spec, shape in zip(ss, hs, strict=True)] for ss, hs in zip(specs, shapes, strict=True)]
    _solve(
        [
            (dim, size)
            for ss, hs in zip(full, shapes, strict=True)
            for spec, shape in zip(ss, hs, strict=True)
            for dim, size in zip(spec, shape, strict=True)
        ],
        known,
        text,
    )
    bound = [tuple(_broadcast(spec, shape, known) for spec, shape in zip(ss, hs, strict=True)) for ss, hs in zip(full, shapes, strict=True)]
    for name in ("whole", "unread", "uncounted"):
        if isinstance(details.get(name), str):
            details[name] = frozenset(details[name].split())
    empty = {f for side in bound for spec in side for dim in spec if len(dim) > 1 for piece in dim for f in piece if known[f] == 0}
    if empty:
        details["whole"] = frozenset(details.get("whole", ())) | empty
        bound = [tuple(tuple(_filled(dim, empty) for dim in spec) for spec in side) for side in bound]
    details["linear"] = tuple(tuple(sorted(terms)) for terms in details.get("linear", ()))
    return Rule(bound[0], bound[1], known, **details)


def check_expression(text: object) -> None:
    """Raise `ShardingError` for what is no expression, whatever tensors it is for."""
    for side in _sides(text):
        for spec in side.split(",") if side.strip() else ():
            _parse(spec, str(text))


def _sides(text: object) -> tuple[str, str]:
    left, arrow, right = text.partition("->") if isinstance(text, str) else ("", "", "")
    if not arrow:
        what = "it has no '->'" if isinstance(text, str) else f"{told(text)} is no expression"
        raise ShardingError(f"rule {text!r}", what, "Write inputs -> outputs, such as 'm k, k n -> m n'.")
    return left, right


def _check_details(text: str, details: Mapping[str, Any], inputs: int) -> None:
    """Raise `ShardingError` for fields that no rule has, or that mean nothing for so many inputs."""
    where = f"rule {text!r}"
    for name in details:
        if name not in Rule.__dataclass_fields__ or name in ("inputs", "outputs"):
            raise ShardingError(where, f"a rule has no field {name!r}", nearest(name, Rule.__dataclass_fields__))
    if details.get("reduce", "sum") not in (*_KINDS, None):
        raise ShardingError(where, f"reduce is {details['reduce']!r}", f"It is one of {', '.join(_KINDS)}, or None.")
    if details.get("zero", "") not in ("", "any", "all"):
        raise ShardingError(where, f"zero is {details['zero']!r}", "It is 'any', 'all' or ''.")
    linear = details.get("linear", ())
    fits = isinstance(linear, tuple | list) and all(isinstance(terms, tuple | list) for terms in cast("Sequence[Any]", linear))
    if not fits or not all(isinstance(i, int) and 0 <= i < inputs for terms in linear for i in terms):
        way_out = f"It is sets of inputs, of 0 to {inputs - 1}: ((0,), (1,)) is linear in either of two, ((0, 1),) in both together."
        raise ShardingError(where, f"linear is {linear!r}", way_out)


@lru_cache(maxsize=1 << 12)
def _parse(text: str, where: str) -> tuple[Any, ...]:
    """``"...m (h d)"`` -> ``("...", ((m,),), ((h, d),))``."""
    dims: list[Any] = []
    tokens: list[str] = []
    at = 0
    while text[at:].strip():
        match = _TOKEN.match(text, at)
        if match is None:
            raise ShardingError(f"rule {where!r}", f"cannot read {text[at:].strip()!r}", "Use names, (a b), [a b], 1 and '...'.")
        tokens.append(match[1])
        at = match.end()
    i = 0

    def piece() -> Piece:
        nonlocal i
        token = tokens[i]
        i += 1
        if token != "(":
            return () if token == "1" else (token,)
        names: list[str] = []
        while tokens[i] != ")":
            names.append(tokens[i])
            i += 1
        i += 1
        return tuple(n for n in names if n != "1")

    try:
        while i < len(tokens):
            if tokens[i] == "...":
                dims.append("...")
                i += 1
            elif tokens[i] == "[":
                i += 1
                pieces: list[Piece] = []
                while tokens[i] != "]":
                    pieces.append(piece())
                i += 1
                dims.append(tuple(pieces))
            else:
                dims.append((piece(),))
    except IndexError:
        raise ShardingError(f"rule {where!r}", f"a bracket of {text.strip()!r} is not closed") from None
    if "..." in dims[1:]:
        raise ShardingError(f"rule {where!r}", "'...' stands in the middle", "It may only lead.")
    return tuple(dims)


def _expand(spec: tuple[Any, ...], shape: Shape, batch: int, text: str) -> Spec:
    if spec[:1] == ("...",):
        extra = len(shape) - len(spec) + 1
        spec = (*(((f"_{batch - extra + i}",),) for i in range(extra)), *spec[1:])
    if len(spec) != len(shape):
        raise ShardingError(f"rule {text!r}", f"a tensor of {len(shape)} dimensions stands where the rule has {len(spec)}")
    return spec


def _solve(dims: list[tuple[Dim, Size]], known: dict[str, Size], text: str) -> None:
    """Find the size of each factor; several passes, as one dimension may need what another tells."""
    for dim, size in dims:
        if len(dim) == 1 and len(dim[0]) == 1:
            (name,) = dim[0]
            if name not in known or (known[name] == 1 and name.startswith("_")):
                known[name] = size
            elif known[name] != size and None not in (known[name], size) and not (size == 1 and name.startswith("_")):
                raise ShardingError(f"rule {text!r}", f"factor {name!r} has the sizes {known[name]} and {size}")
    before = -1
    while len(known) > before:
        before = len(known)
        for dim, size in dims:
            missing = [f for piece in dim for f in piece if f not in known]
            if len(dim) == 1 and len(missing) == 1 and size is not None:
                rest = 1
                for f in dim[0]:
                    rest = rest * (known.get(f, 1) or 0)
                if rest and size % rest == 0:
                    known[missing[0]] = size // rest
    for dim, _ in dims:
        for piece in dim:
            for f in piece:
                known.setdefault(f, None)


def _filled(dim: Dim, empty: set[str]) -> Dim:
    """A concatenated dimension without its pieces that hold nothing, which would have to be split with the others."""
    return tuple(piece for piece in dim if empty.isdisjoint(piece)) or dim[:1]


def _broadcast(spec: Spec, shape: Shape, known: Mapping[str, Size]) -> Spec:
    """A dimension of size 1 that stands for a larger factor holds none of it."""
    return tuple(
        ((),) if size == 1 and len(dim) == 1 and len(dim[0]) == 1 and known[dim[0][0]] != 1 else dim
        for dim, size in zip(spec, shape, strict=True)
    )
