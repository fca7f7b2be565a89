"""Collectives in memory that the processes of one host share: TIR in which each writes its pieces, meets the others and reads theirs.

What is moved goes through a window, in chunks that a cache holds. Each process counts its meetings where the others see it, by two for each
chunk, and waits until all have counted as far: it looks for a while, then sleeps until it is woken. It writes to two places in turn:
who has come to a chunk has read all of the last but one. Sums are in the order of the workers, so that all get the same bits.

Beside its count each writes what it came to. Where that is not the same for all, all see it when they have met, before anything is read.
"""

from __future__ import annotations

import mmap
import platform
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import reduce
from itertools import pairwise

import numpy as np
from tvm.tirx.script import builder as T

from spmd.collectives.slots import Slot
from spmd.placement.layout import Array

from .table import reduced_as
from .tir import Brought, Expr, Moved, add, at, memory

_LINE = 64  # bytes that two processes do not write to at once: a process's meetings, whether it sleeps, what it came to in each place
_SITE, _COUNT, _MARK, _SAID = 0, 1, 2, 3  # what it came to, and how many numbers that is
_PLACE = 1 << 18  # bytes
_AT_ONCE = 1 << 13  # bytes up to which each adds up all, and meets the others once
_LOOKS, _FEW = 4000, 20  # looks, of 20 ns or more, before it sleeps: where each has a processor of its own, and else
_FUTEX, _WAIT, _WAKE, _ALL = 202, 0, 1, 1 << 30  # the system call, as Linux on x86-64 has it
_SLEEP = 50_000_000  # ns
POSSIBLE = platform.machine() == "x86_64"
"""Whether other processors see what is written in its order, without more than is written here."""


def size_of(workers: int) -> int:
    """The bytes of a window of so many processes."""
    return workers * (_LINE + 2 * _PLACE)


