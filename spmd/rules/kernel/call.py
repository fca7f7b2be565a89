"""The kernel of one call_tir: its PrimFunc at the sizes of the call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import tvm
from tvm import tirx

from spmd.ir.expressions import static

from .model import Kernel, Unreadable
from .normal import normalized
from .reader import read_kernel

Dims = Sequence[Sequence[Any]]
KERNEL_CALLS = ("relax.call_tir", "relax.call_tir_inplace", "relax.call_tir_with_grad")
"""The operators that call a PrimFunc."""


@dataclass(frozen=True)
class CallKernel:
    """A kernel, and what a call gives it."""

    kernel: Kernel
    scalars: dict[Any, Any]
    """Parameter that is a number -> the Relax expression that the call passes."""
    symbols: dict[Any, Any]
    """Symbolic size of the PrimFunc -> the size of the call, a TVM expression."""


def kernel_key(call: Any, inputs: Dims, outputs: Dims) -> tuple[object, ...]:
    """Calls with equal keys have equal kernels."""
    shapes = tuple(tuple(static(d) for d in dims) for dims in (*inputs, *outputs))
    return (call.op.name, call.args[0].name_hint, shapes, aliases_of(call))


def read_call(func: tirx.PrimFunc, call: Any, inputs: Dims, outputs: Dims) -> CallKernel:
    """The kernel that `call` runs on tensors of these shapes. Raises `Unreadable` with the reason why not."""
    fields = list(call.args[1].fields) if hasattr(call.args[1], "fields") else [None] * len(call.args[1].ty.fields)
    types = list(call.args[1].ty.fields)
    aliases = aliases_of(call)
    fresh = len(outputs) if aliases is None else sum(i < 0 for i in aliases)
    if len(func.params) != len(types) + fresh:
        raise Unreadable(f"it takes {len(func.params)} parameters for {len(types)} arguments and {fresh} results")
    scalars: dict[Any, Any] = {}
    shapes = iter(inputs)
    given: list[tuple[Any, Sequence[Any]]] = []
    place: dict[int, int] = {}
    for i, (param, field, ty) in enumerate(zip(func.params, fields, types, strict=False)):
        if isinstance(ty, tvm.ir.PrimType):
            scalars[param] = field
        elif isinstance(param.ty, tirx.BufferType):
            place[i] = len(given)
            given.append((param, next(shapes)))
        else:
            raise Unreadable(f"its parameter {param.name!r} is no buffer, and is given a tensor")
    written = list(range(len(given), len(given) + fresh)) if aliases is None else []
    in_place = [place[i] for i in aliases or () if i >= 0]
    new = len(given)
    for i, dims in zip(aliases or [-1] * fresh, outputs, strict=True):
        if aliases is not None:
            written.append(place[i] if i >= 0 else new)
        if i < 0:
            given.append((func.params[len(types) + len(given) - len(place)], dims))
            new += 1
    symbols: dict[Any, Any] = {param: field for param, field in scalars.items() if static(field) is not None}
    for param, dims in given:
        if not isinstance(param.ty, tirx.BufferType) or len(param.ty.shape) != len(dims):
            raise Unreadable(f"its parameter {param.name!r} is no buffer of {len(dims)} dimensions")
        symbols.update({s: d for s, d in zip(param.ty.shape, dims, strict=True) if isinstance(s, tvm.ir.Var)})
    used = _sizes(func)
    known = {var: n for var, d in symbols.items() if (n := static(d)) is not None and var in used}
    return CallKernel(read_kernel(normalized(func, known), written, in_place), scalars, symbols)


def aliases_of(call: Any) -> tuple[int, ...] | None:
    """The argument that each result of a call_tir_inplace is written into, -1 for a new one; None for other calls."""
    return tuple(int(i) for i in call.attrs.inplace_indices) if call.op.name == "relax.call_tir_inplace" else None


def _sizes(func: tirx.PrimFunc) -> set[Any]:
    """The variables that stand for sizes of buffers."""
    return {s for p in func.params if isinstance(p.ty, tirx.BufferType) for s in p.ty.shape if isinstance(s, tvm.ir.Var)}
