"""Where the elements of a cut block are in the whole: positions for blocks that ask, and the block over local buffers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import tvm
import tvm_ffi
from tvm import tirx

from spmd.ir.expressions import static
from spmd.rules.kernel import Kernel


class Place:
    """Where the elements of a factor that a block variable runs over are, by the vector `places`."""

    def __init__(self, kernel: Kernel, var: Any, factor: str, places: Any, size: int) -> None:
        self.var, self.factor, self.places, self.size = var, factor, places, size
        self.minor = math.prod(kernel.sizes[f] or 1 for f in kernel.iters[var][1:])

    def major(self) -> Any:
        """The global position of the major part of the block variable."""
        dtype = str(self.var.ty.dtype)
        at = self.var if self.minor == 1 else tirx.floordiv(self.var, tirx.IntImm(dtype, self.minor))
        return tirx.BufferLoad(self.places, [at.astype("int64")]).astype(dtype)

    def whole(self) -> Any:
        """The global position that the block variable stands for."""
        if self.minor == 1:
            return self.major()
        minor = tirx.IntImm(str(self.var.ty.dtype), self.minor)
        return self.major() * minor + tirx.floormod(self.var, minor)

    def valid(self) -> Any:
        """Whether the element is no padding."""
        return self.major() < tirx.IntImm(str(self.var.ty.dtype), self.size)


class Rewrite:
    """Expressions of a block over local buffers, with global positions wherever one is asked for."""

    def __init__(self, kernel: Kernel, buffers: Mapping[Any, Any], places: Sequence[Place], factors: Sequence[str]) -> None:
        self.kernel, self.buffers, self.places, self.factors = kernel, buffers, {p.var: p for p in places}, factors

    def indices(self, buffer: Any, given: Sequence[Any]) -> list[Any]:
        """Where an element of `buffer` is in the local one: dimensions that hold one of the factors are indexed by local places."""
        held = [any(f in piece for piece in dim for f in self.factors) for dim in self.kernel.buffers[buffer]]
        return [i if local else self(i) for i, local in zip(given, held, strict=True)]

    def __call__(self, root: Any) -> Any:
        """The expression or statement, rewritten."""
        buffers = self.buffers

        def on_load(load: Any, _: Any) -> Any:
            return tirx.BufferLoad(buffers[load.source], self.indices(load.source, load.indices))

        def on_store(store: Any, mutator: Any) -> Any:
            return tirx.BufferStore(buffers[store.buffer], mutator.mutate(store.value), self.indices(store.buffer, store.indices))

        def on_mod(mod: Any, mutator: Any) -> Any:
            place = self.places.get(mod.a) if isinstance(mod.a, tvm.ir.Var) else None
            return mod if place and static(mod.b) and place.minor % (static(mod.b) or 1) == 0 else mutator.default_mutate(mod)

        def on_var(var: Any, _: Any) -> Any:
            return self.places[var].whole() if var in self.places else var

        callbacks = [(tvm.ir.TensorLoad, on_load), (tirx.BufferStore, on_store), (tirx.FloorMod, on_mod), (tvm.ir.Var, on_var)]
        return tvm_ffi.structural_mutate(root, callbacks)
