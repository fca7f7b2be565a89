"""Hypothesis strategies for meshes, specs and random well-typed Relax programs. Needs the extra ``test``.

A program is a module of functions, each a dag of operators over shared values. Numbers stay tame: float64, no norms (TVM computes them
in float32), and no operator whose result jumps where its argument hardly changes (comparisons, argmax and the like see integers only).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import tvm
import tvm_ffi
from hypothesis import strategies as st
from tvm import relax

from ..mesh import Mesh
from ..plan import Leaf
from ..sharding import P
from ..workers import signatures

Draw = Callable[[Any], Any]
_SIZES = [1, 2, 3, 4, 5, 6, 8, 9, 12]


@dataclass
class _Maker:
    """The function that is being written."""

    draw: Draw
    bb: relax.BlockBuilder
    values: list[Any]
    params: list[Any]
    read: list[Any] = field(default_factory=list[Any])
    """Values that some operator reads."""

    def pick(self, keep: Callable[[Any], bool] = lambda _: True) -> Any:
        """One of the values, the later ones likelier; None where none will do."""
        fitting = [v for v in self.values if keep(v)]
        if not fitting:
            return None
        return fitting[-1 - min(self.draw(st.integers(0, 2 * len(fitting) - 1)), len(fitting) - 1)]

    def parameter(self, shape: list[int], dtype: str) -> Any:
        """A new parameter of the function."""
        var = relax.Var(f"p{len(self.params)}", relax.TensorType(shape, dtype))
        self.params.append(var)
        return var

    def integer(self, least: int, most: int) -> int:
        """A number."""
        return self.draw(st.integers(least, most))


def shape_of(value: Any) -> list[int]:
    """The static shape of a value."""
    return [int(d) for d in value.ty.shape.values] if value.ty.ndim else []


def _unary(m: _Maker, x: Any) -> Any:
    return m.draw(st.sampled_from([relax.op.tanh, relax.op.negative, relax.op.nn.silu, relax.op.sigmoid, relax.op.abs, relax.op.cos]))(x)


def _binary(m: _Maker, x: Any) -> Any:
    def fits(v: Any) -> bool:
        pairs = zip(reversed(shape_of(x)), reversed(shape_of(v)), strict=False)
        return all(a == b or 1 in (a, b) for a, b in pairs)

    other = m.pick(fits)
    if other is None or m.integer(0, 2) == 0:
        other = m.parameter([s if m.integer(0, 3) else 1 for s in shape_of(x)[m.integer(0, x.ty.ndim) :]], "float64")
    return m.draw(st.sampled_from([relax.op.add, relax.op.multiply, relax.op.subtract, relax.op.maximum]))(x, other)


def _matmul(m: _Maker, x: Any) -> Any:
    k = shape_of(x)[-1]
    other = m.pick(lambda v: v.ty.ndim == 2 and shape_of(v)[0] == k)
    if other is None or m.integer(0, 2):
        other = m.parameter([k, m.draw(st.sampled_from(_SIZES))], "float64")
    return relax.op.matmul(x, other)


def _reshape(m: _Maker, x: Any) -> Any:
    shape = shape_of(x)
    at = m.integer(0, len(shape) - 1)
    if m.integer(0, 1) and at + 1 < len(shape):
        return relax.op.reshape(x, [*shape[:at], shape[at] * shape[at + 1], *shape[at + 2 :]])
    divisors = [d for d in range(1, shape[at] + 1) if shape[at] % d == 0]
    major = m.draw(st.sampled_from(divisors))
    return relax.op.reshape(x, [*shape[:at], major, shape[at] // major, *shape[at + 1 :]])


def _permute(m: _Maker, x: Any) -> Any:
    return relax.op.permute_dims(x, m.draw(st.permutations(list(range(x.ty.ndim)))))


def _split(m: _Maker, x: Any) -> Any:
    shape = shape_of(x)
    axis = m.integer(0, len(shape) - 1)
    if shape[axis] < 2:
        return None
    cut = m.integer(1, shape[axis] - 1)
    return relax.op.split(x, [cut], axis)


def _concat(m: _Maker, x: Any) -> Any:
    axis = m.integer(0, x.ty.ndim - 1)
    shape = shape_of(x)

    def fits(v: Any) -> bool:
        return v.ty.ndim == len(shape) and all(a == b for d, (a, b) in enumerate(zip(shape, shape_of(v), strict=True)) if d != axis)

    other = m.pick(fits)
    return relax.op.concat([x, other if other is not None else x], axis)


def _reduce(m: _Maker, x: Any) -> Any:
    axes = m.draw(st.lists(st.integers(0, x.ty.ndim - 1), min_size=1, max_size=2, unique=True))
    return m.draw(st.sampled_from([relax.op.sum, relax.op.mean, relax.op.max, relax.op.min, relax.op.variance]))(
        x, axes, bool(m.integer(0, 1))
    )


def _softmax(m: _Maker, x: Any) -> Any:
    return m.draw(st.sampled_from([relax.op.nn.softmax, relax.op.nn.log_softmax]))(x, m.integer(0, x.ty.ndim - 1))


def _take(m: _Maker, x: Any) -> Any:
    places = m.draw(st.lists(st.sampled_from([1, 2, 3, 5]), min_size=1, max_size=2))
    axis = m.integer(0, x.ty.ndim - 1)
    return relax.op.take(x, m.parameter(places, "int32"), axis, mode="clip")


def _slice(m: _Maker, x: Any) -> Any:
    axis = m.integer(0, x.ty.ndim - 1)
    size = shape_of(x)[axis]
    begin = m.integer(0, size - 1)
    return relax.op.strided_slice(x, [axis], [begin], [m.integer(begin + 1, size)], [m.integer(1, 2)])


def _moved(m: _Maker, x: Any) -> Any:
    axis = m.integer(0, x.ty.ndim - 1)
    shape = shape_of(x)
    return m.draw(
        st.sampled_from(
            [
                lambda: relax.op.flip(x, axis),
                lambda: relax.op.repeat(x, 2, axis),
                lambda: relax.op.cumsum(x, axis),
                lambda: relax.op.expand_dims(x, [axis]),
                lambda: relax.op.tile(x, [2 if d == axis else 1 for d in range(len(shape))]),
                lambda: relax.op.nn.pad(x, [n for d in range(len(shape)) for n in ((1, 2) if d == axis else (0, 0))]),
            ]
        )
    )()


_OPERATORS: list[tuple[int, Callable[[_Maker, Any], Any]]] = [
    (1, _unary), (1, _binary), (2, _matmul), (1, _reshape), (2, _permute), (1, _split), (1, _concat),
    (1, _reduce), (1, _softmax), (1, _take), (1, _slice), (1, _moved),
]  # fmt: skip
"""Least rank of the operand, and what makes the call."""
_LARGEST = 1 << 12


def _write(draw: Draw, bb: relax.BlockBuilder, name: str, most: int) -> None:
    """One function of 1 to `most` operators; it returns what nothing else reads."""
    maker = _Maker(draw, bb, [], [])
    # Parameters come up while the body is written, so they are given at its end.
    with bb.function(name):
        with bb.dataflow():
            for shape in draw(st.lists(st.lists(st.sampled_from(_SIZES), min_size=1, max_size=3), min_size=1, max_size=2)):
                maker.values.append(maker.parameter(shape, "float64"))
            for _ in range(draw(st.integers(1, most))):
                rank, make = draw(st.sampled_from(_OPERATORS))
                x = maker.pick(lambda v, rank=rank: v.ty.ndim >= rank)
                expr = make(maker, x) if x is not None else None
                if expr is not None:
                    tvm_ffi.structural_walk(expr, (tvm.ir.Var, maker.read.append))
                    maker.values += [v for v in _parts(bb, bb.emit(expr)) if math.prod(shape_of(v)) <= _LARGEST]
            read = {hash(v) for v in maker.read}
            results = [v for v in maker.values if hash(v) not in read] or maker.values[-1:]
            output = bb.emit_output(relax.Tuple(results) if len(results) > 1 else results[0])
        bb.emit_func_output(output, maker.params)


def _parts(bb: relax.BlockBuilder, var: Any) -> list[Any]:
    return [bb.emit(relax.TupleGetItem(var, i)) for i in range(len(var.ty.fields))] if isinstance(var.ty, relax.TupleType) else [var]


@st.composite
def programs(draw: Draw, functions: int = 6, operators: int = 12) -> tvm.IRModule:
    """Modules of 1 to `functions` functions of 1 to `operators` operators each."""
    bb = relax.BlockBuilder()
    for i in range(draw(st.integers(1, functions))):
        _write(draw, bb, f"f{i}", operators)
    return bb.finalize()


def meshes(most: int = 4) -> st.SearchStrategy[Mesh]:
    """1-D meshes of 2 to `most` workers."""
    return st.integers(2, most).map(lambda n: Mesh(tp=n))


@st.composite
def specs(draw: Draw, mod: tvm.IRModule) -> dict[str, P]:
    """Specs for some of the parameters and results of a module: one dimension split, or all whole."""
    found: dict[str, P] = {}
    for name, signature in signatures(mod).items():
        leaves = {f"{name}.{p.name}": p for p in signature.params if isinstance(p, Leaf)}
        for key, leaf in leaves.items():
            if leaf.shape and draw(st.integers(0, 2)) == 0:
                at = draw(st.integers(-1, len(leaf.shape) - 1))
                found[key] = P(*("tp" if d == at else None for d in range(len(leaf.shape))))
    return found
