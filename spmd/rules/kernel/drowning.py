"""Where a maximum or minimum may be compared in any order, for all that NaN does: as in a softmax, where one NaN drowns its row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import tvm
import tvm_ffi
from tvm import tirx

from spmd.ir.expressions import intrinsic

from .model import REDUCE, Block, Store

_STRICT = ("exp", "exp2", "log", "log2", "sqrt", "tanh", "sigmoid")
_ONE, _ALL = 1, 2


@dataclass(frozen=True)
class _Known:
    """What is known of a value in rows that have a NaN among what is compared."""

    reads: bool = False
    """Whether it hangs on the extreme."""
    nan: int = 0
    """1 where it is NaN wherever the element compared is, 2 where it is NaN all over the row."""


def drowns(extreme: Store, block: Block, blocks: Sequence[Block], iters: Mapping[Any, tuple[str, ...]], written: Sequence[Any]) -> bool:
    """Whether results that hang on `extreme`, stored in `block`, are NaN in every row with a NaN among what is compared.

    What an extreme is where there is NaN hangs on the order of comparing, which is another one on split elements.
    """
    if not isinstance(extreme.update, tvm.ir.TensorLoad) or not _plain(extreme.indices) or not _plain(extreme.update.indices):
        return False
    reduced = [iters[v.var] for v in block.realize.block.iter_vars if v.iter_type == REDUCE and v.dom.extent != 1]
    rows = [iters[i] for i in extreme.indices if iters.get(i)]
    compared = [iters[i] for i in extreme.update.indices if iters.get(i)]
    if len(reduced) != 1 or sorted(compared) != sorted([*rows, *reduced]):
        return False
    return _Rows(extreme, rows, reduced[0], iters).all_drown(blocks, written)


class _Rows:
    """A walk over the blocks, with what is known of each buffer."""

    def __init__(self, extreme: Store, rows: list[tuple[str, ...]], reduced: tuple[str, ...], iters: Mapping[Any, tuple[str, ...]]) -> None:
        self.extreme, self.rows, self.reduced, self.iters = extreme, rows, reduced, iters
        self.known: dict[Any, _Known] = {extreme.update.source: _Known(nan=_ONE)}

    def all_drown(self, blocks: Sequence[Block], written: Sequence[Any]) -> bool:
        for block in blocks:
            runs = [self.iters[v] for v in block.variables if self.iters[v]]
            if block.stores is None or len(set(runs)) < len(runs):  # two variables over one dimension: whose row it is, cannot be told
                return False
            reduced = [self.iters[v.var] for v in block.realize.block.iter_vars if v.iter_type == REDUCE]
            for store in block.stores:
                if store is self.extreme:
                    self.known[store.buffer] = _Known(reads=True)
                elif self.extreme.buffer in self.known:  # what is stored before hangs on nothing that is compared
                    self.known[store.buffer] = self._stored(store, reduced)
        found = [self.known.get(p, _Known()) for p in written]
        return all(not k.reads or k.nan == _ALL for k in found)

    def _stored(self, store: Store, reduced: list[tuple[str, ...]]) -> _Known:
        value = self._value(store.value if store.kind is None else store.update)
        before = self.known.get(store.buffer)
        where = [self.iters.get(i) for i in store.indices]
        nan = value.nan
        if not _plain(store.indices) or not all(r in where for r in self.rows) or (store.kind is None and reduced):
            nan = 0
        elif store.kind is not None:
            nan = 0 if store.kind != "sum" else _ALL if nan and self.reduced in reduced else nan
        if nan == _ONE and self.reduced not in where:
            nan = 0
        if before is not None:  # stored in several parts
            return _Known(value.reads or before.reads, min(nan, before.nan))
        return _Known(value.reads, nan)

    def _value(self, expr: Any) -> _Known:
        if isinstance(expr, tvm.ir.TensorLoad):
            return self._loaded(expr)
        if isinstance(expr, tirx.Add | tirx.Sub | tirx.Mul | tirx.Div):
            a, b = self._value(expr.a), self._value(expr.b)
            return _Known(a.reads or b.reads, max(a.nan, b.nan) if "float" in str(expr.ty.dtype) else 0)
        if isinstance(expr, tirx.Cast):
            value = self._value(expr.value)
            return value if "float" in str(expr.ty.dtype) else _Known(value.reads)
        if intrinsic(expr) in _STRICT:
            return self._value(expr.args[0])
        return _Known(self._reads(expr))

    def _loaded(self, load: Any) -> _Known:
        known = self.known.get(load.source, _Known())
        where = [self.iters.get(i) for i in load.indices]
        if any(map(self._reads, load.indices)) or not _plain(load.indices):
            return _Known(known.reads or any(map(self._reads, load.indices)))
        needed = self.rows if known.nan == _ALL else [*self.rows, self.reduced]
        return known if all(n in where for n in needed) else _Known(known.reads)

    def _reads(self, expr: Any) -> bool:
        """Whether anything in an expression hangs on the extreme."""
        found = False

        def see(load: Any) -> None:
            nonlocal found
            found = found or self.known.get(load.source, _Known()).reads

        tvm_ffi.structural_walk(expr, [((tvm.ir.TensorLoad,), see)])
        return found


def _plain(indices: Sequence[Any]) -> bool:
    return all(isinstance(i, tvm.ir.Var | tirx.IntImm) for i in indices)
