"""The operators of JAX as those of Relax, one after another as JAX traces them; what calls others is put in their place."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from tvm import relax

Op = relax.op
_Values = list[Any]


class Unknown(Exception):
    """An operator that is not known, or one that is asked for what it is not known to do."""


_ELEMENTWISE: dict[str, Callable[..., Any]] = {
    **{
        name: getattr(Op, name)
        for name in ("exp", "log", "tanh", "rsqrt", "sqrt", "sin", "cos", "erf", "abs", "floor", "ceil", "sign", "square")
    },
    **{"logistic": Op.sigmoid, "neg": Op.negative, "is_finite": Op.isfinite},
    **{"add": Op.add, "add_any": Op.add, "sub": Op.subtract, "mul": Op.multiply, "max": Op.maximum, "min": Op.minimum, "pow": Op.power},
    **{"eq": Op.equal, "ne": Op.not_equal, "lt": Op.less, "le": Op.less_equal, "gt": Op.greater, "ge": Op.greater_equal},
}
_LOGICAL: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "and": (Op.logical_and, Op.bitwise_and),
    "or": (Op.logical_or, Op.bitwise_or),
    "xor": (Op.logical_xor, Op.bitwise_xor),
    "not": (Op.logical_not, Op.bitwise_not),
}
_REDUCED: dict[str, Callable[..., Any]] = {"reduce_sum": Op.sum, "reduce_max": Op.max, "reduce_min": Op.min}
_OF_BOOLEANS: dict[str, Callable[..., Any]] = {"reduce_or": Op.max, "reduce_and": Op.min}
_OF_NUMBERS = ("max", "min", "lt", "le", "gt", "ge", *_REDUCED, *_OF_BOOLEANS)
"""What TVM has for numbers only: booleans are 0 and 1 there."""
_SAME = ("stop_gradient", "copy", "copy_p")
_CALLS = ("jit", "pjit", "custom_jvp_call", "custom_vjp_call", "checkpoint", "closed_call", "remat")
_MOST_FACTORS = 8
"""The largest power that is made of products."""


def check(jaxpr: Any) -> None:
    """Raises `Unknown` for an operator that is not known, here or in what is called."""
    for equation in jaxpr.eqns:
        if equation.primitive.name not in KNOWN:
            raise Unknown(f"the operator {equation.primitive.name!r} is not known")
        if equation.primitive.name in _CALLS:
            inner = _called(equation)
            check(getattr(inner, "jaxpr", inner))


def _called(equation: Any) -> Any:
    return equation.params.get("jaxpr", equation.params.get("call_jaxpr"))


class Reader:
    """Emits the operators of a trace, and compares each value with the shape and dtype that JAX says."""

    def __init__(self, builder: relax.BlockBuilder) -> None:
        self._builder = builder

    def closed(self, traced: Any, inputs: Sequence[Any]) -> _Values:
        """The results of a trace with its constants."""
        return self._jaxpr(traced.jaxpr, [relax.const(np.asarray(const)) for const in traced.consts], inputs)

    def _jaxpr(self, jaxpr: Any, consts: Sequence[Any], inputs: Sequence[Any]) -> _Values:
        values = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *inputs], strict=True))

        def value(var: Any) -> Any:
            return relax.const(np.asarray(var.val, var.aval.dtype)) if hasattr(var, "val") else values[var]

        for equation in jaxpr.eqns:
            values.update(zip(equation.outvars, self._equation(equation, [value(var) for var in equation.invars]), strict=True))
        return [value(var) for var in jaxpr.outvars]

    def _equation(self, equation: Any, given: _Values) -> _Values:
        name = equation.primitive.name
        if name in _CALLS:
            inner = _called(equation)
            return self.closed(inner, given) if hasattr(inner, "consts") else self._jaxpr(inner, [], given)
        if name in _SAME:
            return given
        aval = equation.outvars[0].aval
        try:
            found = self._builder.emit(self._made(name, equation, given))
        except Unknown:
            raise
        except Exception as error:
            raise Unknown(f"{name!r} of {given[0].ty} fails in TVM: {type(error).__name__}: {error}") from error
        shape = tuple(int(dim) for dim in found.ty.shape)
        if (shape, str(found.ty.dtype)) != (tuple(aval.shape), str(aval.dtype)):
            raise Unknown(f"{name!r} makes {found.ty.dtype}{list(shape)}, where JAX has {aval.dtype}{list(aval.shape)}")
        return [found]

    def _made(self, name: str, equation: Any, given: _Values) -> Any:
        params, shape = equation.params, [int(dim) for dim in equation.outvars[0].aval.shape]
        dtypes = [str(var.aval.dtype) for var in equation.invars]
        shapes = [[int(dim) for dim in var.aval.shape] for var in equation.invars]
        if name in _OF_BOOLEANS and dtypes[0] != "bool":
            raise Unknown(f"{name!r} is known of booleans")
        if name in _OF_NUMBERS and dtypes[0] == "bool":
            found = self._builder.emit(_plain(name, params, [self._builder.emit(Op.astype(x, "int8")) for x in given]))
            return Op.astype(found, "bool")
        if name in ("neg", "sign") and dtypes[0].startswith("uint"):
            zero, one = (relax.const(np.full((), value, dtypes[0])) for value in (0, 1))
            return Op.subtract(zero, given[0]) if name == "neg" else Op.minimum(given[0], one)
        if name in _ELEMENTWISE or name in _REDUCED:
            return _plain(name, params, given)
        if name in _LOGICAL:
            return _LOGICAL[name][dtypes[0] != "bool"](*given)
        return getattr(self, f"_{name}")(params, given, shapes, dtypes, shape)

    def _div(self, params: Any, given: _Values, shapes: list[list[int]], dtypes: list[str], shape: list[int]) -> Any:
        if not dtypes[0].startswith(("float", "bfloat")):
            raise Unknown(f"'div' of {dtypes[0]} is not known: it rounds towards zero")
        return Op.divide(*given)

    def _integer_pow(self, params: Any, given: _Values, shapes: list[list[int]], dtypes: list[str], shape: list[int]) -> Any:
        power = int(params["y"])
        if not 1 <= abs(power) <= _MOST_FACTORS:
            raise Unknown(f"'integer_pow' by {power} is not known")
        made = given[0]
        for _ in range(abs(power) - 1):
            made = self._builder.emit(Op.multiply(made, given[0]))
        one = relax.const(np.ones((), dtypes[0]))
        return Op.divide(one, made) if power < 0 else Op.multiply(made, one)

    def _convert_element_type(self, params: Any, given: _Values, shapes: list[list[int]], dtypes: list[str], shape: list[int]) -> Any:
        return Op.astype(given[0], str(np.dtype(params["new_dtype"])))

    def _select_n(self, params: Any, given: _Values, shapes: list[list[int]], dtypes: list[str], shape: list[int]) -> Any:
        if dtypes[0] != "bool" or len(given) != 3:
            raise Unknown("'select_n' is known of two cases")
        return Op.where(given[0], given[2], given[1])

    def _clamp(self, params: Any, given: _Values, shapes: list[list[int]], dtypes: list[str], shape: list[int]) -> Any:
        return Op.minimum(self._builder.emit(Op.maximum(given[1], given[0])), given[2])

    def _reshape(self, params: Any, given: _Values, shapes: list[list[int]], dtypes: list[str], shape: list[int]) -> Any:
        if params.get("dimensions") is not None:
            raise Unknown("'reshape' with another order of dimensions is not known")
        return Op.reshape(given[0], shape)

    def _squeeze(self, params: Any, given: _Values, shapes: list[list[int]], dtypes: list[str], shape: list[int]) -> Any:
        return Op.reshape(given[0], shape)

    def _transpose(self, params: Any, given: _Values, shapes: list[list[int]], dtypes: list[str], shape: list[int]) -> Any:
        return Op.permute_dims(given[0], list(params["permutation"]))

    def _broadcast_in_dim(self, params: Any, given: _Values, shapes: list[list[int]], dtypes: list[str], shape: list[int]) -> Any:
        among = [1] * len(shape)
        for size, at in zip(shapes[0], params["broadcast_dimensions"], strict=True):
            among[at] = size
        data = given[0] if among == shapes[0] else self._builder.emit(Op.reshape(given[0], among))
        return Op.broadcast_to(data, shape)

    def _concatenate(self, params: Any, given: _Values, shapes: list[list[int]], dtypes: list[str], shape: list[int]) -> Any:
        return Op.concat(given, axis=int(params["dimension"]))

    def _slice(self, params: Any, given: _Values, shapes: list[list[int]], dtypes: list[str], shape: list[int]) -> Any:
        strides = list(params["strides"] or [1] * len(shape))
        return Op.strided_slice(given[0], list(range(len(shape))), list(params["start_indices"]), list(params["limit_indices"]), strides)

    def _iota(self, params: Any, given: _Values, shapes: list[list[int]], dtypes: list[str], shape: list[int]) -> Any:
        at = int(params["dimension"])
        line = self._builder.emit(Op.arange(0, shape[at], 1, dtype=str(np.dtype(params["dtype"]))))
        return Op.broadcast_to(self._builder.emit(Op.reshape(line, [n if i == at else 1 for i, n in enumerate(shape)])), shape)

    def _dot_general(self, params: Any, given: _Values, shapes: list[list[int]], dtypes: list[str], shape: list[int]) -> Any:
        """A product of matrices behind the dimensions that both have: each side is turned, and flattened where it has several of a kind."""
        (left, right), (batch, batch_of_right) = params["dimension_numbers"]
        lead = [shapes[0][i] for i in batch]
        free = [
            [i for i in range(len(s)) if i not in c and i not in b]
            for s, c, b in zip(shapes, (left, right), (batch, batch_of_right), strict=True)
        ]
        single = len(left) == 1 and len(free[1]) == 1
        whole = single and (len(free[0]) == 1 or (len(free[0]) > 1 and not lead))
        inner = [math.prod(shapes[0][i] for i in left)]
        rows, columns = ([s[i] for i in f] for s, f in zip(shapes, free, strict=True))
        a = self._turned(given[0], [*batch, *free[0], *left], None if whole else [*lead, math.prod(rows), *inner])
        b = self._turned(given[1], [*batch_of_right, *right, *free[1]], None if whole else [*lead, *inner, math.prod(columns)])
        product = Op.matmul(a, b, out_dtype=str(np.dtype(params["preferred_element_type"] or dtypes[0])))
        return product if whole else Op.reshape(self._builder.emit(product), shape)

    def _turned(self, value: Any, order: Sequence[int], shape: list[int] | None) -> Any:
        if list(order) != list(range(len(order))):
            value = self._builder.emit(Op.permute_dims(value, list(order)))
        return value if shape is None else self._builder.emit(Op.reshape(value, shape))

    def _gather(self, params: Any, given: _Values, shapes: list[list[int]], dtypes: list[str], shape: list[int]) -> Any:
        """Rows by their numbers, as of an embedding."""
        numbers = params["dimension_numbers"]
        at = tuple(numbers.start_index_map)
        sizes = [n for i, n in enumerate(shapes[0]) if i not in at]
        last = tuple(range(len(shape) - len(sizes), len(shape)))
        rows = len(at) == 1 and tuple(numbers.collapsed_slice_dims) == at == (0,) and tuple(numbers.offset_dims) == last
        if not rows or list(params["slice_sizes"]) != [1, *sizes] or "PROMISE_IN_BOUNDS" not in str(params["mode"]):
            raise Unknown("'gather' is known of rows by their numbers, as table[ids], that are in bounds")
        return Op.take(given[0], self._builder.emit(Op.reshape(given[1], shapes[1][:-1])), axis=0)


def _plain(name: str, params: Any, given: _Values) -> Any:
    """What has one operator of Relax for it."""
    reduced = {**_REDUCED, **_OF_BOOLEANS}.get(name)
    return reduced(given[0], axis=list(params["axes"])) if reduced else _ELEMENTWISE[name](*given)


KNOWN = tuple(
    sorted(
        {*_ELEMENTWISE, *_LOGICAL, *_REDUCED, *_OF_BOOLEANS, *_SAME, *_CALLS}
        | {"div", "integer_pow", "convert_element_type", "select_n", "clamp", "reshape", "squeeze", "transpose", "broadcast_in_dim"}
        | {"concatenate", "slice", "iota", "dot_general", "gather"}
    )
)
"""The names of the operators that are known."""
