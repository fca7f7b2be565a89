"""The steps that take values from one sharding to another, written as Relax."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tvm_ffi
from tvm import relax

from spmd.errors import ShardingError
from spmd.placement.sharding import Sharding
from spmd.plan.steps import Bundle, Mask, Reorder, Transfer
from spmd.program.graph import Value
from spmd.transfers.conversion import Move
from spmd.transfers.local import is_packed, is_unpacked

from .kept import WAY_OUT
from .reshard import Payload, emit_collective, keep_own, local_dims, mask_padding, pack, unpack
from .scope import Scope


class Moves:
    """Writes the moves of one function. Between the parts of a move the value is in no sharding, and only the next part can take it."""

    def __init__(self, scope: Scope, values: dict[str, Value]) -> None:
        self._scope, self._values = scope, values
        self._between: dict[tuple[Value, Move], Any] = {}

    def emit(self, step: Transfer | Bundle | Reorder) -> None:
        """Write one step, after which a worker has the value as the step says."""
        if isinstance(step, Reorder):
            self._reorder(step)
        else:
            self._send(step.transfers if isinstance(step, Bundle) else (step,))

    def masked(self, step: Mask) -> Any:
        """The value as a reduction may take it in."""
        value, scope = self._values[step.value], self._scope
        held = scope.held(value, step.sharding)
        return mask_padding(scope.emit, held, scope.dims(value), step.sharding, scope.mesh, step.reduce)

    def cast(self, expr: Any, value: Value, *shardings: Sharding) -> Any:
        """What is split in blocks of an unknown size comes out as some multiple of them, ``n // 4 * 4``: say that it is ``n``.

        By a reshape, a view: the word was checked when the arguments came, and TVM follows a match_cast of n to a term in n for ever.
        """
        if not any(sharding.is_symbolic for sharding in shardings):
            return expr
        shape = local_dims(self._scope.dims(value), shardings[-1], self._scope.mesh)
        if expr.ty.shape is not None and tvm_ffi.structural_equal(relax.ShapeExpr(shape), expr.ty.shape):
            return expr
        return self._scope.emit(relax.op.reshape(expr, relax.ShapeExpr(shape)))

    def _reorder(self, step: Reorder) -> None:
        value, move, scope = self._values[step.value], step.move, self._scope
        taken = self._taken(value, move, step.kind)
        if step.kind == "pack":
            self._between[value, move] = pack(scope.emit, taken, move, scope.dims(value), scope.mesh)
        else:
            write = unpack if step.kind == "unpack" else keep_own
            self._arrive(value, move, write(scope.emit, taken, move, scope.dims(value), scope.mesh))

    def _send(self, transfers: Sequence[Transfer]) -> None:
        values = [self._values[step.value] for step in transfers]
        sent = [Payload(self._taken(v, step.move, step.move.kind), step.move, v.name) for v, step in zip(values, transfers, strict=True)]
        for value, step, made in zip(values, transfers, emit_collective(self._scope.emit, sent, self._scope.mesh), strict=True):
            if is_unpacked(step.move, self._scope.mesh):
                self._between[value, step.move] = made
            else:
                self._arrive(value, step.move, made)

    def _taken(self, value: Value, move: Move, part: str) -> Any:
        """The value where the part of the move before this one left it. Raises `ShardingError` where that is not the part before."""
        between = self._between.pop((value, move), None)
        follows = part == "unpack" or (part != "pack" and is_packed(move, self._scope.mesh))
        if follows != (between is not None):
            raise ShardingError(f"{self._scope.name}: {value.name!r}", f"the parts of its move to {move.target} are out of order", WAY_OUT)
        return between if follows else self._scope.held(value, move.source)

    def _arrive(self, value: Value, move: Move, expr: Any) -> None:
        self._scope.hold(value, move.target, self.cast(expr, value, move.source, move.target))
