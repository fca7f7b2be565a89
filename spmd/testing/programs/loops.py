"""Loops: private functions that call themselves, with what they carry from turn to turn, and what they read by the number of the turn."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

import tvm
import tvm_ffi
from hypothesis import strategies as st
from tvm import relax

from spmd.ir.builder import Builder

from .maker import Maker, Shape, dtype_of, is_float, is_static, shape_of
from .write import OPERATORS, body, results
from .writes import in_place

op = relax.op
Draw = Callable[[Any], Any]
_PURE = [operator for operator in OPERATORS if operator.make is not in_place]
"""A loop that writes in place runs whole."""
_TURNS = (1, 3)
_SHAPES: list[Shape] = [[4, 6], [3, 8], [5, 7], [2, 3, 4], [6]]


@st.composite
def loops(draw: Draw, operators: int = 5, prefix: str = "f") -> tvm.IRModule:
    """Modules of one public function of about `operators` operators, which calls a loop of about as many, once or twice.

    The names of functions and of weights start with `prefix`.
    """
    dice = Random(draw(st.binary(min_size=8, max_size=8)))
    bb = Builder()
    loop, inner = _loop(dice, bb, f"{prefix}loop", operators)
    m = Maker(dice, bb, f"{prefix}0", inner.dtype)
    given = [m.parameter(shape_of(p), dtype_of(p)) for p in inner.carried]
    inputs = len(m.params)
    m.weights = [] if dice.randint(0, 1) else None
    kept = [m.parameter(shape_of(p), dtype_of(p)) for p in inner.kept]
    m.values = [*given, *kept]
    with bb.function(m.name, attrs={"num_input": inputs} if m.weights is not None else None):
        for _ in range(dice.randint(1, 2)):
            made = bb.emit(relax.Call(loop, [inner.start(), *given, *kept]))
            given = [bb.emit(relax.TupleGetItem(made, i)) for i in range(len(given))] if len(given) > 1 else [made]
            m.values += [m.know(v, 1.0) if is_float(v) else m.know(v, 4.0) for v in given]
        body(m, operators)
        bb.emit_func_output(results(m), m.params)
    return bb.finalize()


class _Inner:
    """The loop that is being written: its counter, what it carries, and what it is passed as it is in every turn."""

    def __init__(self, dice: Random) -> None:
        self.turns = dice.randint(*_TURNS)
        self.dtype = dice.choice(["float64", "float64", "float32"])
        self.falls, shape = bool(dice.randint(0, 1)), dice.choice([[], [1]])
        self.counter = relax.Var("i", relax.TensorType(shape, dice.choice(["int32", "int64"])))
        shapes = [dice.choice(_SHAPES) for _ in range(dice.choice([1, 1, 2]))]
        self.carried = [relax.Var(f"h{n}", relax.TensorType(s, self.dtype)) for n, s in enumerate(shapes)]
        if dice.randint(0, 3) == 0:
            self.carried.append(relax.Var("count", relax.TensorType([3, 4], "int32")))
        self.kept: list[Any] = []

    def start(self) -> Any:
        """The counter of the first turn."""
        return self._number(self.turns if self.falls else 0)

    def goes_on(self, bb: relax.BlockBuilder) -> Any:
        """Whether there is a turn left."""
        left = op.greater(self.counter, self._number(0)) if self.falls else op.less(self.counter, self._number(self.turns))
        if not shape_of(self.counter):
            return bb.emit(left)
        return bb.emit(op.astype(bb.emit(op.max(bb.emit(op.astype(bb.emit(left), "int32")))), "bool"))

    def next(self, bb: relax.BlockBuilder) -> tuple[Any, Any]:
        """The number of this turn, from 0 to less than `turns`, and the counter of the next one."""
        counted = bb.emit(op.subtract(self.counter, self._number(1)) if self.falls else op.add(self.counter, self._number(1)))
        return (counted if self.falls else self.counter), counted

    def _number(self, value: int) -> Any:
        shape, dtype = shape_of(self.counter), dtype_of(self.counter)
        return relax.const(value, dtype) if not shape else relax.const([value], dtype)


def _loop(dice: Random, bb: Builder, name: str, operators: int) -> tuple[Any, _Inner]:
    """The loop, which gives what it carries, and what it is made of."""
    inner = _Inner(dice)
    m = Maker(dice, bb, name, inner.dtype, params=[inner.counter, *inner.carried])
    itself = tvm.ir.GlobalVar(name)
    types = [v.ty for v in inner.carried]
    gives = relax.TupleType(types) if len(types) > 1 else types[0]
    m.values = [m.know(v, 4.0) for v in inner.carried]
    for v in inner.carried:
        m.exact.discard(hash(v))  # after the first turn it is what others gave
    with bb.function(name, private=True):
        condition = inner.goes_on(bb)
        bb._begin_binding_block()  # pyright: ignore[reportPrivateUsage]
        turn, counted = inner.next(bb)
        for _ in range(dice.randint(1, 2)):
            m.values.append(m.know(_of_turn(m, inner, turn)))
            m.exact.discard(hash(m.values[-1]))
        body(m, operators, _PURE)
        carried = [_like(m, v) for v in inner.carried]
        inner.kept = m.params[1 + len(inner.carried) :]
        relax.expr._update_type(itself, relax.FuncType([p.ty for p in m.params], gives))  # pyright: ignore[reportPrivateUsage]
        again = bb.emit(relax.Call(itself, [counted, *carried, *inner.kept]))
        then = relax.SeqExpr([bb._end_block()], again)  # pyright: ignore[reportPrivateUsage]
        end = relax.Tuple(inner.carried) if len(inner.carried) > 1 else inner.carried[0]
        out = bb.emit(relax.If(condition, then, relax.SeqExpr([relax.BindingBlock([])], end)))
        bb.emit_func_output(out, m.params)
    made = next(gv for gv in bb.get().get_global_vars() if gv.name_hint == name)
    function = tvm_ffi.structural_mutate(bb.get()[made], [(tvm.ir.GlobalVar, lambda gv, _: made if gv.same_as(itself) else gv)])
    bb.update_func(made, function)
    return made, inner


def _of_turn(m: Maker, inner: _Inner, turn: Any) -> Any:
    """What a turn takes of what there is of all turns: by a look-up, or as a part of a dimension, which may be longer than a part."""
    shape = m.choose([s for s in _SHAPES if len(s) < 3])
    at = m.integer(0, len(shape) - 1)
    if m.integer(0, 1):
        stacked = m.parameter([*shape[:at], inner.turns, *shape[at:]], m.dtype)
        taken = m.bb.emit(op.take(stacked, turn, axis=at, mode="clip"))
        return m.bb.emit(op.squeeze(taken, [at])) if shape_of(turn) else taken
    stacked = m.parameter([*shape[:at], inner.turns * shape[at], *shape[at + 1 :]], m.dtype)
    first = m.bb.emit(op.reshape(m.bb.emit(op.astype(turn, "int64")), [1]))
    first = m.bb.emit(op.multiply(first, relax.const([shape[at] if d == at else 0 for d in range(len(shape))], "int64")))
    last = m.bb.emit(op.add(first, relax.const(shape, "int64")))
    part = m.bb.emit(op.dynamic_strided_slice(stacked, first, last, relax.const([1] * len(shape), "int64")))
    return m.bb.match_cast(part, relax.TensorType(shape, m.dtype))


def _like(m: Maker, carried: Any) -> Any:
    """A value of the shape of what is carried, which stays small however often the loop turns."""
    fits = [v for v in m.values if is_static(v) and shape_of(v) == shape_of(carried) and dtype_of(v) == dtype_of(carried)]
    if not is_float(carried):
        return m.bb.emit(op.floor_mod(m.bb.emit(op.add(m.choose(fits), relax.const(1, "int32"))), relax.const(5, "int32")))
    x, how = m.choose(fits[-3:]), m.integer(0, 2)
    if how == 0:  # by a weight, so that something is to be split
        width = shape_of(x)[-1]
        x = m.bb.emit(op.matmul(x, m.parameter([width, width], m.dtype)))
    elif how == 1:
        rows = [v for v in m.values if is_float(v) and is_static(v) and shape_of(v) == shape_of(x)[-v.ty.ndim :] and v.ty.ndim]
        x = m.bb.emit(op.add(x, m.choose(rows)))
    else:
        total = m.pick(lambda v: dtype_of(v) == m.dtype and is_static(v) and v.ty.ndim)
        x = m.bb.emit(op.multiply(x, m.bb.emit(op.mean(total))))
    return m.bb.emit(op.tanh(x))
