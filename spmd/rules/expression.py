"""Rules as expressions: ``"...m k, k n -> ...m n"`` says which dimensions of an operator's tensors go together.

A word is a *factor*, a range of the iteration space. ``(h d)`` is a merged dimension (h major), ``[a b]`` a concatenated one,
``1`` or ``()`` a dimension of size 1, ``...`` any number of leading dimensions, broadcast as NumPy does. Splitting a factor
splits every dimension that holds it; a factor that no output has is reduced, and splitting it leaves a partial.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, cast

from spmd.checks import told
from spmd.errors import ShardingError, nearest

from .model import Dim, Piece, Rule, Shape, Size, Spec

_KINDS = ("sum", "max", "min", "prod")
_TOKEN = re.compile(r"\s*(\.\.\.|[()\[\]1]|[A-Za-z_]\w*)")


def bind(text: str, inputs: Sequence[Shape], outputs: Sequence[Shape], sizes: Mapping[str, Size] | None = None, **details: Any) -> Rule:
    """The `Rule` that `text` means for tensors of these shapes; `details` are the other fields of `Rule`.

    `whole`, `unread` and `uncounted` may be given as one string of factors. Raises `ShardingError` when the text does not fit the shapes.
    """
    shapes = [*inputs, *outputs]
    specs = _specs(text, len(inputs), len(outputs))
    _check_details(text, details, len(inputs))
    pairs = list(zip(specs, shapes, strict=True))
    batch = max((len(shape) - len(spec) + 1 for spec, shape in pairs if spec[:1] == ("...",)), default=0)
    full = [(_expand(spec, shape, batch, text), shape) for spec, shape in pairs]
    known: dict[str, Size] = dict(sizes or {})
    _solve([pair for spec, shape in full for pair in zip(spec, shape, strict=True)], known, text)
    bound = [_broadcast(spec, shape, known) for spec, shape in full]
    for name in ("whole", "unread", "uncounted"):
        if isinstance(details.get(name), str):
            details[name] = frozenset(details[name].split())
    empty = {f for spec in bound for dim in spec if len(dim) > 1 for piece in dim for f in piece if known[f] == 0}
    if empty:
        details["whole"] = frozenset(details.get("whole", ())) | empty
        bound = [tuple(_filled(dim, empty) for dim in spec) for spec in bound]
    details["linear"] = tuple(tuple(sorted(terms)) for terms in details.get("linear", ()))
    return Rule(tuple(bound[: len(inputs)]), tuple(bound[len(inputs) :]), known, **details)


def _specs(text: str, inputs: int, outputs: int) -> list[tuple[Any, ...]]:
    """What the text says of each input, then of each output, read but not yet fitted to shapes."""
    found: list[tuple[Any, ...]] = []
    for name, side, count in zip(("inputs", "outputs"), _sides(text), (inputs, outputs), strict=True):
        specs = [_parse(t, text) for t in side.split(",")] if side.strip() or count else []
        if len(specs) != count:
            raise ShardingError(f"rule {text!r}", f"it has {len(specs)} {name}, the call has {count}")
        found += specs
    return found


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
