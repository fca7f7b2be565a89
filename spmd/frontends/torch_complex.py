"""Complex numbers, which TVM does not have: a last dimension of two, real part and imaginary part. Rotary embeddings are written so."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from tvm import relax
from tvm.relax import op


def is_unknown(node: Any) -> bool:
    """Whether it takes or makes complex numbers, and there is no conversion of it."""
    return getattr(node.target, "__name__", "") not in _CONVERTED and any(map(_is_complex, (*node.args, node)))


def _polar(node: Any, importer: Any) -> Any:
    length, angle = importer.retrieve_args(node)
    emit = importer.block_builder.emit
    parts = [emit(op.multiply(length, emit(part(angle)))) for part in (op.cos, op.sin)]
    return emit(op.stack(parts, axis=-1))


def _same(node: Any, importer: Any) -> Any:
    return importer.env[node.args[0]]


def _unsqueeze(node: Any, importer: Any) -> Any:
    x, dim = node.args[0], int(node.args[1])
    return importer.block_builder.emit(op.expand_dims(importer.env[x], dim if dim >= 0 else dim + x.meta["val"].ndim + 1))


def _product(node: Any, importer: Any) -> Any:
    """``(a + bi) (c + di)``, broadcast as ever; one of the two may be real."""
    emit, values = importer.block_builder.emit, importer.retrieve_args(node)
    pairs = [value for arg, value in zip(node.args, values, strict=True) if _is_complex(arg)]
    if len(pairs) == 1:
        real = next(value for arg, value in zip(node.args, values, strict=True) if not _is_complex(arg))
        is_number = not isinstance(real, relax.Expr)
        return emit(op.multiply(pairs[0], relax.const(real, str(pairs[0].ty.dtype)) if is_number else emit(op.expand_dims(real, -1))))
    (a, b), (c, d) = ([emit(op.take(value, _index(i), axis=-1)) for i in range(2)] for value in pairs)
    real = emit(op.subtract(emit(op.multiply(a, c)), emit(op.multiply(b, d))))
    imaginary = emit(op.add(emit(op.multiply(a, d)), emit(op.multiply(b, c))))
    return emit(op.stack([real, imaginary], axis=-1))


def _index(i: int) -> Any:
    return relax.const(i, "int64")


def _is_complex(arg: Any) -> bool:
    value: Any = getattr(arg, "meta", {}).get("val")
    return hasattr(value, "is_complex") and bool(value.is_complex())


def with_pairs(known: Mapping[str, Callable[[Any], Any]], importer: Any) -> dict[str, Callable[[Any], Any]]:
    """The conversions of operators by name, which go another way where complex numbers are taken or made."""
    return {**known, **{name: _either(own, known.get(name), importer) for name, own in _CONVERTED.items()}}


def _either(own: Callable[[Any, Any], Any], other: Callable[[Any], Any] | None, importer: Any) -> Callable[[Any], Any]:
    def convert(node: Any) -> Any:
        return own(node, importer) if other is None or any(map(_is_complex, (*node.args, node))) else other(node)

    return convert


_CONVERTED: dict[str, Callable[[Any, Any], Any]] = {
    "polar.default": _polar,
    "view_as_complex.default": _same,
    "view_as_real.default": _same,
    "mul.Tensor": _product,
    "unsqueeze.default": _unsqueeze,
}
"""Name of an operator -> its conversion where complex numbers are taken or made."""
