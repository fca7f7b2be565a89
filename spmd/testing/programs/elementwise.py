"""Operators element by element, reductions and scans."""

from __future__ import annotations

from typing import Any

from tvm import relax

from .maker import Maker, count, dtype_of, is_float, shape_of

op = relax.op
_SMOOTH = [op.tanh, op.negative, op.nn.silu, op.sigmoid, op.abs, op.cos, op.sin, op.nn.relu, op.nn.leakyrelu]
_STEPS = [op.floor, op.ceil, op.round, op.trunc, op.sign]
_FLOATS = [op.add, op.multiply, op.subtract, op.maximum, op.minimum]
_INTEGERS = [*_FLOATS, op.bitwise_and, op.bitwise_or, op.bitwise_xor]
_COMPARISONS = [op.equal, op.not_equal, op.less, op.less_equal, op.greater, op.greater_equal]
_LEAST_OF_8_BITS = 400.0
"""A number that types of 8 bits have room for."""
_LOGIC = [op.logical_and, op.logical_or, op.logical_xor]


def unary(m: Maker, x: Any) -> Any:
    """A smooth function; those with a pole stay away from it."""
    away = op.add(op.abs(x), m.number(1))
    return m.choose(
        [
            *(lambda f=f: f(x) for f in _SMOOTH),
            lambda: (op.exp(op.tanh(x)), 3.0),
            lambda: op.log(away),
            lambda: op.sqrt(away),
            lambda: op.rsqrt(away),
            lambda: (op.square(x), m.bound(x) ** 2),
            lambda: op.clip(x, -1, 1),
            lambda: (op.power(op.tanh(x), m.number(2)), 1.0),
        ]
    )()


def step(m: Maker, x: Any) -> Any:
    """What jumps, or an integer's own."""
    if is_float(x):
        return (m.choose(_STEPS)(x), m.bound(x) + 1) if hash(x) in m.exact else None
    two = m.number(m.integer(2, 3), dtype_of(x))
    return m.choose([lambda: op.negative(x), lambda: op.abs(x), lambda: op.floor_divide(x, two), lambda: op.floor_mod(x, two)])()


def binary(m: Maker, x: Any) -> Any:
    """Two terms that broadcast."""
    other = _partner(m, x)
    function = m.choose(_FLOATS if is_float(x) else _INTEGERS)
    if function is op.subtract and is_float(x) and other.same_as(x):  # TVM makes 0 of x - x where it fuses it, and it is NaN of an infinity
        other = m.parameter(shape_of(x), dtype_of(x))
    if function is op.multiply:
        return function(x, other), m.bound(x) * m.bound(other)
    return m.choose([lambda: function(x, other), lambda: function(other, x)])(), 2 * m.bound(x, other)


def divide(m: Maker, x: Any) -> Any:
    """A quotient, by what is not near zero."""
    return op.divide(x, op.add(op.abs(_partner(m, x)), m.number(1)))


def compare(m: Maker, x: Any) -> Any:
    """Booleans of what no rounding has touched."""
    if hash(x) not in m.exact:
        return None
    other = m.pick(lambda v: dtype_of(v) == dtype_of(x) and shape_of(v) == shape_of(x) and hash(v) in m.exact)
    other = m.number(1, dtype_of(x)) if other is None or m.integer(0, 1) else other
    return m.choose(_COMPARISONS)(x, other)


def logic(m: Maker, x: Any) -> Any:
    """Booleans of booleans."""
    return op.logical_not(x) if m.integer(0, 3) == 0 else m.choose(_LOGIC)(x, _partner(m, x))


def where(m: Maker, x: Any) -> Any:
    """One or the other."""
    condition = m.pick(lambda v: dtype_of(v) == "bool" and v.ty.ndim <= x.ty.ndim and _broadcasts(shape_of(x), shape_of(v), within=True))
    if condition is None:
        condition = m.parameter(_fewer(m, shape_of(x)), "bool")
    other = m.choose([lambda: _partner(m, x), lambda: m.number(-2, dtype_of(x))])()
    return op.where(condition, x, other), max(m.bound(x), 4.0, m.bound(other))


def cast(m: Maker, x: Any) -> Any:
    """Another dtype."""
    to = m.choose([d for d in ("int32", "int64", m.dtype) if d != dtype_of(x)])
    if is_float(x):
        return (op.astype(x, "int32"), m.bound(x)) if hash(x) in m.exact else None
    return _wrapped(m, x, to) if m.integer(0, 2) == 0 else op.astype(x, to)


