"""A worker's end of the collectives."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

from spmd.placement.mesh import Mesh

from .slots import Call, Record, records

Tensor = Any  # tvm.runtime.Tensor: TVM ships no types


class Endpoint(ABC):
    """One worker's part in a run, whatever carries its collectives."""

    def __init__(self, mesh: Mesh, rank: int) -> None:
        self.mesh, self.rank = mesh, rank

    def begin(self) -> None:  # noqa: B027 -- a default: nothing to do
        """Note that a run begins, in the worker's own thread."""

    @abstractmethod
    def abort(self, why: str) -> None:
        """Release every worker of this run, with `CollectiveError`: this one cannot go on."""

    def finish(self) -> None:  # noqa: B027 -- a default: nothing to do
        """Note that this worker's function has returned: whoever still waits for it waits in vain."""

    def close(self) -> None:  # noqa: B027 -- a default: nothing to do
        """Give back what this endpoint holds."""

    @abstractmethod
    def recorded(self) -> Callable[[], tuple[Record, ...]]:
        """What gives the collectives of the run so far, in order, when somebody asks: to list them takes longer than a short run does."""

    def trace(self) -> tuple[Record, ...]:
        """The collectives of the run so far, in order."""
        return self.recorded()()


class Communicator(Endpoint):
    """An endpoint that does collectives one by one, as Python asks. A test of it is `tests/collectives/test_backends.py`.

    The six operations take the tensor of this worker and a mesh axis (or several joined, ``"dp+tp"``, the first one major),
    write the result into `out`, and have what their namesakes in `spmd.collectives.dialect` say as meaning. `value` names what is
    moved, for errors. An operation returns when `out` may be read and `x` overwritten by what comes next (on a GPU: in the order
    of the stream), and raises
    `CollectiveError` for every worker when they cannot all complete it.
    """

    def __init__(self, mesh: Mesh, rank: int) -> None:
        super().__init__(mesh, rank)
        self.calls: list[Call] = []

    def begin(self) -> None:
        """See `Endpoint`."""
        self.calls = []

    @abstractmethod
    def all_reduce(self, x: Tensor, axis: str, kind: str, value: str, out: Tensor) -> None:
        """Reduce `x` by `kind` (sum, max, min, prod) over `axis`."""

    @abstractmethod
    def all_gather(self, x: Tensor, axis: str, dim: int, value: str, out: Tensor) -> None:
        """Concatenate the workers' `x` along `dim`, in order along `axis`."""

    @abstractmethod
    def reduce_scatter(self, x: Tensor, axis: str, kind: str, dim: int, value: str, out: Tensor) -> None:
        """Reduce over `axis` and keep this worker's part of `dim`."""

    @abstractmethod
    def all_to_all(self, x: Tensor, axis: str, split_dim: int, concat_dim: int, value: str, out: Tensor) -> None:
        """Send the i-th part of `split_dim` to worker i of `axis`; concatenate what arrives along `concat_dim`."""

    @abstractmethod
    def permute(self, x: Tensor, axis: str, pairs: Sequence[int], value: str, out: Tensor) -> None:
        """Send along (source, target) pairs, given flat: ``s0, t0, s1, t1, ...``; zeros for who receives nothing."""

    @abstractmethod
    def broadcast(self, x: Tensor, axis: str, root: int, value: str, out: Tensor) -> None:
        """Give every worker of `axis` the `x` of the one at position `root`."""

    def bundle(self, kind: str, xs: Sequence[Tensor], axis: str, own: Sequence[Any], values: Sequence[str], outs: Sequence[Tensor]) -> None:
        """Do `kind`, with the attributes `own`, to each of `xs`: together where a backend can, such as between group calls of NCCL."""
        for x, value, out in zip(xs, values, outs, strict=True):
            getattr(self, kind)(x, axis, *own, value, out)

    def axis_index(self, axis: str, out: Tensor) -> None:
        """Write this worker's position along `axis`: nothing is communicated."""
        out.copyfrom(self.mesh.index(self.rank, (axis,)))

    def recorded(self) -> Callable[[], tuple[Record, ...]]:
        """See `Endpoint`."""
        calls = self.calls
        return lambda: records(calls)
