"""Operands of several dtypes as PyTorch takes them: both become what its rules of promotion say, where TVM's importer keeps the first's."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

from tvm import relax
from tvm.relax import op

from .torch_nodes import dtype_of

_COMPARED = ("eq", "ne", "lt", "le", "gt", "ge")
_COMPUTED = ("add", "sub", "rsub", "mul", "div", "true_divide", "floor_divide", "remainder", "fmod", "pow", "maximum", "minimum", "atan2")

_SCALED = ("add", "sub", "rsub")
"""Operators that multiply their second operand by a third, `alpha`, if it is given."""


def promoted(name: str, convert: Callable[[Any], Any], importer: Any) -> Callable[[Any], Any]:
    """A conversion of the operator `name` whose operands are cast before, where it is arithmetic or a comparison, or chooses of two."""
    kind = name.partition(".")[0]
    if kind not in (*_COMPARED, *_COMPUTED, "where"):
        return convert

    def of_node(node: Any) -> Any:
        if not hasattr(node.meta["val"], "dtype"):  # of sizes
            return convert(node)
        kept = {arg: importer.env[arg] for arg in _tensors(node, kind)}
        wanted = _dtype(node, kind)
        try:
            for arg, value in kept.items():
                if wanted and str(value.ty.dtype) != wanted:
                    importer.env[arg] = importer.block_builder.emit(op.astype(value, wanted))
            is_scaled = kind in _SCALED and (len(node.args) > 2 or "alpha" in node.kwargs)
            return _scaled(node, importer, kind) if is_scaled else convert(node)
        finally:
            importer.env.update(kept)

    return of_node


def _scaled(node: Any, importer: Any, kind: str) -> Any:
    """``add(a, b, alpha)`` is a + alpha b, `sub` a - alpha b, `rsub` b - alpha a."""
    emit = importer.block_builder.emit
    a, b, alpha = (_as_tensor(value, node) for value in (*importer.retrieve_args(node), *node.kwargs.values()))
    a, b = (b, a) if kind == "rsub" else (a, b)
    return emit((op.add if kind == "add" else op.subtract)(a, emit(op.multiply(b, alpha))))


def _as_tensor(value: Any, node: Any) -> Any:
    return value if isinstance(value, relax.Expr) else relax.const(value, dtype_of(node))


def _tensors(node: Any, kind: str) -> list[Any]:
    return [arg for arg in node.args[1 if kind == "where" else 0 :] if hasattr(arg, "meta")]


def _dtype(node: Any, kind: str) -> str:
    """What its operands are cast to; empty for what TVM's importer says of itself."""
    torch: Any = import_module("torch")
    made: Any = node.meta["val"].dtype
    if kind in _COMPARED:
        made = torch.result_type(*(arg.meta["val"] if hasattr(arg, "meta") else arg for arg in node.args[:2]))
    return "" if made.is_complex else str(made).removeprefix("torch.")


def checked(made: Any, node: Any, builder: Any) -> Any:
    """What was made for a node, in the dtype that it has in PyTorch. Raises `ValueError` where its shape is another one."""
    value: Any = node.meta.get("val")
    kind: Any = getattr(made, "ty", None)
    if not hasattr(value, "dtype") or value.is_complex() or type(kind) is not relax.TensorType or kind.shape is None:
        return made
    found, wanted = ([_known(size) for size in shape] for shape in (kind.shape, value.shape))
    if len(found) != len(wanted) or any(a != b for a, b in zip(found, wanted, strict=True) if a is not None and b is not None):
        raise ValueError(f"it makes {found}, and PyTorch {wanted}")
    dtype = dtype_of(value)
    return made if str(kind.dtype) == dtype else builder.emit(op.astype(made, dtype))


def _known(size: Any) -> int | None:
    """A size, or None where it is symbolic."""
    number = getattr(size, "value", size)
    return number if isinstance(number, int) else None


def div(node: Any, importer: Any) -> Any:
    """Of operands of one dtype, or a tensor and a number."""
    emit = importer.block_builder.emit
    values = importer.retrieve_args(node)[:2]
    kind = next(str(value.ty.dtype) for value in values if isinstance(value, relax.Expr))
    a, b = (value if isinstance(value, relax.Expr) else relax.const(value, kind) for value in values)
    rounding = node.kwargs.get("rounding_mode", node.args[2] if len(node.args) > 2 else None)
    if rounding == "floor":
        return emit(op.floor_divide(a, b))
    made = emit(op.divide(a, b))
    return emit(op.trunc(made)) if rounding == "trunc" and "int" not in kind else made
