"""Collectives as calls of a C library, in TIR."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tvm.tirx.script import builder as T

from spmd.collectives.slots import Slot

from .table import Function, Table
from .tir import Brought, Expr, Moved, demand


class Calls:
    """Writes the calls of a slot. `constants` are, for each of its tensors, the arguments that no call changes; what calls need besides
    goes by the words of `Function`.
    """

    def __init__(self, slot: Slot, table: Table, constants: Sequence[Mapping[str, Expr]]) -> None:
        self._slot, self._table, self._constants = slot, table, constants

    def __call__(self, moved: Sequence[Moved], brought: Brought) -> None:
        """Write what moves these tensors, one after the other, or together where the library has groups of calls; it compares nothing."""
        functions = self._table.functions[self._slot.operation]
        calls = [[f for f in functions if not f.when or f.when in words] for words in self._constants]
        together = self._table.group if any(f.each for f in calls[0]) or sum(map(len, calls)) > 1 else ()
        for function in together[:1]:
            self._call(function, {})
        for chosen, words, one in zip(calls, self._constants, moved, strict=True):
            for function in chosen:
                self._called(function, {**words, "source": one.source, "target": one.target}, one)
        for function in together[1:]:
            self._call(function, {})

    def _called(self, function: Function, words: Mapping[str, Expr], one: Moved) -> None:
        """The call of a function for all of a tensor, or one for each piece or each worker."""
        workers, most = T.int64(self._slot.workers), T.int64(self._table.most)

        def call(many: Expr, first: Expr | None = None, **more: Expr) -> None:
            begins = {} if first is None else {"source": one.read(first), "target": one.written(first)}
            part, count = T.floordiv(many, workers), self._table.count
            counts = {"count": T.cast(many, count), "part": T.cast(part, count), "bytes": T.cast(one.bytes(many), "uint64")}
            self._call(function, {**words, **begins, **counts, **more})

        if not function.pieces and {"count", "part"} & set(function.words):
            what = f"{self._slot.operation} over axis {self._slot.axis!r}"
            demand(one.count <= most, f"{what} of more elements than {self._table.name} moves at once")
        if function.pieces:
            with T.serial(T.int64(0), T.ceildiv(one.count, most)) as piece:
                first = T.bind(piece * most)
                call(T.bind(T.min(most, one.count - first)), first)
        elif function.each:
            with T.serial(T.int64(0), workers) as peer:
                call(one.count, T.bind(peer * T.floordiv(one.count, workers)), peer=T.cast(peer, "int32"))
        else:
            call(one.count)

    def _call(self, function: Function, words: Mapping[str, Expr]) -> None:
        called = T.call_extern(function.gives, function.symbol, *(words[word] for word in function.words))
        if function.gives == "int32":
            what = f"{self._slot.operation} over axis {self._slot.axis!r}"
            demand(T.bind(called) == T.int32(0), f"{function.symbol} failed in {what}")
        else:
            T.evaluate(called)
