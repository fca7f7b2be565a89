"""TIR expressions as functions of an environment, over whole grids of loop variables at once.

An environment maps slots, one a variable, to arrays that broadcast over the loops of a nest, and to the memory of buffers. Integers and
booleans are themselves. A float is *real* as long as no float from memory is in it (coordinates of pixels, constants), and then a number
of the field: what rounds or compares such coordinates is computed, and not left uninterpreted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import tvm
import tvm_ffi
from tvm import tirx

from . import field
from .field import Array
from .undecided import Undecided

Env = dict[Any, Any]
OUTSIDE = "outside"
"""The place in an environment for how many elements were read or written outside of a buffer."""
_BINARY: dict[str, tuple[Callable[[Any, Any], Any], Callable[[Any, Any], Any]]] = {
    # node: of integers and real numbers, of the field
    "Add": (np.add, field.add),
    "Sub": (np.subtract, field.subtract),
    "Mul": (np.multiply, field.multiply),
    "Max": (np.maximum, field.maximum),
    "Min": (np.minimum, field.minimum),
}
_COMPARED: dict[str, Callable[[Any, Any], Any]] = {
    "LT": np.less,
    "LE": np.less_equal,
    "GT": np.greater,
    "GE": np.greater_equal,
    "EQ": np.equal,
    "NE": np.not_equal,
}
_WHOLE: dict[str, Callable[[Any, Any], Any]] = {
    "FloorDiv": np.floor_divide,
    "FloorMod": np.mod,
    "Div": lambda a, b: np.trunc(np.divide(a, b)).astype(np.asarray(a).dtype),
    "Mod": np.fmod,
    "And": np.logical_and,
    "Or": np.logical_or,
    "BitwiseAnd": np.bitwise_and,
    "BitwiseOr": np.bitwise_or,
    "BitwiseXor": np.bitwise_xor,
    "LShift": np.left_shift,
    "RShift": np.right_shift,
}
_BITS = {
    "shift_left": "LShift",
    "shift_right": "RShift",
    "bitwise_and": "BitwiseAnd",
    "bitwise_or": "BitwiseOr",
    "bitwise_xor": "BitwiseXor",
}
_REAL: dict[str, Callable[[Any], Any]] = {
    **{name: getattr(np, name) for name in ("floor", "ceil", "round", "trunc", "exp", "log", "sqrt", "sin", "cos", "tan", "tanh", "fabs")},
    "nearbyint": np.rint,
    "rsqrt": lambda x: 1 / np.sqrt(x),
}
_FUNCTIONS = {
    *("exp", "exp2", "exp10", "log", "log2", "log10", "log1p", "sqrt", "rsqrt", "sigmoid", "tanh", "erf", "fabs", "floor", "ceil", "round"),
    *("trunc", "nearbyint", "sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh", "asinh", "acosh", "atanh"),
}


@dataclass(frozen=True)
class Term:
    """What computes an expression, and what it gives: "int" (booleans too), "real" or "field"."""

    at: Callable[[Env], Any]
    kind: str
    dtype: str

    def in_field(self) -> Callable[[Env], Array]:
        """The same as numbers of the field."""
        if self.kind == "field":
            return self.at
        at, dtype = self.at, self.dtype
        return (lambda env: field.of_floats(at(env), dtype)) if self.kind == "real" else (lambda env: field.of_integers(at(env)))


def is_float(dtype: str) -> bool:
    """Whether tensors of this type hold numbers of the field."""
    return dtype.startswith(("float", "bfloat"))


def storage(dtype: str) -> str:
    """The NumPy type of the arrays that hold it."""
    if is_float(dtype):
        return "int64"
    if dtype not in ("bool", *(f"{u}int{bits}" for u in ("", "u") for bits in (8, 16, 32, 64))):
        raise Undecided(f"elements of type {dtype}")
    return dtype


def empty(shape: tuple[int, ...], dtype: str) -> Array:
    """Memory that nobody has written: floats are no numbers, integers have a value that nothing else has."""
    return np.full(shape, field.NAN if is_float(dtype) else 77, storage(dtype))


class Expressions:
    """Translates the expressions of one PrimFunc. With `real`, what lies in memory is real too: of a function that is given nothing."""

    def __init__(self, real: bool = False) -> None:
        self.slots: dict[Any, int] = {}
        self._in_memory = "real" if real else "field"

    def slot(self, variable: Any) -> int:
        """The place of a variable, or buffer, in environments."""
        return self.slots.setdefault(variable, len(self.slots))

    def term(self, e: Any) -> Term:
        """The translation of any expression. Raises `Undecided` for what it does not know."""
        name = type(e).__name__
        dtype = str(e.ty.dtype) if hasattr(e.ty, "dtype") else ""
        if name == "Var":
            slot = self.slot(e)
            return Term(lambda env: env[slot], self._in_memory if is_float(dtype) else "int", dtype)
        if name == "IntImm":
            number = np.asarray(int(e)).astype(storage(dtype))
            return Term(lambda env: number, "int", dtype)
        if name == "FloatImm":
            real = np.float64(e.value)
            return Term(lambda env: real, "real", dtype)
        if name == "TensorLoad":
            return self._load(e, dtype)
        if name == "Cast":
            return self._cast(self.term(e.value), dtype)
        if name in ("Not", "BitwiseNot"):
            a = self.term(e.a).at
            return Term(lambda env: np.logical_not(a(env)), "int", dtype)
        if name == "Select":
            return self._select([e.condition, e.true_value, e.false_value], dtype)
        if name == "Let":
            return self._let(e, dtype)
        if name == "Call":
            return self._call(e, dtype)
        if hasattr(e, "a") and hasattr(e, "b"):
            return self._binary(name, self.term(e.a), self.term(e.b), dtype)
        raise Undecided(f"TIR expression {name}")

    def _let(self, e: Any, dtype: str) -> Term:
        slot, value, body = self.slot(e.var), self.term(e.value).at, self.term(e.body)
        return Term(lambda env: body.at({**env, slot: value(env)}), body.kind, dtype)

    def _binary(self, name: str, a: Term, b: Term, dtype: str) -> Term:
        if "field" not in (a.kind, b.kind):
            x, y = a.at, b.at
            real = "real" in (a.kind, b.kind)
            if name == "Div" and real:
                return Term(lambda env: np.divide(x(env), y(env)), "real", dtype)
            step = _COMPARED.get(name) or (_BINARY[name][0] if name in _BINARY else _WHOLE[name])
            return Term(lambda env: step(x(env), y(env)), "int" if name in _COMPARED or not real else "real", dtype)
        x, y = a.in_field(), b.in_field()
        if name in _COMPARED:
            step, even = _COMPARED[name], name == "NE"

            def compared(env: Env) -> Array:
                p, q = x(env), y(env)
                found = step(field.signed(p), field.signed(q))
                return np.where((p == field.NAN) | (q == field.NAN), even, found) if field.is_special(p) or field.is_special(q) else found

            return Term(compared, "int", dtype)
        if name == "Div":
            return Term(lambda env: field.divide(x(env), y(env)), "field", dtype)
        if name in _BINARY:
            combine = _BINARY[name][1]
            return Term(lambda env: combine(x(env), y(env)), "field", dtype)
        return Term(lambda env: field.unknown(name, x(env), y(env)), "field", dtype)  # the remainder of floats

    def _cast(self, x: Term, dtype: str) -> Term:
        at = x.at
        if is_float(dtype):
            if x.kind == "real" or (x.kind == "int" and x.dtype != "bool"):
                return Term(lambda env: np.asarray(at(env), "float64"), "real", dtype)
            return Term(x.in_field(), "field", dtype)
        if x.kind == "field":
            return Term(lambda env: field.to_integers(at(env), dtype), "int", dtype)
        made = storage(dtype)
        return Term(lambda env: np.asarray(at(env)).astype(made), "int", dtype)

    def _select(self, parts: list[Any], dtype: str) -> Term:
        condition, a, b = map(self.term, parts)
        test = condition.at
        if "field" in (a.kind, b.kind):
            x, y, kind = a.in_field(), b.in_field(), "field"
        else:
            x, y, kind = a.at, b.at, "real" if "real" in (a.kind, b.kind) else "int"

        def select(env: Env) -> Any:
            chosen = np.asarray(test(env))
            if chosen.ndim == 0:
                return x(env) if chosen else y(env)
            inside = {**env, OUTSIDE: [0]}  # what is not chosen may be read anywhere
            return np.where(chosen, x(inside), y(inside))

        return Term(select, kind, dtype)

    def _call(self, e: Any, dtype: str) -> Term:
        full = e.op.name if isinstance(e.op, tvm.ir.Op) else ""
        name = full.split(".")[-1]
        if name == "if_then_else":
            return self._select(list(e.args), dtype)
        if name in ("likely", "tvm_thread_invariant", "ignore_loop_partition"):
            return self.term(e.args[0])
        if name in _BITS:
            return self._binary(_BITS[name], self.term(e.args[0]), self.term(e.args[1]), dtype)
        if name == "bitwise_not":
            x = self.term(e.args[0]).at
            return Term(lambda env: np.bitwise_not(x(env)), "int", dtype)
        args = [self.term(arg) for arg in e.args] if name in _FUNCTIONS or name in ("pow", "atan2", "isnan", "isinf", "reinterpret") else []
        if name == "reinterpret":
            return self._reinterpreted(args[0], dtype)
        if name in ("isnan", "isinf") and args[0].kind == "field":
            x, kinds = args[0].at, [field.NAN] if name == "isnan" else [field.NEG, field.POS]
            return Term(lambda env: np.isin(x(env), kinds), "int", dtype)
        if name in ("pow", "atan2"):
            x, y = (arg.in_field() for arg in args)
            two: Callable[[Array, Array], Array] = field.power if name == "pow" else lambda a, b: field.unknown("atan2", a, b)
            return Term(lambda env: two(x(env), np.asarray(y(env))), "field", dtype)
        if args and args[0].kind != "field" and name in _REAL:
            x, real = args[0].at, _REAL[name]
            return Term(lambda env: real(np.asarray(x(env), "float64")), "real", dtype)
        if args and name in _FUNCTIONS:
            x = args[0].in_field()
            return Term(lambda env: field.function(name, x(env)), "field", dtype)
        raise Undecided(f"TIR function {full or e.op}")

    def _reinterpreted(self, x: Term, dtype: str) -> Term:
        if is_float(dtype) == is_float(x.dtype):
            at, made = x.at, storage(dtype)
            return Term(lambda env: np.asarray(at(env)).view(made), x.kind, dtype)
        at = x.in_field()
        bits = Term(lambda env: field.unknown(f"bits of {x.dtype} as {dtype}", at(env)), "field", dtype)
        return bits if is_float(dtype) else self._cast(bits, dtype)

    def _load(self, e: Any, dtype: str) -> Term:
        slot, indices = self.slot(e.source), [self.term(i).at for i in e.indices]

        def load(env: Env) -> Array:
            return read(env[slot], [index(env) for index in indices], env[OUTSIDE])

        return Term(load, self._in_memory if is_float(dtype) else "int", dtype)

    def stored(self, e: Any, dtype: str) -> Callable[[Env], Any]:
        """What computes a value as memory of this type has it."""
        term = self.term(e)
        return term.in_field() if is_float(dtype) and self._in_memory == "field" else term.at


def outside(index: Any, size: int) -> bool:
    """Whether any of some indices is outside of a dimension."""
    if np.ndim(index) == 0:
        return bool(index < 0 or index >= size)
    return bool(index.size) and bool(index.min() < 0 or index.max() >= size)


def read(memory: Array, indices: list[Any], count: list[int]) -> Array:
    """What lies at these places; outside of the memory nothing that was ever written, which is counted."""
    beyond: Any = None
    for axis, index in enumerate(indices):
        size = memory.shape[axis]
        if outside(index, size):
            wrong = (index < 0) | (index >= size)
            beyond = wrong if beyond is None else beyond | wrong
            indices[axis] = np.clip(index, 0, max(size - 1, 0))
    if beyond is None:
        return memory[tuple(indices)]
    count[0] += int(np.sum(beyond))
    shape = np.broadcast_shapes(*(np.shape(i) for i in indices))
    nothing = np.asarray(field.NAN if memory.dtype == np.int64 else 77).astype(memory.dtype)
    return np.where(beyond, nothing, memory[tuple(indices)] if memory.size else np.full(shape, nothing))


def size_of(e: Any, known: Mapping[Any, int], otherwise: Callable[[Any], int] | None = None) -> int:
    """The number that a size is where these variables are known; `otherwise` says what any other is."""
    if isinstance(e, int):
        return e
    expressions = Expressions()
    at = expressions.term(e).at
    env: Env = {slot: np.int64(known[v] if v in known or otherwise is None else otherwise(v)) for v, slot in expressions.slots.items()}
    return int(at({**env, OUTSIDE: [0]}))


def loads(e: Any) -> list[Any]:
    """Everything that an expression or statement reads from memory."""
    found: list[Any] = []
    tvm_ffi.structural_walk(e, ((tvm.ir.TensorLoad,), found.append))
    return found


def variables(e: Any) -> set[Any]:
    """The variables in an expression."""
    return set(tirx.analysis.undefined_vars(e)) if not isinstance(e, tvm.ir.Var) else {e}
