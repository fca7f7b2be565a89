"""Arguments for a run: arbitrary numbers of the field, and integers that are good as indices."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tvm
import tvm_ffi
from tvm import relax

from .expressions import is_float, size_of, storage
from .field import PRIME, Array, of_floats, signed
from .opaque import Cache
from .undecided import Undecided
from .values import Sizes, Tensor

UNTOLD = 3
"""A symbolic size of which nothing is said; where it is divisible by something, it is twice that."""
_ORDERED = {
    *("relax.maximum", "relax.minimum", "relax.clip", "relax.where", "relax.max", "relax.min", "relax.sort", "relax.topk"),
    *("relax.abs", "relax.sign", "relax.nn.relu", "relax.nn.leakyrelu", "relax.call_tir"),
}
"""Operators that give one thing or another, as the order of what they are given says; of kernels nobody knows."""


@dataclass(frozen=True)
class Run:
    """One of several runs of a function."""

    seed: int
    turn: int = 0
    turns: int = 1


class Arguments:
    """Makes the arguments of one function: every integer is below `high`, but for those of `given`, by parameter."""

    def __init__(self, run: Run, high: int, sizes: Mapping[str, int], divisible: Mapping[str, int], given: Mapping[str, Any]) -> None:
        self.run, self.high, self.sizes, self.divisible, self.given = run, high, sizes, divisible, given
        self._symbols: dict[Any, int] = {}

    def of(self, func: Any) -> list[Any]:
        """An argument for each parameter."""
        found = [self._value(p.ty, p.name, f"{i}") for i, p in enumerate(func.params)]
        ordered = _ordered(func)
        return [_sorted(value) if p in ordered else value for p, value in zip(func.params, found, strict=True)]

    def _value(self, ty: Any, name: str, place: str) -> Any:
        if isinstance(ty, relax.TupleType):
            return tuple(self._value(inner, f"{name}[{i}]", f"{place}.{i}") for i, inner in enumerate(ty.fields))
        if isinstance(ty, relax.TensorType):
            if not isinstance(ty.shape, relax.ShapeExpr):
                raise Undecided(f"parameter {name!r}, whose shape nothing says")
            return self._tensor(tuple(map(self._size, ty.shape.values)), str(ty.dtype), name, place)
        if isinstance(ty, relax.ShapeType) and ty.values is not None:
            return Sizes(map(self._size, ty.values))
        if isinstance(ty, tvm.ir.PrimType):
            value = getattr(ty, "value", None)
            return self._size(value) if value is not None else UNTOLD
        return Cache(name)

    def named(self, names: Sequence[str]) -> Sizes:
        """The sizes of these symbols, once there are arguments that have them."""
        known = {variable.name: size for variable, size in self._symbols.items()}
        return Sizes(known[name] for name in names)

    def _size(self, size: Any) -> int:
        if isinstance(size, tvm.ir.Var) and size not in self._symbols:
            untold = 2 * self.divisible[size.name] if size.name in self.divisible else UNTOLD
            self._symbols[size] = int(self.sizes.get(size.name, untold))
        return size_of(size, self._symbols, self._size)

    def _tensor(self, shape: tuple[int, ...], dtype: str, name: str, place: str) -> Tensor:
        if name in self.given:
            array = np.asarray(self.given[name])
            return Tensor(of_floats(array, dtype) if is_float(dtype) else array.astype(storage(dtype)), dtype)
        key = hashlib.blake2b(f"{self.run.seed} {place}".encode(), digest_size=8).digest()
        dice = np.random.default_rng(int.from_bytes(key, "little"))
        if is_float(dtype):
            return Tensor(dice.integers(2, PRIME, shape), dtype)
        if dtype == "uint32":  # bits: eight numbers in a word
            return Tensor(dice.integers(0, 2**32, shape).astype("uint32"), dtype)
        if dtype == "bool":
            return Tensor(dice.integers(0, 2, shape).astype(bool), dtype)
        return Tensor(self._integers(int(np.prod(shape)), dice).reshape(shape).astype(storage(dtype)), dtype)

    def _integers(self, count: int, dice: np.random.Generator) -> Array:
        """As many different ones as there can be: two that are equal may be exchanged unseen. Few ones of many are spread evenly over all
        runs together, as those of one worker may be wrong.
        """
        if count * self.run.turns <= self.high:
            return dice.permutation((np.arange(count) * self.run.turns + self.run.turn) * self.high // (count * self.run.turns))
        dealt = np.concatenate([dice.permutation(self.high) for _ in range(-(-count // self.high) or 1)])
        return dealt[:count]


def _ordered(func: Any) -> set[Any]:
    """What must be in order, which is that of the field: the boundaries that a function looks for places among."""
    calls: list[Any] = []
    tvm_ffi.structural_walk(func.body, ((tvm.ir.Call,), calls.append))
    return {call.args[1] for call in calls if isinstance(call.op, tvm.ir.Op) and call.op.name == "relax.bucketize"}


def _sorted(x: Tensor) -> Tensor:
    order = np.argsort(signed(x.data) if is_float(x.dtype) else x.data, kind="stable")
    return Tensor(x.data[order], x.dtype)


def fewest_integers(func: Any, told: Collection[str] = ()) -> int | None:
    """The fewest that a parameter of integers has, but for parameters that are told; None where there is none. They are few, and one run
    says less of them.
    """
    counts = [n for p in func.params if p.name not in told for n, dtype in _tensors(p.ty) if not is_float(dtype)]
    return min(counts, default=None)


def fewest_decisions(func: Any) -> int | None:
    """The fewest elements of what depends on an order of floats, as the least of one and a norm: of one element a run sees one case."""
    calls, counts = list[Any](), list[int]()
    tvm_ffi.structural_walk(func.body, ((tvm.ir.Call,), calls.append))
    for call in calls:
        given = any(is_float(dtype) for arg in call.args for _, dtype in _tensors(getattr(arg, "ty", None)))
        is_ordered = isinstance(call.op, tvm.ir.Op) and call.op.name in _ORDERED
        counts += [n for n, dtype in _tensors(call.ty) if n and given and (is_ordered or not is_float(dtype))]
    return min(counts, default=None)


def _tensors(ty: Any) -> list[tuple[int, str]]:
    """Of each tensor in a type how many elements it has, as far as that is known, and of which type they are."""
    if isinstance(ty, relax.TupleType):
        return [found for inner in ty.fields for found in _tensors(inner)]
    if not isinstance(ty, relax.TensorType):
        return []
    sizes = ty.shape.values if isinstance(ty.shape, relax.ShapeExpr) else ()
    return [(math.prod(int(s) if isinstance(s, tvm.tirx.IntImm) else UNTOLD for s in sizes), str(ty.dtype))]
