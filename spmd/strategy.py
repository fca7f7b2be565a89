"""From a split of a rule's factors to the shardings of its tensors, and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from .expression import Piece, Rule, Spec
from .mesh import Mesh
from .sharding import Segment, Sharding, Split


@dataclass(frozen=True)
class Strategy:
    """One way to run an operator in parallel: how its factors are split, and the sharding that this means for each tensor."""

    splits: tuple[tuple[str, Split], ...]
    inputs: tuple[Sharding, ...]
    outputs: tuple[Sharding, ...]
    partial_through: tuple[int, ...] = ()
    """The inputs taken as partial sums, where the operator is linear in them."""

    def __str__(self) -> str:
        if self.partial_through:
            return "partial sums in, partial sum out"
        return ", ".join(f"{f} over {s}" for f, s in self.splits) or "replicate"


def strategy_of(rule: Rule, splits: Mapping[str, Split], mesh: Mesh) -> Strategy | None:
    """The `Strategy` that splits these factors, or None where some tensor cannot be held that way."""
    if any(f in rule.whole for f in splits):
        return None
    kinds: dict[str, str] = {}
    for f, split in splits.items():
        form = rule.forms.get(f)
        if form is not None:
            # A form is written for one split factor, and those that go with it.
            alone = set(splits) <= {f, *form.together}
            if not alone or (form.ordered and len(split.segments) > 1) or (not form.padded and split.is_padded(mesh)):
                return None
            kind = form.partial
        elif f in rule.reduced:
            if rule.reduce is None or (split.is_padded(mesh) and not _summable(rule, f)):
                return None
            kind = rule.reduce
        else:
            continue
        if kind is not None:
            kinds.update(dict.fromkeys(split.axes, kind))
    inputs = [_place(spec, rule, splits, mesh) for spec in rule.inputs]
    outputs = [_place(spec, rule, splits, mesh) for spec in rule.outputs]
    partial = tuple(kinds.items())
    found_in, found_out = [], []
    for found, sharding in [(found_in, s) for s in inputs] + [(found_out, s) for s in outputs]:
        if sharding is None:
            return None
        found.append(sharding)
    return Strategy(tuple(sorted(splits.items())), tuple(found_in), tuple(Sharding(s.dims, partial) for s in found_out))


def partial_strategy(rule: Rule, inputs: tuple[int, ...], axis: str) -> Strategy:
    """Partial sums in at the linear `inputs`, a partial sum out, all else replicated."""
    whole = [Sharding.replicated(len(s)) for s in rule.inputs]
    partial = tuple(Sharding(s.dims, ((axis, "sum"),)) if i in inputs else s for i, s in enumerate(whole))
    return Strategy((), partial, tuple(Sharding((None,) * len(s), ((axis, "sum"),)) for s in rule.outputs), inputs)


def replicate(rule: Rule) -> Strategy:
    """Every tensor whole on every worker."""
    return Strategy((), tuple(Sharding.replicated(len(s)) for s in rule.inputs), tuple(Sharding.replicated(len(s)) for s in rule.outputs))


def splits_from(spec: Spec, sharding: Sharding, rule: Rule, mesh: Mesh) -> dict[str, Split] | None:
    """The factor splits that put a tensor of `spec` into `sharding`, or None where no factor split does."""
    found: dict[str, Split] = {}
    for dim, split in zip(spec, sharding.dims, strict=True):
        if split is None:
            continue
        segments = list(split.segments)
        for piece in dim:
            total = _product(piece, rule)
            taken: list[Segment] = []
            while segments and total is not None and sum(s.size for s in taken) < total:
                taken.append(segments.pop(0))
            if total is None or sum(s.size for s in taken) != total:
                return None
            factor = _factor_split(piece, tuple(taken), split.axes, rule, mesh)
            if factor is None or found.setdefault(factor[0], factor[1]) != factor[1]:
                return None
    return found


def complete(rule: Rule, splits: Mapping[str, Split], mesh: Mesh) -> dict[str, Split]:
    """`splits`, with the factors that can only be split jointly with them split evenly too."""
    full = dict(splits)
    for group in rule.joint():
        some = next((splits[f] for f in group if f in splits), None)
        for f in group:
            size = rule.sizes[f]
            if some is not None and f not in full and size is not None:
                full[f] = Split(some.axes, (Segment(size),)).normalized(mesh)
    return full


def _place(spec: Spec, rule: Rule, splits: Mapping[str, Split], mesh: Mesh) -> Sharding | None:
    dims: list[Split | None] = []
    used: list[str] = []
    for dim in spec:
        if not any(f in splits for piece in dim for f in piece):
            dims.append(None)
            continue
        segments: list[Segment] = []
        axes: tuple[str, ...] | None = None
        for piece in dim:
            here = [f for f in piece if f in splits]
            if len(here) != 1 or piece.count(here[0]) != 1:
                return None
            split, at = splits[here[0]], piece.index(here[0])
            before, after = _product(piece[:at], rule), _product(piece[at + 1 :], rule)
            if before is None or after is None or axes not in (None, split.axes):
                return None
            axes = split.axes
            segments += [Segment(s.size * after, s.unit * after) for s in split.segments] * before
        assert axes is not None
        if any(a in used for a in axes):
            return None
        used += axes
        dims.append(Split(axes, tuple(segments)).normalized(mesh))
    return Sharding(tuple(dims))


def _factor_split(piece: Piece, segments: tuple[Segment, ...], axes: tuple[str, ...], rule: Rule, mesh: Mesh) -> tuple[str, Split] | None:
    """Which factor of a merged dimension these segments split, and how."""
    workers = mesh.axis_size(*axes)
    for at, factor in enumerate(piece):
        before, after = _product(piece[:at], rule), _product(piece[at + 1 :], rule)
        size = rule.sizes[factor]
        if before is None or after is None or size is None or (size == 1 and len(piece) > 1) or len(segments) % before:
            continue
        period = segments[: len(segments) // before]
        if period * before != segments:
            continue
        inner: list[Segment] = []
        for s in period:
            unit = s.unit if s.unit > 1 else (s.size // workers if s.size % workers == 0 else 1)
            if s.size % after or unit % after:
                break
            inner.append(Segment(s.size // after, s.unit // after if s.unit > 1 else 1))
        else:
            return factor, Split(axes, tuple(inner)).normalized(mesh)
    return None


def _product(piece: Piece, rule: Rule) -> int | None:
    total = 1
    for f in piece:
        size = rule.sizes[f]
        if size is None:
            return None
        total *= size
    return total


def _summable(rule: Rule, factor: str) -> bool:
    """Whether padding along a reduced factor can be filled so that it changes nothing: with zeros, or with what is neutral."""
    if rule.neutral:
        return True
    holds = [any(factor in piece for dim in spec for piece in dim) for spec in rule.inputs]
    return rule.reduce == "sum" and (rule.zero == "any" or (rule.zero == "all" and all(holds)))
