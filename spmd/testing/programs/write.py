"""Functions of random operators: which there are, and how a function of them is written."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import tvm
import tvm_ffi
from tvm import relax

from . import control, elementwise, indexing, movement, network, writes
from .maker import LARGEST, SIZES, SYMBOLIC, Maker, count, dtype_of, is_float, is_static, shape_of


@dataclass(frozen=True)
class _Operator:
    """What makes a call with a value of the kinds `of` (float, int, bool), of rank `rank` or more."""

    make: Callable[[Maker, Any], Any]
    of: str
    rank: int = 1
    symbolic: bool = False
    """Whether it takes values of symbolic size."""
    exact: bool = False
    """Whether it rounds nothing, and is no sum of several."""
    often: int = 1
    """How many times as often as others it is taken where it will do; what asks for values of high rank will seldom do."""

    def takes(self, value: Any) -> bool:
        """Whether `value` will do."""
        kind = "f" if is_float(value) else "b" if dtype_of(value) == "bool" else "i"
        return kind in self.of and value.ty.ndim >= self.rank and (is_static(value) or (self.symbolic and _some_static(value)))


def _some_static(value: Any) -> bool:
    return any(isinstance(s, int) for s in shape_of(value))


OPERATORS = [
    _Operator(elementwise.unary, "f", 0, symbolic=True),
    _Operator(elementwise.step, "fi", 0, exact=True),
    _Operator(elementwise.binary, "fi", 0, symbolic=True, often=2),
    _Operator(control.packed, "fib", 0, exact=True),
    _Operator(control.small_kernel, "fi"),
    _Operator(control.made_on_the_way, "f", 2),
    _Operator(elementwise.divide, "f"),
    _Operator(elementwise.compare, "fi", 0),
    _Operator(elementwise.logic, "b"),
    _Operator(elementwise.where, "fi", exact=True),
    _Operator(elementwise.cast, "fib", exact=True),
    _Operator(elementwise.rounded, "f", 1, symbolic=True, exact=True, often=2),
    _Operator(elementwise.reduce, "fi", symbolic=True),
    _Operator(elementwise.scan, "fi", symbolic=True),
    _Operator(elementwise.softmax, "f", symbolic=True),
    _Operator(elementwise.normalized, "f", symbolic=True),
    _Operator(movement.reshape, "fib", exact=True, often=2),
    _Operator(movement.merged, "fib", symbolic=True, exact=True),
    _Operator(movement.permute, "fib", symbolic=True, exact=True),
    _Operator(movement.ones, "fib", symbolic=True, exact=True),
    _Operator(movement.split, "fib", symbolic=True, exact=True),
    _Operator(movement.join, "fi", exact=True),
    _Operator(movement.window, "fib", exact=True),
    _Operator(movement.roll, "fi", exact=True),
    _Operator(movement.moved, "fib", exact=True),
    _Operator(movement.triangle, "fi", 2, exact=True),
    _Operator(movement.create, "fi"),
    _Operator(indexing.take, "fib", exact=True),
    _Operator(indexing.gather, "fib", exact=True),
    _Operator(indexing.scatter, "fi"),
    _Operator(indexing.written, "fi", exact=True),
    _Operator(indexing.ordered, "fi"),
    _Operator(indexing.places, "fi"),
    _Operator(indexing.one_hot, "i"),
    _Operator(indexing.counted, "i"),
    _Operator(indexing.table, "fi", exact=True),
    _Operator(network.matmul, "f", symbolic=True, often=2),
    _Operator(network.scores, "f", 3, symbolic=True, often=4),
    _Operator(network.contraction, "f"),
    _Operator(network.convolution, "f", 3, often=7),
    _Operator(network.pooling, "f", 3, often=4),
    _Operator(network.attention, "f", 4, often=9),
    _Operator(network.attention_by_parts, "f", 2),
    _Operator(network.loss, "f", 2),
    _Operator(network.layer, "f", 2, symbolic=True),
    _Operator(network.frozen, "f", symbolic=True, often=12),
    _Operator(control.call, "f"),
    _Operator(control.kernel, "f"),
    _Operator(writes.in_place, "f", 2, often=2),
]
_WITH_BRANCHES = [*OPERATORS, _Operator(control.branch, "f", often=12)]


def write(
    dice: Random,
    bb: relax.BlockBuilder,
    name: str,
    most: int,
    weights: list[Any] | None,
    constants: list[Any] | None,
    helpers: Any,
    private: bool = False,
    narrow: Sequence[str] = (),
) -> Any:
    """One function of 1 to `most` operators; it returns what nothing else reads. Gives its variable and its parameters' types.

    With `weights`, all parameters but the first few are weights, which join that list; with `constants`, some of them are constants.
    Floats are cast to types of `narrow` and back.
    """
    dtype = dice.choice(["float64"] * 6 + ["float32"] * 2 + ["float16"]) if not private else "float64"
    symbolic = not private and dice.randint(0, 7) == 0
    maker = Maker(dice, bb, name, dtype, helpers=helpers if dtype == "float64" else [], narrow=narrow)
    if symbolic:  # the size that it stands for is its name's
        maker.symbol = tvm.tirx.Var(f"n{dice.choice(SYMBOLIC)}", "int64")
    first = [_parameter(maker, symbolic and i == 0) for i in range(dice.randint(1, 2))]
    given = len(maker.params)
    maker.weights, maker.constants = weights, constants
    branches = not private and dice.randint(0, 5) == 0
    attrs = {"num_input": given} if weights is not None else None
    maker.values += [v for v in first if not isinstance(v.ty, relax.TupleType)]
    with bb.function(name, attrs=attrs, private=private):  # parameters come up while the body is written: they are given at its end
        if branches:
            body(maker, most, _WITH_BRANCHES, first)
            result: Any = results(maker)
            bb.emit_func_output(result, maker.params)
        else:
            with bb.dataflow():
                body(maker, most, OPERATORS, first)
                result = bb.emit_output(results(maker))
            bb.emit_func_output(result, maker.params)
    return maker.params


def _parameter(maker: Maker, symbolic: bool) -> Any:
    """A first parameter: floats, integers or booleans, or a tuple of some, in which there may be others."""
    dice = maker.dice
    shape = [dice.choice(SIZES) for _ in range(dice.choice([1, 2, 2, 3, 3, 4, 4]))]
    while count(shape) > LARGEST // 4:
        shape.pop()
    if symbolic:
        shape = [maker.symbol.name, *shape[:2]] if len(shape) > 1 else [maker.symbol.name, shape[0]]
    dtype = dice.choice([maker.dtype] * 4 + ["int32", "int64", "bool"])
    if not symbolic and dice.randint(0, 9) == 0:
        types = [relax.TensorType(shape, maker.dtype), relax.TensorType(shape[:1], "int32")]
        if dice.randrange(2):
            types = [relax.TupleType([types[1], relax.TupleType([types[0], types[0]])]), types[0]]
        var = relax.Var(f"p{len(maker.params)}", relax.TupleType(types))
        maker.params.append(var)
        return var
    return maker.parameter(shape, dtype)


def body(maker: Maker, most: int, operators: Sequence[_Operator] = OPERATORS, first: Sequence[Any] = ()) -> None:
    """1 to `most` operators on the values that there are, and on the parts of `first`, which may be tuples."""
    for var in first:
        if isinstance(var.ty, relax.TupleType):
            maker.values += [maker.know(v, exact=True) for v in _parts(maker.bb, var)]
    for _ in range(maker.integer(1, maker.choose([3, most, most]))):
        x = maker.pick()
        fitting = [o for o in operators if o.takes(x) for _ in range(o.often)]
        if not fitting:
            continue
        operator = maker.choose(fitting)
        made = operator.make(maker, x)
        if made is None:
            continue
        expr, bound = made if isinstance(made, tuple) else (made, None)
        inputs: list[Any] = []
        tvm_ffi.structural_walk(expr, ((tvm.ir.Var, tvm.ir.GenericConst), inputs.append))
        inputs = [v for v in inputs if isinstance(v.ty, relax.TensorType) and (isinstance(v, tvm.ir.Var) or v.ty.ndim > 0)]
        bound = bound if bound is not None else maker.bound(*inputs) if inputs else 4.0
        exact = operator.exact and all(hash(v) in maker.exact for v in inputs)
        maker.read |= {hash(v) for v in inputs}
        for part in _parts(maker.bb, maker.bb.emit(expr)):
            if isinstance(part.ty, relax.TensorType) and isinstance(part.ty.shape, relax.ShapeExpr) and count(shape_of(part)) <= LARGEST:
                maker.values.append(maker.tame(maker.know(part, bound, exact)))


def results(maker: Maker) -> Any:
    """What nothing reads, or the last value; now and then in a tuple within a tuple, with a value that is read, or one twice."""
    found = [v for v in maker.values if hash(v) not in maker.read] or maker.values[-1:]
    if maker.integer(0, 4) == 0:
        found.append(maker.pick())
    if len(found) > 2 and maker.integer(0, 4) == 0:
        return relax.Tuple([found[0], relax.Tuple(found[1:])])
    return relax.Tuple(found) if len(found) > 1 else found[0]


def _parts(bb: relax.BlockBuilder, var: Any) -> list[Any]:
    if isinstance(var.ty, relax.TupleType):
        return [part for i in range(len(var.ty.fields)) for part in _parts(bb, bb.emit(relax.TupleGetItem(var, i)))]
    return [var]
