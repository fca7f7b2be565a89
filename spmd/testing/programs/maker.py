"""The function that is being written, and what its operators may ask of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

import tvm
from tvm import relax

from spmd.testing.arrays import random_array

Shape = list[Any]
"""Sizes; the name of the symbol where one is symbolic."""
SIZES = [1, 2, 3, 4, 5, 6, 8, 9, 12]
SYMBOLIC = [1, 3, 4, 7, 8, 12]
"""Sizes that symbols stand for."""
BLOCKS = {4: 2, 8: 8, 12: 12}
"""What some of them are said to be divisible by."""
LARGEST = 1 << 11
"""Values with more elements are not read again."""
_LIMIT = {"float64": 1e3, "float32": 1e2, "float16": 16.0, "int32": 1e3, "int64": 1e3}
"""Magnitudes above which a value is made small before anything reads it."""
_SYMBOL = 8  # what a symbolic size counts for the number of elements


@dataclass
class Maker:
    """The function that is being written: `dtype` is that of its floats, `symbol` its symbolic size, if any."""

    dice: Random
    bb: relax.BlockBuilder
    name: str
    dtype: str
    symbol: Any = None
    weights: list[Any] | None = None
    """Parameters that other functions of the program have as weights; None where this one has no weights."""
    constants: list[Any] | None = None
    """Tensors that other functions of the program have as constants; None where this one has none."""
    helpers: list[tuple[Any, list[Any]]] = field(default_factory=list[tuple[Any, list[Any]]])
    """Private functions, with their parameters."""
    values: list[Any] = field(default_factory=list[Any])
    params: list[Any] = field(default_factory=list[Any])
    narrow: Sequence[str] = ()
    """Types of few digits, to which floats are cast and back."""
    exact: set[int] = field(default_factory=set[int])
    """Hashes of floats that no rounding has touched: what jumps may look at them."""
    bounds: dict[int, float] = field(default_factory=dict[int, float])
    read: set[int] = field(default_factory=set[int])
    """Hashes of values that some operator reads."""

    def integer(self, least: int, most: int) -> int:
        """A number from `least` to `most`."""
        return self.dice.randint(least, most)

    def choose(self, options: Sequence[Any]) -> Any:
        """One of the options."""
        return options[self.integer(0, len(options) - 1)]

    def pick(self, keep: Callable[[Any], bool] = lambda _: True) -> Any:
        """One of the values, the later ones likelier; None where none will do."""
        fitting = [v for v in self.values if keep(v)]
        if not fitting:
            return None
        return fitting[-1 - min(self.integer(0, 2 * len(fitting) - 1), len(fitting) - 1)]

    def like(self, shape: Sequence[Any], dtype: str) -> Any:
        """A value of this shape and dtype, or else a parameter."""
        found = self.pick(lambda v: shape_of(v) == list(shape) and dtype_of(v) == dtype) if self.integer(0, 2) else None
        return found if found is not None else self.parameter(shape, dtype)

    def parameter(self, shape: Sequence[Any], dtype: str, kind: str = "") -> Any:
        """A new parameter of the function, or a constant; where it has weights, one that others may have as well. One of a `kind` is no
        constant, and its name ends so.
        """
        shape = list(shape)
        if self.constants is not None and not kind and all(isinstance(s, int) for s in shape) and self.integer(0, 2) == 0:
            return self.constant(shape, dtype)
        if self.weights is not None:
            taken = {p.name for p in self.params}
            known = all(isinstance(s, int) for s in shape)
            fitting = [w for w in self.weights if known and shape_of(w) == shape and dtype_of(w) == dtype and w.name not in taken]
            shared = [w for w in fitting if w.name.endswith("store") == bool(kind)]
            if shared and self.integer(0, 1):
                var = relax.Var(shared[0].name, shared[0].ty)
            else:
                var = relax.Var(f"{self.name}_w{len(self.weights)}{kind}", relax.TensorType(self.dims(shape), dtype))
                self.weights.append(var)
        else:
            var = relax.Var(f"p{len(self.params)}{kind}", relax.TensorType(self.dims(shape), dtype))
        self.params.append(var)
        self.know(var, exact=True)
        return var

    def constant(self, shape: Shape, dtype: str) -> Any:
        """A constant tensor, or a variable that is bound to one; now and then one that is there already, or one that is equal to it."""
        assert self.constants is not None
        like = [c for c in self.constants if shape_of(c) == shape and dtype_of(c) == dtype]
        if like and self.integer(0, 1):
            made = self.choose([like[0], relax.const(like[0].value.numpy(), dtype)])
        else:
            made = relax.const(random_array(f"{self.name}_c{len(self.constants)}", shape, dtype, 0), dtype)
        self.constants.append(made)
        if self.integer(0, 3) == 0:
            kind = relax.DataflowVar if self.bb.current_block_is_dataflow() else relax.Var
            var = kind(f"c{len(self.constants)}", made.ty)
            self.bb.emit_normalized(relax.VarBinding(var, made))
            made = var
        return self.know(made, exact=True)

    def know(self, var: Any, bound: float | None = None, exact: bool = False) -> Any:
        """Note the magnitude of a value, by default that of a parameter; returns it."""
        self.bounds[hash(var)] = 4.0 if bound is None else bound
        if exact or not is_float(var):
            self.exact.add(hash(var))
        return var

    def dims(self, shape: Sequence[Any]) -> list[Any]:
        """`shape` with the sizes themselves for their names."""
        known = {self.symbol.name: self.symbol} if self.symbol is not None else dict[str, Any]()
        if any(isinstance(s, str) and s not in known for s in shape):
            for value in (*self.params, *self.values):
                known.update({str(d): d for d in value.ty.shape.values} if value.ty.ndim else {})
        return [known[s] if isinstance(s, str) else s for s in shape]

    def axis(self, x: Any) -> int:
        """A dimension of `x` whose size is known."""
        return self.choose([d for d, size in enumerate(shape_of(x)) if isinstance(size, int)])

    def bound(self, *values: Any) -> float:
        """The largest magnitude of some values."""
        return max(self.bounds.get(hash(v), 4.0) for v in values)

    def tame(self, var: Any) -> Any:
        """`var`, or what keeps its information but is small, where it may have become large."""
        limit = _LIMIT.get(dtype_of(var))
        if limit is None or self.bound(var) <= limit:
            return var
        if is_float(var):
            return self.know(self.bb.emit(relax.op.tanh(var)), 1.0)
        return self.know(self.bb.emit(relax.op.floor_mod(var, relax.const(5, dtype_of(var)))), 4.0)

    def number(self, value: float, dtype: str | None = None) -> Any:
        """A constant of rank 0."""
        return relax.const(value, dtype or self.dtype)


def shape_of(value: Any) -> Shape:
    """The shape of a value: numbers, and the name of its symbol where a size is symbolic."""
    return [int(d) if isinstance(d, int | tvm.tirx.IntImm) else str(d) for d in value.ty.shape.values] if value.ty.ndim else []


def dtype_of(value: Any) -> str:
    """The dtype of a value."""
    return str(value.ty.dtype)


def is_float(value: Any) -> bool:
    """Whether a value is a tensor of floats."""
    return dtype_of(value).startswith("float")


def is_static(value: Any) -> bool:
    """Whether all sizes of a value are known."""
    return all(isinstance(s, int) for s in shape_of(value))


def count(shape: Sequence[Any]) -> int:
    """The number of elements, about."""
    return math.prod(s if isinstance(s, int) else _SYMBOL for s in shape)
