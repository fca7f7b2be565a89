"""The signatures of a module for one worker."""

from __future__ import annotations

from typing import Any

import tvm
from tvm import relax

from spmd.ir.lift import constants_of
from spmd.placement.sharding import Sharding
from spmd.plan.decisions import Leaf, LeafTree, Signature


def signatures(mod: tvm.IRModule) -> dict[str, Signature]:
    """The signatures of a module for one worker: everything replicated."""
    found: dict[str, Signature] = {}
    for variable, function in mod.functions_items():
        if isinstance(function, relax.Function) and function.attrs and "global_symbol" in function.attrs:
            params = tuple(_tree(param.name, param.ty) for param in function.params)
            names = tuple(str(param.name) for param in function.params)
            number = function.attrs.get("num_input", None)
            outputs = _tree(variable.name_hint, function.ret_ty)
            own = len(params) - len(constants_of(function))
            constants = tuple(leaf for leaf in params[own:] if isinstance(leaf, Leaf))
            found[variable.name_hint] = Signature(params[:own], outputs, None if number is None else int(number), names[:own], constants)
    return found


def _tree(name: str, ty: Any) -> LeafTree:
    if isinstance(ty, relax.TupleType):
        return tuple(_tree(f"{name}.{i}", field) for i, field in enumerate(ty.fields))
    if isinstance(ty, relax.TensorType) and ty.shape is not None and isinstance(ty.shape, relax.ShapeExpr):
        sizes = tuple(int(s) if isinstance(s, tvm.tirx.IntImm) else str(s) for s in ty.shape.values)
        return Leaf(name, sizes, str(ty.dtype), Sharding.replicated(len(sizes)))
    return Leaf(name, None, str(getattr(ty, "dtype", "object")), None)
