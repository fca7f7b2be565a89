"""Recognizing a matrix product in a block, whatever the order of its operands and however many batch iterators."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tvm import s_tir, tirx
from tvm.ir import TensorLoad, TensorRegion

from .analysis import is_unit, region_variables, variables


@dataclass
class MatrixProduct:
    """C[batch, m, n] += A[batch, m, k] * B[batch, n, k], or B[batch, k, n]; iterators of the block, outermost first."""

    m: tirx.Var
    n: tirx.Var
    k: list[tirx.Var]
    outer: list[tirx.Var]  # batch iterators that index the right operand
    inner: list[tirx.Var]  # batch iterators that only the left operand has
    right: int  # which read is the right operand
    transposed: bool  # whether k, not n, is contiguous in it
    bytes: int  # of one element of the right operand


def recognize(block: s_tir.SBlock) -> MatrixProduct | None:
    """The product that a reduction block computes, or None if it is none, or has one row or one column only."""
    right = right_read(block)
    if right is None:
        return None
    written, big = _written(block)
    used = region_variables(block.reads[right])
    last = next(v for v in reversed(written) if v in big)
    m = next((v for v in reversed(written) if v in big and v not in used), None)
    if m is None:
        return None
    spatial = [it.var for it in block.iter_vars if it.iter_type == tirx.IterVar.DataPar]
    rest = [v for v in spatial if not v.same_as(m) and not v.same_as(last)]
    return MatrixProduct(
        m=m,
        n=last,
        k=[it.var for it in block.iter_vars if it.iter_type == tirx.IterVar.CommReduce],
        outer=[v for v in rest if v in used],
        inner=[v for v in rest if v not in used],
        right=right,
        transposed=last not in variables(block.reads[right].region[-1].min),
        bytes=max(1, block.reads[right].source.dtype.bits // 8),
    )


def right_read(block: s_tir.SBlock) -> int | None:
    """Which read of a block `c[.., m, n] += a[.., m, k] * b[.., n, k]` is b, None for any other block."""
    k = {it.var for it in block.iter_vars if it.iter_type == tirx.IterVar.CommReduce}
    reads = list(block.reads)
    if len(reads) != 2 or len(block.writes) != 1 or not k or not _multiplies(block):
        return None
    if not all(_is_point(region) for region in [*reads, *block.writes]):
        return None
    used = [region_variables(region) for region in reads]
    written, big = _written(block)
    last = next((v for v in reversed(written) if v in big), None)
    sides = [i for i in (0, 1) if last in used[i] and last not in used[1 - i]]
    deep = {v for v in k if v in big}
    return sides[0] if len(sides) == 1 and all(deep <= u for u in used) else None


def _written(block: s_tir.SBlock) -> tuple[list[tirx.Var], set[tirx.Var]]:
    """The iterators that index the output, in order, and those that are not known to be 1."""
    own = [it.var for it in block.iter_vars]
    order = [v for bound in block.writes[0].region for v in own if v in variables(bound.min)]
    return order, {it.var for it in block.iter_vars if not is_unit(it.dom.extent)}


def _multiplies(block: s_tir.SBlock) -> bool:
    """Whether the body is `c = c + a * b`, with or without casts."""
    value: Any = block.body.value if isinstance(block.body, tirx.BufferStore) else None
    if not isinstance(value, tirx.Add) or not isinstance(value.a, TensorLoad):
        return False
    product: Any = value.b
    factors = [product.a, product.b] if isinstance(product, tirx.Mul) else []
    bare = [f.value if isinstance(f, tirx.Cast) else f for f in factors]
    return len(bare) == 2 and all(isinstance(f, TensorLoad) for f in bare)


def _is_point(region: TensorRegion) -> bool:
    return all(is_unit(bound.extent) for bound in region.region)


def is_move(block: s_tir.SBlock) -> bool:
    """Whether a block only copies: a transpose, a reshape, a broadcast."""
    return isinstance(block.body, tirx.BufferStore) and isinstance(block.body.value, TensorLoad)
