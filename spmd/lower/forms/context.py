"""What a form is given, and the table of all forms."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tvm
from tvm import relax

from spmd import collectives
from spmd.errors import ShardingError
from spmd.lower.reshard import local_dims
from spmd.placement.dtypes import ends, numpy_dtype
from spmd.placement.layout import pieces
from spmd.placement.mesh import Mesh
from spmd.placement.sharding import Split
from spmd.plan.steps import Compute
from spmd.program.graph import Node
from spmd.rules.model import Rule


def _no_kernel(*_: Any) -> Any:
    raise ShardingError("form", "it asks for the kernel of an operator that calls none")


@dataclass
class FormContext:
    """One operator call whose factor `factor` is split by `split`. A form returns the local output, or a tuple of them."""

    emit: Callable[[Any], Any]
    """Binds a Relax expression to a variable and returns it."""
    node: Node
    choice: Compute
    args: list[Any]
    """The local tensors, in the order of the rule's inputs. What stands in padding is arbitrary."""
    mesh: Mesh
    factor: str
    split: Split
    kernel: Callable[[], Any] = _no_kernel
    """Reads the PrimFunc that a call_tir calls: a `kernel.CallKernel`."""
    add_function: Callable[[Any, str], Any] = _no_kernel
    """Adds a PrimFunc to the lowered module under a name like this, and gives its GlobalVar."""
    number: Callable[[Any], Any] = _no_kernel
    """What stands in the lowered function for a number of the original one."""

    @property
    def call(self) -> Any:
        """The original call, for its attributes and scalar arguments."""
        return self.node.binding.value

    @property
    def attrs(self) -> Any:
        """The attributes of the local call: those of the original one, as the split factors make them."""
        if self.rule.local_attrs is None:
            return self.call.attrs
        local = self.rule.local_attrs(lambda f: self.splits[f].local_size(self.mesh) if f in self.splits else self.rule.sizes[f] or 0)
        return tvm.ir.make_node(self.call.attrs.__tvm_ffi_type_info__.type_key, **local)

    @property
    def rule(self) -> Rule:
        """The rule of the call."""
        return self.node.rule

    @property
    def splits(self) -> dict[str, Split]:
        """How this factor and those that are split with it are split."""
        return dict(self.choice.splits)

    @property
    def axis(self) -> str:
        """The mesh axis over which the factor is split; several are joined by ``+``."""
        return self.split.axis

    @property
    def workers(self) -> int:
        """The number of workers along that axis."""
        return self.mesh.axis_size(*self.split.axes)

    @property
    def size(self) -> int:
        """What each worker holds of the factor, padding included."""
        return self.split.local_size(self.mesh)

    @property
    def padded(self) -> bool:
        """Whether some worker holds padding."""
        return self.split.is_padded(self.mesh)

    def local_shape(self, output: int = 0) -> list[Any]:
        """What each worker holds of output number `output`."""
        return local_dims(self.node.outputs[output].dims, self.choice.outputs[output], self.mesh)

    def dim_of(self, tensor: int, factor: str | None = None, *, output: bool = False) -> int:
        """The dimension of input (or output) number `tensor` that holds a factor: the one that is split, where none is named."""
        spec = (self.rule.outputs if output else self.rule.inputs)[tensor]
        return next(i for i, dim in enumerate(spec) if any((factor or self.factor) in piece for piece in dim))

    def index(self) -> Any:
        """The place of the worker along the axis: a rank-0 int64 tensor."""
        return self.emit(collectives.axis_index(self.axis, self.workers))

    def own(self, table: np.ndarray[Any, Any]) -> Any:
        """Row number `index` of a constant with one row a worker."""
        return self.emit(relax.op.take(relax.const(table, str(table.dtype)), self.index(), axis=0, mode="clip"))

    def start(self, dtype: str) -> Any:
        """Where the shard of this worker starts, if the factor is split in one segment: a rank-0 tensor."""
        first = self.emit(relax.op.multiply(self.index(), self.scalar(self.size, "int64")))
        return first if dtype == "int64" else self.emit(relax.op.astype(first, dtype))

    def signed(self, indices: Any) -> Any:
        """`indices` in a dtype that holds any place in the factor, and differences of places."""
        wide = str(indices.ty.dtype) in ("int32", "int64")
        return indices if wide else self.emit(relax.op.astype(indices, "int64"))

    def in_shard(self, indices: Any) -> tuple[Any, Any]:
        """Whether each global index is in the shard of this worker, and its place there, 0 where it is not; for one segment."""
        indices = self.signed(indices)
        dtype = str(indices.ty.dtype)
        here, zero = self.emit(relax.op.subtract(indices, self.start(dtype))), self.scalar(0, dtype)
        above, below = relax.op.greater_equal(here, zero), relax.op.less(here, self.scalar(self.size, dtype))
        inside = self.emit(relax.op.logical_and(self.emit(above), self.emit(below)))
        return inside, self.emit(relax.op.where(inside, here, zero))

    def positions(self) -> Any:
        """[size] int64: the global position of each element of the factor; the whole size where there is padding."""
        return self.own(self.places())

    def places(self) -> np.ndarray[Any, Any]:
        """`positions` of all workers, a row each."""
        table = np.full((self.workers, self.size), self.split.size, "int64")
        for worker in range(self.workers):
            for start, local, valid, _ in pieces(self.split, self.mesh, worker):
                table[worker, local : local + valid] = np.arange(start, start + valid)
        return table

    def valid(self, rank: int, dim: int) -> Any:
        """Whether each element is no padding: a bool tensor of `rank` dimensions, size 1 in all but `dim`."""
        table = np.zeros((self.workers, self.size), "bool")
        for worker in range(self.workers):
            for _, local, valid, _ in pieces(self.split, self.mesh, worker):
                table[worker, local : local + valid] = True
        return self.along(self.own(table), rank, dim)

    def along(self, vector: Any, rank: int, dim: int) -> Any:
        """A vector over the factor as a tensor of `rank` dimensions, size 1 in all but `dim`."""
        return self.emit(relax.op.reshape(vector, [self.size if d == dim else 1 for d in range(rank)]))

    def masked(self, x: Any, dim: int, fill: float) -> Any:
        """`x` with `fill` in its padding; infinities become the largest number of the dtype."""
        if not self.padded:
            return x
        dtype = str(x.ty.dtype)
        return self.emit(relax.op.where(self.valid(x.ty.ndim, dim), x, self.scalar(fill, dtype)))

    def scalar(self, value: float, dtype: str) -> Any:
        """A rank-0 constant; infinity is the largest number where the dtype has none."""
        number = ends(dtype)[value > 0] if np.isinf(value) else value
        return relax.const(np.array(number, numpy_dtype(dtype)), dtype)

    def nothing(self, dtype: str) -> Any:
        """What changes no sum, as a constant: of floats, the negative zero, as the positive one would turn its sign."""
        return self.scalar(-0.0, dtype)

    def all_reduce(self, x: Any, kind: str) -> Any:
        """`x` reduced over the workers of the axis."""
        return self.emit(collectives.all_reduce(x, self.axis, kind, self.workers, self.node.name))

    def all_gather(self, x: Any, dim: int) -> Any:
        """The `x` of all workers, one after another along `dim`."""
        return self.emit(collectives.all_gather(x, self.axis, dim, self.workers, self.node.name))

    def all_to_all(self, x: Any, split_dim: int, concat_dim: int) -> Any:
        """`x` cut along `split_dim`, each part sent to its worker, what is received put together along `concat_dim`."""
        return self.emit(collectives.all_to_all(x, self.axis, split_dim, concat_dim, self.workers, self.node.name))

    def permute(self, x: Any, pairs: Sequence[tuple[int, int]]) -> Any:
        """`x` sent from worker to worker by ``(source, target)`` pairs; zeros where nothing is received."""
        return self.emit(collectives.permute(x, self.axis, pairs, self.workers, self.node.name))


FormFunction = Callable[[FormContext], Any]
FORMS: dict[str, FormFunction] = {}


def form(name: str) -> Callable[[FormFunction], FormFunction]:
    """Register the form that rules call `name`."""

    def register(function: FormFunction) -> FormFunction:
        FORMS[name] = function
        return function

    return register


def run_form(
    name: str, emit: Callable[[Any], Any], node: Node, choice: Compute, args: list[Any], mesh: Mesh, **kernel: Callable[..., Any]
) -> Any:
    """The local output of a call, made by the form `name`; `kernel` are the fields of `FormContext` for calls of kernels."""
    if name not in FORMS:
        raise ShardingError(
            f"{node.function}: {node.op} {node.name!r}", f"its rule asks for the form {name!r}", f"There are {', '.join(FORMS)}."
        )
    factor, split = next((f, s) for f, s in choice.splits if f in node.rule.forms)
    made = FORMS[name](FormContext(emit, node, choice, args, mesh, factor, split, **kernel))
    return emit(relax.Tuple(list(made))) if isinstance(made, tuple) else made
