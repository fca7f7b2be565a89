"""From a split of a rule's factors to the shardings of its tensors, and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, groupby

from spmd.placement.axes import Part, merged, overlap
from spmd.placement.mesh import Mesh
from spmd.placement.sharding import Segment, Sharding, Split

from .factors import factor_splits, fits, piece_split, unit_of
from .model import Rule, Spec

Terms = Mapping[str, tuple[int, ...]]
"""Mesh axis -> the inputs, in all of which together the operator is linear, that are partial sums over it."""


@dataclass(frozen=True)
class Strategy:
    """One way to run an operator in parallel: how its factors are split, and the sharding that this means for each tensor."""

    splits: tuple[tuple[str, Split], ...]
    inputs: tuple[Sharding, ...]
    outputs: tuple[Sharding, ...]
    partial_through: tuple[int, ...] = ()
    """The inputs taken as partial sums, where the operator is linear in them."""

    def __str__(self) -> str:
        through = ["partial sums in, partial sum out"] if self.partial_through else []
        return ", ".join(through + [f"{f} over {s}" for f, s in self.splits]) or "replicate"


def strategy_of(rule: Rule, splits: Mapping[str, Split], mesh: Mesh, terms: Terms | None = None) -> Strategy | None:
    """The `Strategy` that splits these factors and lets these partial sums through, or None where some tensor cannot be held that way."""
    terms = terms or {}
    if any(f in rule.whole or not fits(rule, f, split, mesh) for f, split in splits.items()) or not _apart(rule, splits, terms, mesh):
        return None
    kinds = _kinds(rule, splits, terms, mesh)
    formed = next((f for f in splits if f in rule.forms), None)
    if kinds is None or (formed is not None and not _beside_form(rule, formed, splits)):
        return None
    sums = [_partial({axis: "sum" for axis, given in terms.items() if i in given}, mesh) for i in range(len(rule.inputs))]
    inputs = _shardings(rule.inputs, sums, rule, splits, mesh)
    outputs = _shardings(rule.outputs, [_partial(kinds, mesh)] * len(rule.outputs), rule, splits, mesh)
    if inputs is None or outputs is None:
        return None
    through = tuple(sorted({i for given in terms.values() for i in given}))
    return Strategy(tuple(sorted(splits.items())), inputs, outputs, through)


def _kinds(rule: Rule, splits: Mapping[str, Split], terms: Terms, mesh: Mesh) -> dict[str, str] | None:
    """Mesh axis -> how what an operator makes is to be reduced over it; None where a factor cannot be split so."""
    kinds: dict[str, str] = dict.fromkeys(terms, "sum")
    for f, split in splits.items():
        form = rule.forms.get(f)
        if form is not None:
            if terms or (form.ordered and len(split.segments) > 1) or (not form.padded and split.is_padded(mesh)):
                return None
            kind = form.partial
        elif f in rule.reduced:
            if rule.reduce is None or (terms and rule.reduce != "sum") or (split.is_padded(mesh) and not _summable(rule, f)):
                return None
            kind = rule.reduce
        else:
            continue
        if kind is not None:
            kinds.update(dict.fromkeys(split.axes, kind))
    return kinds


def _shardings(
    specs: Sequence[Spec], partial: Sequence[tuple[tuple[str, str], ...]], rule: Rule, splits: Mapping[str, Split], mesh: Mesh
) -> tuple[Sharding, ...] | None:
    """Those of the tensors of these specs, each partial as said; None where one of them cannot be split so."""
    found: list[Sharding] = []
    for spec, reduced in zip(specs, partial, strict=True):
        dims = _place(spec, rule, splits, mesh)
        if dims is None:
            return None
        found.append(Sharding(dims, reduced))
    return tuple(found)


def partial_strategy(rule: Rule, inputs: tuple[int, ...], axes: tuple[str, ...], mesh: Mesh) -> Strategy:
    """Partial sums in at the linear `inputs`, a partial sum out, all else replicated."""
    found = strategy_of(rule, {}, mesh, dict.fromkeys(axes, inputs))
    assert found is not None
    return found


def replicate(rule: Rule) -> Strategy:
    """Every tensor whole on every worker."""
    return Strategy((), tuple(Sharding.replicated(len(s)) for s in rule.inputs), tuple(Sharding.replicated(len(s)) for s in rule.outputs))


def splits_from(spec: Spec, sharding: Sharding, rule: Rule, mesh: Mesh) -> dict[str, Split] | None:
    """The factor splits that put a tensor of `spec` into `sharding`, or None where no factor split does."""
    found: dict[str, Split] = {}
    for dim, split in zip(spec, sharding.dims, strict=True):
        if split is None:
            continue
        if not split.is_known and len(dim) > 1:
            return None
        segments = list(split.segments)
        for piece in dim:
            taken: list[Segment] = []
            held, total = 0, rule.blocks(piece) if split.is_known or split.symbolic else split.size
            while segments and held < total:
                taken.append(segments.pop(0))
                held += taken[-1].size
            if held != total or (split.is_known and rule.is_unknown(piece)):
                return None
            factors = factor_splits(piece, split.over(split.axes, tuple(taken)), rule, mesh)
            if factors is None or any(found.setdefault(f, s) != s for f, s in factors.items()):
                return None
    return found


def complete(rule: Rule, splits: Mapping[str, Split], mesh: Mesh) -> dict[str, Split]:
    """`splits`, with the factors that can only be split jointly with them split too: alike where they are equally long, else evenly."""
    full = dict(splits)
    for group in rule.joint():
        given = [splits[f] for f in group if f in splits]
        for f in group:
            size = rule.sizes[f]
            if given and f not in full and size is not None:
                alike = next((s for s in given if s.size == size), None) if f not in rule.forms else None
                full[f] = alike or Split(given[0].axes, (Segment(size),)).normalized(mesh)
    return full


def in_larger_units(spec: Spec, sharding: Sharding, rule: Rule, mesh: Mesh) -> Sharding | None:
    """The sharding in whole units of the factors of `spec` too, where its own units cut them: heads of 80 in groups of 32 go by 160."""
    if sharding.partial or not any(s.unit > 1 for d in sharding.dims if d for s in d.segments):
        return None
    dims: list[Split | None] = []
    for dim, split in zip(spec, sharding.dims, strict=True):
        if split is None:
            dims.append(None)
            continue
        totals = [rule.blocks(piece) for piece in dim]
        if not split.is_known or [s.size for s in split.segments] != totals:
            return None
        units = [unit_of(piece, segment, rule) for piece, segment in zip(dim, split.segments, strict=True)]
        dims.append(Split(split.axes, tuple(Segment(s.size, unit) for s, unit in zip(split.segments, units, strict=True))).normalized(mesh))
    found = Sharding(tuple(dims))
    return found if found != sharding else None


def _partial(kinds: Mapping[str, str], mesh: Mesh) -> tuple[tuple[str, str], ...]:
    """The kinds of partial by axis, in the order of the mesh, parts that continue one another as one."""
    if all(axis in mesh.axes for axis in kinds):
        return tuple((axis, kinds[axis]) for axis in mesh.axes if axis in kinds)
    order = list(mesh.axes)
    parts = sorted(
        ((part, kind) for axis, kind in kinds.items() for part in mesh.parts(axis)), key=lambda p: (order.index(p[0].base), p[0].before)
    )
    return tuple((axis, kind) for kind, same in groupby(parts, key=lambda p: p[1]) for axis in merged([p for p, _ in same], mesh.axes))


def _apart(rule: Rule, splits: Mapping[str, Split], terms: Terms, mesh: Mesh) -> bool:
    """Whether each mesh axis does one thing: only factors that are split together share one."""
    if len(splits) + len(terms) <= 1:
        return True
    groups = {f: number for number, group in enumerate(rule.joint()) for f in group}
    used = [(mesh.parts(*split.axes), groups[f]) for f, split in splits.items()]
    used += [(mesh.parts(axis), -1 - number) for number, axis in enumerate(terms)]
    return not any(a != b and overlap(p, q) for (ps, a), (qs, b) in combinations(used, 2) for p in ps for q in qs)


def _beside_form(rule: Rule, formed: str, splits: Mapping[str, Split]) -> bool:
    """Whether what is split beside a form's factor is only repeated by it: dimensions of all results, none with a form of its own."""
    own = (formed, *rule.forms[formed].together)
    others = [f for f in splits if f not in own]
    held = [{f for dim in spec for piece in dim for f in piece} for spec in rule.outputs]
    pieces = [piece for spec in (*rule.inputs, *rule.outputs) for dim in spec for piece in dim]
    merged = any(f in piece and g in piece for piece in pieces for f in own for g in others)
    apart = {f for f in others if f in rule.forms and not (rule.forms[f].beside and rule.forms[formed].beside)}
    return not merged and not apart and all(f in factors for f in others for factors in held)


