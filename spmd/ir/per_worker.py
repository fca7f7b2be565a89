"""How the program of one worker is known from a program for one device: by its collectives, or by an attribute where it has none."""

from __future__ import annotations

from typing import Any

import tvm
import tvm_ffi
from tvm import relax

from spmd.errors import ShardingError

WORKERS = "spmd.workers"
"""The attribute of a function that is one worker's and has no collective: how many workers there are."""
DONATED = "spmd.donated"
"""The attribute of a function that has pairs of paths: a field of the result, and a parameter, or a field of it, whose memory it takes."""
_PREFIX, _HINT = "relax.spmd.", "relax.spmd.hint"
_WAY_OUT = "Start from the module that was sharded."


def is_collective(op: str) -> bool:
    """Whether this operator, or packed function, is one of the dialect's or of a slot of it, which only workers run."""
    return (op.startswith(_PREFIX) and op != _HINT) or ".".join(op.split(".")[:2]) in _CARRIED


def already(sign: str) -> tuple[str, str]:
    """What an error says of a function with such a sign, and the way out."""
    return f"it is the program of one worker already, {sign}", _WAY_OUT


def check_whole(mod: tvm.IRModule, where: str, way_out: str = _WAY_OUT) -> None:
    """Raise `ShardingError` where a function of the module is the program of one of several workers already."""
    for var, function in mod.functions_items():
        if isinstance(function, relax.Function):
            found = sign_of(function)
            if found:
                raise ShardingError(f"{where}, function {var.name_hint!r}", already(found)[0], way_out)


def sign_of(function: relax.Function) -> str:
    """What shows that a function is that of one of several workers; empty where nothing does."""
    if function.attrs and WORKERS in function.attrs:
        return f"it was sharded over {function.attrs[WORKERS]} workers"
    calls: list[Any] = []
    tvm_ffi.structural_walk(function.body, [((tvm.ir.Call,), calls.append)])
    names = [called for call in calls for called in (call.op, *call.args[:1])]  # the packed function that an operator calls stands first
    found = [n for n in (str(getattr(called, "global_symbol", getattr(called, "name", ""))) for called in names) if is_collective(n)]
    return f"it has the collective {found[0].removeprefix('relax.')}" if found else ""


_CARRIED = frozenset(
    f"spmd.{name}" for name in ("all_reduce", "all_gather", "reduce_scatter", "all_to_all", "permute", "broadcast", "axis_index")
)
