"""Symbolic sizes that can be divided: as the user says, ``divisible={"n": 8}``, or as ``n * 8`` says of itself.

Such a size counts as that many blocks, of a length that nobody knows. A rule whose factor has no size but such a dimension is told the
number of blocks, and all else follows: blocks are dealt out to workers as elements are, in one piece and evenly, or as a pattern that is
repeated (`Split`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import tvm
import tvm_ffi
from tvm import tirx

from spmd.placement.length import Length
from spmd.rules.extents import extent_of, length_of
from spmd.rules.model import Rule

Divisible = Mapping[str, int]


def divisor(dim: Any, divisible: Divisible) -> int:
    """A number that divides a size, given what divides the variables in it."""
    if isinstance(dim, int):
        return dim
    if isinstance(dim, tirx.IntImm):
        return int(dim.value)
    if isinstance(dim, tvm.ir.Var):
        return divisible.get(dim.name, 1)
    if isinstance(dim, tirx.Cast):
        return divisor(dim.value, divisible)
    if isinstance(dim, tirx.Mul):
        return divisor(dim.a, divisible) * divisor(dim.b, divisible)
    if isinstance(dim, tirx.Add | tirx.Sub):
        return math.gcd(divisor(dim.a, divisible), divisor(dim.b, divisible))
    if isinstance(dim, tirx.FloorDiv) and isinstance(dim.b, tirx.IntImm):
        whole, by = divisor(dim.a, divisible), int(dim.b.value)
        return whole // by if by > 0 and whole % by == 0 else 1
    return 1


def in_blocks(rule: Rule, shapes: Sequence[Sequence[Any]], divisible: Divisible) -> Rule:
    """`rule` with the number of blocks of each factor without a size; `shapes` are the dims of its inputs, then of its outputs.

    What an operator does on such a factor must not hang on its size: those that have a form, or whose size the arguments or attributes
    of the local call hang on, stay as they are. The others may be split in units too, where all dimensions are written alike.
    """
    if rule.kernels is not None or None not in rule.sizes.values():
        return rule
    blocks: dict[str, int] = {}
    written: dict[str, list[Any]] = {}
    for spec, dims in zip((*rule.inputs, *rule.outputs), shapes, strict=True):
        for dim, size in zip(spec, dims, strict=False):
            if len(dim) == 1 and len(dim[0]) == 1 and rule.sizes[dim[0][0]] is None:
                found = divisor(size, divisible)
                blocks[dim[0][0]] = math.gcd(blocks.get(dim[0][0], found), found)
                written.setdefault(dim[0][0], []).append(size)
    asked = {*rule.forms, *rule.whole, *(_asked(rule) if written else ())}
    known = {f: n for f, n in blocks.items() if n > 1 and f not in asked}
    alike = {f: sizes[0] for f, sizes in written.items() if all(map(_alike, sizes, sizes[1:]))}
    uneven, lengths = frozenset(f for f in alike if f not in asked), _lengths(alike)
    return replace(rule, sizes={**rule.sizes, **known}, symbolic=frozenset(known), uneven=uneven, lengths=lengths)


def _alike(size: Any, other: Any) -> bool:
    """Whether two sizes are written alike."""
    return isinstance(size, tvm.ir.Expr) and isinstance(other, tvm.ir.Expr) and tvm_ffi.structural_equal(size, other)


def _lengths(written: Mapping[str, Any]) -> dict[str, Length]:
    """Those that are products of a number and variables; none where two variables have one name."""
    found = {f: extent_of((size,)) for f, size in written.items()}
    symbols = {term.name: term for _, terms in found.values() for term in terms if isinstance(term, tvm.ir.Var)}
    if any(isinstance(term, tvm.ir.Var) and not term.same_as(symbols[term.name]) for _, terms in found.values() for term in terms):
        return {}
    lengths = {f: length_of(product) for f, product in found.items()}
    return {f: length for f, length in lengths.items() if length is not None}


def _asked(rule: Rule) -> set[str]:
    """The factors whose local sizes the arguments or attributes of the local call hang on."""
    asked = {f for factors in rule.scalar_args.values() for f in factors.split()}

    def size(factor: str) -> int:
        asked.add(factor)
        return rule.sizes[factor] or 1

    for local in (rule.local_attrs, rule.local_args):
        if local is not None:
            local(size)
    return asked