def _place(spec: Spec, rule: Rule, splits: Mapping[str, Split], mesh: Mesh) -> tuple[Split | None, ...] | None:
    dims: list[Split | None] = []
    used: list[Part] = []
    for dim in spec:
        if not any(f in splits for piece in dim for f in piece):
            dims.append(None)
            continue
        segments: list[Segment] = []
        axes: tuple[str, ...] | None = None
        placed: Split | None = None
        for piece in dim:
            split = piece_split(piece, rule, splits, mesh)
            if split is None or axes not in (None, split.axes):
                return None
            axes, placed = split.axes, split
            segments += split.segments
        assert axes is not None and placed is not None
        if len(dim) > 1 and not placed.is_known:
            return None
        parts = mesh.parts(*axes)
        if any(overlap(part, other) for part in parts for other in used):
            return None
        used += parts
        dims.append(placed.over(mesh.canonical(axes), tuple(segments)).normalized(mesh))
    return tuple(dims)


def _summable(rule: Rule, factor: str) -> bool:
    """Whether padding along a reduced factor can be filled so that it changes nothing: with zeros, or with what is neutral.

    Zeros in one factor of a product are not enough: another one may be infinite.
    """
    holds = [any(factor in piece for dim in spec for piece in dim) for i, spec in enumerate(rule.inputs) if i not in rule.pointers]
    return rule.neutral or (rule.reduce == "sum" and bool(rule.zero) and all(holds))
