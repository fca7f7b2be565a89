"""Exact arithmetic for floats: elements of the field of integers modulo a prime, and three numbers beside them.

An array of floats is an int64 array of residues, or of `NEG`, `POS` and `NAN`: infinities and what is no number. Sums, products and
quotients are exact, so the order in which a sum is made says nothing. Numbers are ordered as signed residues, which makes a total order
with the infinities at its ends: enough for maximum, minimum and sorting, but not for what mixes order with arithmetic, such as
``max(a + c, b + c)``.
Every other function is uninterpreted: an arbitrary number for each argument, except where it is known (``exp(0) = 1``).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from fractions import Fraction
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
PRIME = 2**31 - 1
NEG, POS, NAN = -1, -2, -3
_HALF = PRIME // 2
_PRECISION = {"float64": 1e-9, "float32": 1e-6, "float16": 2.0**-10, "bfloat16": 2.0**-7}
_LARGEST = {"float64": 1.7976931348623157e308, "float32": 3.4028234663852886e38, "float16": 65504.0, "bfloat16": 3.3895313892515355e38}
_LARGEST_ROOT = 256
_SIMPLEST = (1, 10, 100, 1_000, 10_000, 100_000, 1_000_000)


def is_special(x: Array) -> bool:
    """Whether there is anything but residues in it."""
    return bool(x.size) and int(x.min()) < 0


def signed(x: Array) -> Array:
    """By what numbers are ordered; `NAN` stands above all."""
    key = np.where(x > _HALF, x - PRIME, x)
    return np.where(x >= 0, key, np.select([x == NEG, x == POS], [-PRIME, PRIME], PRIME + 1)) if is_special(x) else key


@lru_cache(maxsize=1 << 14)
def of_float(value: float, dtype: str = "float32") -> int:
    """The number that a float of this type stands for: the simplest fraction that rounds to it. The largest of a type is infinite."""
    if value != value:
        return NAN
    if abs(value) >= _LARGEST.get(dtype, 3e38):
        return POS if value > 0 else NEG
    exact = Fraction(value if dtype == "float64" else float(np.float32(value)))
    allowed = abs(exact) * Fraction(_PRECISION.get(dtype, 2.0**-10))
    found = next((f for n in _SIMPLEST if abs((f := exact.limit_denominator(n)) - exact) <= allowed), exact)
    if max(abs(found.numerator), found.denominator) > 16 and (n := _square(float(exact), float(allowed))):
        root = function("sqrt", np.array(abs(n)))
        return int(root if n > 0 else inverse(root)) if value > 0 else int(negative(root if n > 0 else inverse(root)))
    if max(abs(found.numerator), found.denominator) >= PRIME:  # 2 to the power 31 would be 1
        return int(unknown("constant", np.array(int.from_bytes(np.float64(value).tobytes(), "little", signed=True))))
    return found.numerator * pow(found.denominator, -1, PRIME) % PRIME


def _square(x: float, allowed: float) -> int:
    """The whole number of which `x` is the root, or its negative where `x` is one over the root; 0 where there is none. In several types
    the root of a size of heads is several numbers, which no simple fraction would find to be one.
    """
    square = x * x
    n = round(square) if square > 1 else -round(1 / square)
    root = abs(n) ** (0.5 if n > 0 else -0.5)
    is_rational = math.isqrt(abs(n)) ** 2 == abs(n)
    return n if not is_rational and abs(n) <= _LARGEST_ROOT and abs(root - abs(x)) <= allowed / 2 else 0


def of_floats(values: Array, dtype: str) -> Array:
    """`of_float` of each."""
    plain = np.asarray(values, "float64")
    distinct, places = np.unique(plain, return_inverse=True)
    return np.array([of_float(float(v), dtype) for v in distinct], "int64")[places].reshape(plain.shape)


def of_integers(values: Array) -> Array:
    """Integers, or booleans, as numbers."""
    return np.asarray(values).astype("int64") % PRIME


def add(a: Array, b: Array) -> Array:
    """Their sum."""
    found = (a + b) % PRIME
    if is_special(a) or is_special(b):
        a, b = np.broadcast_arrays(a, b)
        infinite = np.where(a < 0, a, b)
        found = np.where((a < 0) | (b < 0), np.where((a < 0) & (b < 0) & (a != b), NAN, infinite), found)
    return found


def negative(a: Array) -> Array:
    """Its negative."""
    found = (PRIME - a) % PRIME
    return np.select([a == NEG, a == POS, a == NAN], [POS, NEG, NAN], found) if is_special(a) else found


def subtract(a: Array, b: Array) -> Array:
    """Their difference."""
    return add(a, negative(b))


def multiply(a: Array, b: Array) -> Array:
    """Their product; what is infinite takes the sign of the other."""
    found = a * b % PRIME
    if is_special(a) or is_special(b):
        sign = np.sign(signed(a)) * np.sign(signed(b))
        infinite = np.where(sign == 0, NAN, np.where(sign > 0, POS, NEG))
        found = np.where((a < 0) | (b < 0), np.where((a == NAN) | (b == NAN), NAN, infinite), found)
    return found


def inverse(a: Array) -> Array:
    """One over it, by Fermat; infinite for zero."""
    base = np.where(a < 0, 1, a)
    found, exponent = np.ones_like(base), PRIME - 2
    while exponent:
        if exponent & 1:
            found = found * base % PRIME
        base, exponent = base * base % PRIME, exponent >> 1
    found = np.where(a == 0, POS, found)
    return np.where(a < 0, np.where(a == NAN, NAN, 0), found) if is_special(a) else found


def divide(a: Array, b: Array) -> Array:
    """Their quotient."""
    return multiply(a, inverse(b))


def maximum(a: Array, b: Array) -> Array:
    """The greater one."""
    return np.where(signed(a) >= signed(b), a, b)


def minimum(a: Array, b: Array) -> Array:
    """The smaller one, or what is no number."""
    return np.where((signed(a) <= signed(b)) & (a != NAN) | (b == NAN), a, b)


def total(x: Array, axes: tuple[int, ...]) -> Array:
    """The sum over some axes."""
    if not is_special(x):
        return x.sum(axes) % PRIME
    plain = np.where(x < 0, 0, x).sum(axes) % PRIME
    neg, pos, nan = ((x == kind).any(axes) for kind in (NEG, POS, NAN))
    return np.select([nan | (neg & pos), neg, pos], [NAN, NEG, POS], plain)


def _folded(step: Callable[[Array, Array], Array], first: int) -> Callable[[Array, tuple[int, ...]], Array]:
    def fold(x: Array, axes: tuple[int, ...]) -> Array:
        kept = [a for a in range(x.ndim) if a not in axes]
        found = np.full([x.shape[a] for a in kept], first, "int64")
        for point in np.ndindex(*(x.shape[a] for a in axes)):
            found = step(found, x.transpose(*axes, *kept)[point])
        return found

    return fold


REDUCTIONS: dict[str, Callable[[Array, tuple[int, ...]], Array]] = {
    "sum": total,
    "prod": _folded(multiply, 1),
    "max": _folded(maximum, NEG),
    "min": _folded(minimum, POS),
}
"""What the kinds of reductions are, over some axes."""


def _mixed(x: Array) -> Array:
    """A number of 64 bits that nobody would guess from another (splitmix64)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def mixed(name: str, *args: Array) -> Array:
    """A number of 64 bits for each tuple of arguments of the function `name`."""
    state = np.uint64(int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little"))
    with np.errstate(over="ignore"):
        for arg in args:
            word = np.asarray(arg).astype("int64").astype("uint64")
            state = _mixed((state ^ word) + np.uint64(0x9E3779B97F4A7C15))
    return np.asarray(state)


def unknown(name: str, *args: Array) -> Array:
    """The uninterpreted function `name`, element by element; of what is no number it is none."""
    found = (mixed(name, *args) % np.uint64(PRIME)).astype("int64")
    for arg in args:
        found = np.where(np.asarray(arg) == NAN, NAN, found) if is_special(np.asarray(arg)) else found
    return found


_KNOWN: dict[str, dict[int, int]] = {
    "exp": {0: 1, NEG: 0, POS: POS},
    "log": {1: 0, 0: NEG, POS: POS},
    "sqrt": {0: 0, 1: 1, POS: POS},
    "tanh": {0: 0, POS: 1, NEG: PRIME - 1},
    "erf": {0: 0, POS: 1, NEG: PRIME - 1},
    "cos": {0: 1},
    "cosh": {0: 1},
    "acosh": {1: 0},
    "acos": {1: 0},
    **{name: {0: 0} for name in ("sin", "tan", "asin", "atan", "sinh", "asinh", "atanh")},
}


def function(name: str, x: Array) -> Array:
    """A function of one number, by TVM's name. Some are written by others, as they are by programs."""
    ways: dict[str, Callable[[Array], Array]] = {
        "rsqrt": lambda x: inverse(function("sqrt", x)),
        "sigmoid": lambda x: inverse(add(np.asarray(1), function("exp", negative(x)))),
        "log1p": lambda x: function("log", add(np.asarray(1), x)),
        "fabs": lambda x: np.where(signed(x) < 0, negative(x), x),
    }
    if name in ways:
        return ways[name](np.asarray(x))
    if name in ("floor", "ceil", "round", "trunc", "nearbyint"):
        return np.where((np.abs(signed(x)) < 1 << 20) | (x < 0), x, unknown(name, x))
    found = unknown(name, x)
    for at, value in _KNOWN.get(name, {}).items():
        found = np.where(x == at, value, found)
    return found


def power(a: Array, b: Array) -> Array:
    """`a` to the power `b`: exact for small whole ones, by roots for halves, else uninterpreted."""
    if b.size == 1:
        exponent = int(signed(b).reshape(()))
        if abs(exponent) <= 16 and not is_special(b):
            found = np.ones_like(a + b)
            for _ in range(abs(exponent)):
                found = multiply(found, a)
            return inverse(found) if exponent < 0 else found
        half = pow(2, -1, PRIME)
        if int(b.reshape(())) in (half, PRIME - half):
            return function("sqrt" if int(b.reshape(())) == half else "rsqrt", a) + np.zeros_like(b)
    found = np.where((a == 0) & (b > 0), 0, np.where(a == 1, 1, unknown("pow", a, b)))
    return np.where(b == 0, 1, np.where(b == 1, a, found))


def to_integers(x: Array, dtype: str) -> Array:
    """Numbers as integers of a type: small whole ones themselves, all others arbitrary ones of few bits."""
    if dtype == "bool":
        return x != 0
    keys = signed(x)
    arbitrary = (mixed("integer", x) % np.uint64(8)).astype("int64")
    return np.where(np.abs(keys) < 1 << 20, keys, arbitrary).astype(dtype)
