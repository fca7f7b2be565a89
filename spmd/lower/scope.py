"""What a worker holds while a function is lowered: the variables of values at shardings, those of one branch apart from the other's."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Generator, MutableMapping
from contextlib import contextmanager
from typing import Any

from tvm import relax

from spmd.errors import ShardingError
from spmd.placement.layout import same_placement
from spmd.placement.mesh import Mesh
from spmd.placement.sharding import Sharding
from spmd.program.graph import Value

from .carried import Carried
from .kept import WAY_OUT
from .translation import Translation


class Scope(Translation):
    """The expressions of one function in the terms of the lowered one, tensors among them. Operators, moves and branches share it."""

    def __init__(self, builder: relax.BlockBuilder, name: str, source: relax.Function, mesh: Mesh, carried: Carried) -> None:
        super().__init__(builder, name, source, carried)
        self.source, self.mesh = source, mesh
        self._held: MutableMapping[tuple[Value, Sharding | None], Any] = {}
        self._fields: dict[tuple[Value, Sharding], tuple[Any, tuple[int, ...]]] = {}
        """Weights in a packed tuple that nothing has used yet."""
        self._dims: dict[Value, tuple[Any, ...]] = {}
        """The global shapes of parameters with symbolic sizes, in the terms of this function."""

    def dims(self, value: Value) -> tuple[Any, ...]:
        """The global shape of a value, in the terms of this function."""
        return self._dims.get(value, value.dims)

    def name_dims(self, value: Value, dims: tuple[Any, ...]) -> None:
        """A weight's symbolic sizes are named by each function for itself."""
        self._dims[value] = dims

    def hold(self, value: Value, sharding: Sharding, expr: Any) -> None:
        """A worker has the value so; an object it has in one way only."""
        self._held[value, sharding if value.is_tensor else None] = expr

    def hold_field(self, value: Value, sharding: Sharding, made: Any, path: tuple[int, ...]) -> None:
        """The value is the field at `path` of the parameter `made`; it is taken out where it is first used."""
        self._fields[value, sharding] = made, path

    def held(self, value: Value, sharding: Sharding) -> Any:
        """The variable of a value at a sharding. Raises `ShardingError` where no step has made it."""
        key = (value, sharding if value.is_tensor else None)
        found = self._held.get(key)
        if found is None:
            found = self._held[key] = self._given(value, sharding)
        return found

    def _given(self, value: Value, sharding: Sharding) -> Any:
        if value.role == "constant" and sharding.is_replicated:
            return value.data
        alike = next((expr for (v, at), expr in self._held.items() if v is value and at and same_placement(at, sharding, self.mesh)), None)
        if alike is not None:
            return alike
        if (value, sharding) not in self._fields:
            what = f"a step takes it as {sharding}, and none before has made it so"
            raise ShardingError(f"{self.name}: {value.name!r}", what, WAY_OUT)
        made, path = self._fields[value, sharding]
        name = value.name.replace("[", "_").replace("]", "")  # as it may stand in the source of kernels
        for index in path:
            made = self.bb.emit(relax.TupleGetItem(made, index), name)
        return made

    @contextmanager
    def branch(self) -> Generator[None]:
        """What one branch makes is not there in the other, or after."""
        outside = self._held
        self._held = ChainMap({}, outside)
        yield
        self._held = outside
