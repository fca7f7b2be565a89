"""Where a function is cut into pieces: between its layers."""

from __future__ import annotations

from collections.abc import Container, Iterator
from typing import Any

import numpy as np
import tvm
import tvm_ffi
from tvm import relax

from .expressions import is_float

_PERIODS = range(4, 1025)
"""Bindings that layers may have."""
_FEWEST = 3
"""Layers that are worth a proof of their own."""
_PACKED = ("relax.call_dps_packed", "relax.call_pure_packed", "relax.call_inplace_packed")


class Side:
    """A function as data: its bindings, in order, and which values each takes."""

    def __init__(self, func: Any) -> None:
        self.func = func
        self.bindings: list[Any] = [binding for block in func.body.blocks for binding in block.bindings]
        self.places: dict[Any, int] = {binding.var: i for i, binding in enumerate(self.bindings)}
        self._params = set(func.params)
        self.takes = [self.values(binding.value) for binding in self.bindings]
        self._constant: list[bool] = []
        """Which values depend on no parameter."""
        for binding, takes in zip(self.bindings, self.takes, strict=True):
            self._constant.append(all(v in self.places and self._constant[self.places[v]] for v in takes) and not _is_packed(binding.value))

    def values(self, e: Any) -> list[Any]:
        """The parameters and bound variables in an expression, each once."""
        found: list[Any] = []
        tvm_ffi.structural_walk(e, ((relax.Var,), found.append))
        return [v for v in dict.fromkeys(found) if v in self.places or v in self._params]

    def needs(self, own: range, result: Any) -> tuple[list[int], list[Any]]:
        """For a stretch of bindings, and a result where one is given: earlier bindings that are done again in it, and the values that it is
        given. Constants are done again, and so is what is no float: an arbitrary integer would say little of the one that there is.
        """
        again, given = set[int](), dict[Any, None]()
        queue = [v for i in own for v in self.takes[i]] + (self.values(result) if result is not None else [])
        for v in queue:
            at = self.places.get(v)
            if at is None or (at < own.start and not self._is_done_again(at)):
                given[v] = None
            elif at < own.start and at not in again:
                again.add(at)
                queue += self.takes[at]
        return sorted(again), list(given)

    def _is_done_again(self, at: int) -> bool:
        binding = self.bindings[at]
        return not _is_packed(binding.value) and (self._constant[at] or not is_float_tensor(binding.var))


def is_float_tensor(var: Any) -> bool:
    """Whether a variable is a tensor of numbers of the field."""
    return isinstance(var.ty, relax.TensorType) and is_float(str(var.ty.dtype))


def is_plain(func: Any) -> bool:
    """Whether a function is one list of operators on tensors and objects, without ways to go, calls of functions, and writing in place."""
    if not isinstance(func.body, relax.SeqExpr) or any(isinstance(param.ty, relax.TupleType) for param in func.params):
        return False
    bindings = [binding for block in func.body.blocks for binding in block.bindings]
    if not all(isinstance(b, relax.VarBinding) and not isinstance(b.value, relax.If | relax.Function) for b in bindings):
        return False
    calls = [b.value for b in bindings if isinstance(b.value, tvm.ir.Call)]
    return all(isinstance(call.op, tvm.ir.Op) and "inplace" not in call.op.name for call in calls)


def cuts(one: Side, many: Side) -> list[tuple[int, int]]:
    """Where layers of a function begin, and where those of the per-worker function may: after the value of the same name."""
    known: dict[Any, int] = {}
    kinds = np.array([known.setdefault(_kind(binding), len(known)) for binding in one.bindings])
    places, names = _names(many), _names(one)
    after = {0: 0} | {i + 1: places[name] + 1 for name, i in names.items() if name in places}
    found = [(0, 0)]
    for run, period in _runs(kinds, 0, len(kinds)):
        for cut in range(_cut(one, run, period, after), run.stop + 1, period):
            if cut in after and found[-1][1] < after[cut] < len(many.bindings) and cut < len(kinds):
                found.append((cut, after[cut]))
    return found[1:]


def _names(side: Side) -> dict[tuple[str, str], int]:
    """Where an operator has given its result a name first; one more digit tells it from another value of that name."""
    found: dict[tuple[str, str], int] = {}
    for cut in (None, -1):
        for i, binding in enumerate(side.bindings):
            found.setdefault((binding.var.name[:cut], _kind(binding)[0]), i)
    return found


def _kind(binding: Any) -> tuple[str, int]:
    value = binding.value
    return str(getattr(value.op, "name", "")) if isinstance(value, tvm.ir.Call) else type(value).__name__, tvm_ffi.structural_hash(
        binding.var.ty
    )


def _runs(kinds: np.ndarray, start: int, stop: int) -> Iterator[tuple[range, int]]:
    """The longest stretch that repeats itself, with its period, and those beside it."""
    found, longest = range(0), 0
    for period in _PERIODS:
        if period * _FEWEST > stop - start:
            break
        same = kinds[start + period : stop] == kinds[start : stop - period]
        edges = np.flatnonzero(np.diff(np.concatenate([[False], same, [False]]).astype("int8")))
        lengths = edges[1::2] - edges[::2]
        if lengths.size and lengths.max() >= period * (_FEWEST - 1) and lengths.max() + period > len(found):
            first = start + int(edges[2 * int(lengths.argmax())])
            found, longest = range(first, first + int(lengths.max()) + period), period
    if found:
        yield from _runs(kinds, start, found.start)
        yield found, longest
        yield from _runs(kinds, found.stop, stop)


def _cut(one: Side, run: range, period: int, known: Container[int]) -> int:
    """Where in a run the first layer begins: of the places that are known, where the fewest values go from one layer to the next."""
    middle = run[len(run) // 2]
    crossing: dict[int, set[int]] = {cut: set() for cut in range(middle, middle + period)}
    for place in range(middle, min(middle + 2 * period, run.stop)):
        for v in one.takes[place]:
            defined = one.places.get(v, -1)
            for cut in range(max(defined + 1, middle, place - period + 1), min(place, middle + period - 1) + 1):
                crossing[cut] |= {defined} if defined >= run.start else set()

    def first(cut: int) -> int:
        return run.start + (cut - run.start) % period

    return first(min(crossing, key=lambda cut: (sum(c not in known for c in run[first(cut) - run.start :: period]), len(crossing[cut]))))


def _is_packed(value: Any) -> bool:
    return isinstance(value, tvm.ir.Call) and isinstance(value.op, tvm.ir.Op) and value.op.name in _PACKED