@dataclass(frozen=True)
class Window:
    """Memory, at `address`, of `workers` processes of which this one is number `me`. `alone`: whether each has a processor."""

    memory: mmap.mmap
    address: int
    workers: int
    me: int
    alone: bool
    own: Array = field(default_factory=lambda: np.array([0, 0, 0, _SLEEP, 0, 0, 0, 0], np.int64))
    """How often this process has looked for another; from the third on, how long it sleeps at most, as C has it."""

    def place(self, worker: int) -> int:
        """The address of the two places that a worker writes to."""
        return self.address + self.workers * _LINE + worker * 2 * _PLACE

    @property
    def disagreed(self) -> str:
        """The global function that carriers call, with the number of the place, when the workers came to different collectives."""
        return f"spmd.disagreed.{self.address}"

    def brought(self, place: int) -> list[tuple[int, int]]:
        """What each worker came to with this place, by its site and the elements that it brought."""
        lines = np.frombuffer(self.memory, np.int64, self.workers * _LINE // 8).reshape(self.workers, -1)[:, 2 + place * _SAID :]
        return [(int(line[_SITE]), int(line[_COUNT])) for line in lines]


class Shared:
    """Writes the TIR of a slot that is carried in a window."""

    def __init__(self, slot: Slot, window: Window) -> None:
        self._slot, self._window = slot, window
        self._me, self._n = window.me, window.workers

    def __call__(self, moved: Sequence[Moved], brought: Brought) -> None:
        """Write what moves these tensors, one after the other."""
        self._brought = brought
        for one in moved:
            getattr(self, f"_{self._slot.operation}")(one)

    def _all_reduce(self, one: Moved) -> None:
        with T.If(one.bytes(one.count) <= T.int64(_AT_ONCE)):
            with T.Then():
                self._all_reduce_at_once(one)
            with T.Else():
                self._all_reduce_by_parts(one)

    def _all_reduce_at_once(self, one: Moved) -> None:
        turn = self._turn()
        _copied(self._place(self._me, turn), one.source, one.bytes(one.count))
        self._meet(2, turn)
        self._reduced(one, one.target, [self._place(q, turn) if q != self._me else one.source for q in range(self._n)], one.count)

    def _all_reduce_by_parts(self, one: Moved) -> None:
        """Each adds up a part for all: the place that it has for its own part is where the others find that."""
        with self._chunks(one, one.count, 1) as (first, many, turn):
            part = T.bind(T.ceildiv(T.ceildiv(many, T.int64(self._n)) * T.int64(one.size), T.int64(_LINE)) * T.int64(_LINE // one.size))
            begins = [T.bind(T.min(many, part * T.int64(q))) for q in range(self._n + 1)]
            lengths = [T.bind(end - begin) for begin, end in pairwise(begins)]
            for q in self._others():
                _copied(self._place(self._me, turn, begins[q], one), one.read(first + begins[q]), one.bytes(lengths[q]))
            self._meet(1, turn)
            mine, result = begins[self._me], T.bind(one.written(first + begins[self._me]))
            terms = [self._place(q, turn, mine, one) if q != self._me else one.read(first + mine) for q in range(self._n)]
            self._reduced(one, result, terms, lengths[self._me])
            _copied(self._place(self._me, turn, mine, one), result, one.bytes(lengths[self._me]))
            self._meet(1)
            for q in self._others():
                _copied(one.written(first + begins[q]), self._place(q, turn, begins[q], one), one.bytes(lengths[q]))

    def _reduce_scatter(self, one: Moved) -> None:
        part = T.bind(T.floordiv(one.count, T.int64(self._n)))
        with self._chunks(one, part, self._n) as (first, many, turn):
            self._sent_to_each(one, part, first, many, turn)
            self._meet(2, turn)
            own = one.read(part * T.int64(self._me) + first)
            terms = [self._place(q, turn, self._slice(self._me, one), one) if q != self._me else own for q in range(self._n)]
            self._reduced(one, one.written(first), terms, many)

    def _all_to_all(self, one: Moved) -> None:
        part = T.bind(T.floordiv(one.count, T.int64(self._n)))
        with self._chunks(one, part, self._n) as (first, many, turn):
            self._sent_to_each(one, part, first, many, turn)
            own = part * T.int64(self._me) + first
            _copied(one.written(own), one.read(own), one.bytes(many))
            self._meet(2, turn)
            for q in self._others():
                place = self._place(q, turn, self._slice(self._me, one), one)
                _copied(one.written(part * T.int64(q) + first), place, one.bytes(many))

    def _all_gather(self, one: Moved) -> None:
        with self._chunks(one, one.count, 1) as (first, many, turn):
            bytes_ = T.bind(one.bytes(many))
            _copied(self._place(self._me, turn), one.read(first), bytes_)
            _copied(one.written(one.count * T.int64(self._me) + first), one.read(first), bytes_)
            self._meet(2, turn)
            for q in self._others():
                _copied(one.written(one.count * T.int64(q) + first), self._place(q, turn), bytes_)

    def _broadcast(self, one: Moved) -> None:
        self._from(one, self._slot.root, self._me == self._slot.root)

    def _permute(self, one: Moved) -> None:
        sources = dict(zip(self._slot.pairs[1::2], self._slot.pairs[0::2], strict=True))
        self._from(one, sources.get(self._me, -1), self._me in self._slot.pairs[0::2])

    def _from(self, one: Moved, source: int, sends: bool) -> None:
        """Take what `source` sends; nobody, where it is negative, sends zeros."""
        with self._chunks(one, one.count, 1) as (first, many, turn):
            bytes_ = T.bind(one.bytes(many))
            if sends:
                _copied(self._place(self._me, turn), one.read(first), bytes_)
            self._meet(2, turn)
            if source < 0:
                T.evaluate(T.call_extern("handle", "memset", one.written(first), T.int32(0), T.cast(bytes_, "uint64")))
            else:
                _copied(one.written(first), one.read(first) if source == self._me else self._place(source, turn), bytes_)

    def _sent_to_each(self, one: Moved, part: Expr, first: Expr, many: Expr, turn: Expr) -> None:
        for q in self._others():
            place = self._place(self._me, turn, self._slice(q, one), one)
            _copied(place, one.read(part * T.int64(q) + first), one.bytes(many))

    def _others(self) -> list[int]:
        """Whom to read from, nearest first: not all the same one at once."""
        return [(self._me + i) % self._n for i in range(1, self._n)]

    def _slice(self, worker: int, one: Moved) -> Expr:
        """Where a place has what is for a worker, in elements."""
        return T.int64(worker * self._most(one, self._n))

    def _most(self, one: Moved, ways: int) -> int:
        """Elements of which a place holds so many times as many."""
        return max(_LINE, _PLACE // ways // _LINE * _LINE) // one.size

    @contextmanager
    def _chunks(self, one: Moved, count: Expr, ways: int) -> Generator[tuple[Expr, Expr, Expr]]:
        """The chunks of `count` elements, of which a place holds so many: the first element, their number, and which place."""
        most = T.int64(self._most(one, ways))
        with T.serial(T.int64(0), T.ceildiv(count, most)) as chunk:
            first = T.bind(chunk * most)
            yield first, T.bind(T.min(most, count - first)), self._turn()

    def _turn(self) -> Expr:
        """Which of the two places of each this chunk goes to."""
        return T.bind(T.bitwise_and(T.shift_right(self._met()[self._line(self._me)], T.int64(1)), T.int64(1)))

    def _place(self, worker: int, turn: Expr, element: Expr = None, one: Moved | None = None) -> Expr:
        """An address in the place of a worker: its beginning, or that of an element."""
        place = turn * T.int64(_PLACE)
        offset = place if one is None else place + one.bytes(element)
        return T.handle_add_byte_offset(at(self._window.place(worker)), offset)

    def _met(self) -> Expr:
        """The meetings that each has counted."""
        return memory(at(self._window.address), self._n * _LINE // 8)

    def _line(self, worker: int) -> Expr:
        return T.int64(worker * _LINE // 8)

    def _said(self, worker: int, turn: Expr, field: int) -> Expr:
        return self._line(worker) + turn * T.int64(_SAID) + T.int64(2 + field)

    def _count(self, met: Expr, more: int) -> None:
        """Count on, and wake those that sleep."""
        _fence("sfence", "sse")
        add(met, self._me * _LINE // 8, more)
        _fence("mfence")  # who counts, then looks who sleeps, meets who says that it sleeps, then looks at the count
        for q in self._others():
            with T.If(met[self._line(q) + T.int64(1)] != T.int64(0)), T.Then():
                self._futex(self._me, _WAKE, T.int64(_ALL))

    def _meet(self, counted: int, turn: Expr | None = None) -> None:
        """Count on, and wait until all have counted as far; in the first meeting of a turn, fail unless all came to the same."""
        met, own = self._met(), memory(at(self._window.own.ctypes.data), _LINE // 8)
        if turn is not None:  # said just before it counts: the others look at this line all the time, and each time take it away
            for said, number in ((_SITE, self._brought.site), (_COUNT, self._brought.count), (_MARK, T.cast(self._brought.mark, "int64"))):
                T.buffer_store(met, number, [self._said(self._me, turn, said)])
        self._count(met, counted)
        mine = T.bind(met[self._line(self._me)])
        for q in self._others():
            T.buffer_store(own, T.int64(0), [T.int64(0)])
            with T.While(met[self._line(q)] < mine):
                add(own, 0)
                with T.If(own[T.int64(0)] < T.int64(_LOOKS if self._window.alone else _FEW)):
                    with T.Then():
                        T.evaluate(T.call_llvm_intrin("void", "llvm.x86.sse2.pause"))
                    with T.Else():
                        self._sleep(met, q, mine)
        _fence("sfence", "sse")
        if turn is not None:
            marks = [met[self._said(q, turn, _MARK)] for q in (self._me, *self._others())]
            with T.If(reduce(T.Or, (mark != marks[0] for mark in marks[1:]))), T.Then():
                if counted < 2:
                    self._count(met, 2 - counted)  # others may meet once for a chunk, and all have to end it
                T.evaluate(T.call_packed(self._window.disagreed, turn))

    def _sleep(self, met: Expr, other: int, mine: Expr) -> None:
        """Until another counts, or for a while; who looked and saw nobody asleep has counted before this looks again."""
        asleep = self._line(self._me) + T.int64(1)
        T.buffer_store(met, T.int64(1), [asleep])
        _fence("mfence")
        seen = T.bind(met[self._line(other)])
        with T.If(seen < mine), T.Then():
            self._futex(other, _WAIT, T.bitwise_and(seen, T.int64(0xFFFFFFFF)))
        T.buffer_store(met, T.int64(0), [asleep])

    def _futex(self, worker: int, operation: int, value: Expr) -> None:
        """Sleep at the count of a worker while it is `value`, or wake who sleeps there."""
        where = at(self._window.address + worker * _LINE)
        longest = at(self._window.own.ctypes.data + 16)
        T.evaluate(T.call_extern("int64", "syscall", T.int64(_FUTEX), where, T.int64(operation), value, longest, T.int64(0), T.int64(0)))

    def _reduced(self, one: Moved, target: Expr, terms: Sequence[Expr], count: Expr) -> None:
        """Writes the reduction of `count` elements at some addresses, by 64 bytes and what is left of them."""
        kind, dtype = reduced_as(self._slot, one.dtype)
        result, *given = (memory(T.bind(where), 1 << 30, dtype) for where in (target, *terms))
        lanes = _LINE // one.size

        def write(index: Expr) -> None:
            total = given[0][index]
            for term in given[1:]:
                total = _COMBINED[kind](total, term[index])
            T.buffer_store(result, total, [index])

        whole = T.bind(T.floordiv(count, T.int64(lanes)))
        with T.serial(T.int64(0), whole) as line, T.vectorized(T.int64(0), T.int64(lanes)) as lane:
            write(line * T.int64(lanes) + lane)
        with T.serial(whole * T.int64(lanes), count) as index:
            write(index)


_COMBINED = {"sum": lambda a, b: a + b, "prod": lambda a, b: a * b, "max": T.max, "min": T.min}


def _copied(target: Expr, source: Expr, many: Expr) -> None:
    T.evaluate(T.call_extern("handle", "memcpy", target, source, T.cast(many, "uint64")))


def _fence(name: str, of: str = "sse2") -> None:
    """The compiler moves nothing over it; nor does the processor move writes over sfence, or anything over mfence."""
    T.evaluate(T.call_llvm_intrin("void", f"llvm.x86.{of}.{name}"))