def rounded(m: Maker, x: Any) -> Any:
    """What a type of fewer digits leaves of a float that no other rounding has touched, so that all round alike."""
    if not m.narrow or hash(x) not in m.exact or m.bound(x) > _LEAST_OF_8_BITS:
        return None
    m.read.add(hash(x))
    small = m.bb.emit(op.astype(x, m.choose(m.narrow)))
    # TVM 0.27 rounds 2^-9 to 2^-7 in float8_e4m3fn, and that again to another number: what computes in 8 bits depends on what is fused.
    relu = op.nn.relu if dtype_of(small) == "bfloat16" else op.permute_dims
    moved = m.choose([lambda: small, lambda: m.bb.emit(op.permute_dims(small)), lambda: m.bb.emit(relu(small))])()
    m.know(moved, m.bound(x), exact=True)
    return op.astype(moved, dtype_of(x))


def _wrapped(m: Maker, x: Any, to: str) -> Any:
    """An integer times a number, as what is left of it in a type that may not hold it."""
    narrow = m.choose(["int8", "uint8", "int16"])
    times = op.multiply(x, m.number(m.choose([-1, 64, 100]), dtype_of(x)))
    left = op.astype(times, narrow)
    more = m.choose([lambda: left, lambda: op.add(left, left), lambda: op.maximum(left, m.number(100, narrow))])()
    return op.astype(more, to), 100 * m.bound(x) if narrow == "int16" else 256.0


def reduce(m: Maker, x: Any) -> Any:
    """A reduction over some or all dimensions."""
    shape = shape_of(x)
    axes: Any = sorted({m.integer(0, len(shape) - 1) for _ in range(m.integer(1, 2))})
    if m.integer(0, 7) == 0:
        axes = None
    keep = bool(m.integer(0, 1))
    terms = count([s for d, s in enumerate(shape) if axes is None or d in axes])
    options = [lambda: (op.sum(x, axes, keep), m.bound(x) * terms), lambda: op.max(x, axes, keep), lambda: op.min(x, axes, keep)]
    if terms <= 12 and not any(isinstance(s, str) for s in shape):
        small = op.tanh(x) if is_float(x) else op.floor_mod(x, m.number(3, dtype_of(x)))
        options.append(lambda: (op.prod(small, axes, keep), 2.0**terms))
    if is_float(x):
        options += [lambda: op.mean(x, axes, keep), lambda: (op.variance(x, axes, keep), m.bound(x) ** 2), lambda: _logsumexp(m, x, axes)]
    return m.choose(options)()


def scan(m: Maker, x: Any) -> Any:
    """Sums or products of all before."""
    axis, exclusive = m.axis(x), bool(m.integer(0, 1))
    if is_float(x) and m.integer(0, 2) == 0:
        return op.cumprod(op.tanh(x), axis, exclusive=exclusive), 1.0
    return op.cumsum(x, axis, exclusive=exclusive), m.bound(x) * shape_of(x)[axis]


def softmax(m: Maker, x: Any) -> Any:
    """Over one dimension."""
    axis = m.integer(0, x.ty.ndim - 1)
    if m.integer(0, 1):
        return op.nn.softmax(x, axis), 1.0
    return op.nn.log_softmax(x, axis), 2 * m.bound(x) + 4


def normalized(m: Maker, x: Any) -> Any:
    """A layer norm of primitive operators, or of one where the dtype is no wider than what TVM computes it in."""
    axis = m.axis(x)
    size = [shape_of(x)[axis]]
    if m.dtype != "float64" and m.integer(0, 1):
        if x.ty.ndim > 1 and axis == x.ty.ndim - 1 and m.integer(0, 1):  # TVM compiles rms_norm over no other dimension, nor of all of them
            return op.nn.rms_norm(x, m.like(size, m.dtype), [axis], 1e-1), 16.0
        return op.nn.layer_norm(x, m.like(size, m.dtype), m.like(size, m.dtype), [axis], 1e-1), 16.0
    centered = op.subtract(x, op.mean(x, [axis], True))
    return op.multiply(centered, op.rsqrt(op.add(op.mean(op.square(centered), [axis], True), m.number(0.1)))), 4.0


def _logsumexp(m: Maker, x: Any, axes: Any) -> Any:
    most = op.max(x, axes, True)
    return op.add(op.log(op.sum(op.exp(op.subtract(x, most)), axes, True)), most), m.bound(x) + 4


def _partner(m: Maker, x: Any) -> Any:
    other = m.pick(lambda v: dtype_of(v) == dtype_of(x) and _broadcasts(shape_of(x), shape_of(v)))
    return m.parameter(_fewer(m, shape_of(x)), dtype_of(x)) if other is None or m.integer(0, 2) == 0 else other


def _fewer(m: Maker, shape: list[Any]) -> list[Any]:
    """A shape that broadcasts to `shape`, with no symbol in it."""
    first = m.integer(max([0, *(d + 1 for d, s in enumerate(shape) if isinstance(s, str))]), len(shape))
    return [s if m.integer(0, 3) else 1 for s in shape[first:]]


def _broadcasts(a: list[Any], b: list[Any], within: bool = False) -> bool:
    """Whether two shapes broadcast; to the first one, if `within`."""
    return all(s == t or t == 1 or (s == 1 and not within) for s, t in zip(reversed(a), reversed(b), strict=False))
