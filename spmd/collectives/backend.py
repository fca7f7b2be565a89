"""What carries collectives: the communicator of a worker, the backend that makes them, and the functions that TVM calls.

A compiled program calls ``spmd.all_reduce(x, ..., out)``; that finds the communicator of the calling worker and asks it.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, TypeVar

import tvm_ffi
from tvm.target import Target

from spmd import checks
from spmd.checks import door
from spmd.errors import ShardingError
from spmd.placement.mesh import Mesh

Tensor = Any  # tvm.runtime.Tensor: TVM ships no types
SEPARATOR = ", "
"""Between the names of what a bundle moves."""
T = TypeVar("T")


class CollectiveError(RuntimeError):
    """Workers that do not meet: they disagree on a collective, one failed or returned while others wait, or time is up."""


@dataclass(frozen=True)
class Record:
    """One tensor that one worker brought to a collective, as it ran.

    `bytes` is the size of the tensor that enters, on this worker; `shape` and `dtype` are that tensor's. `attrs` are what
    is the op's own: ``("sum",)`` for all_reduce, ``(dim,)`` for all_gather. Those of one call, a bundle,
    have the same `call`.
    """

    kind: str
    axis: str
    bytes: int
    dtype: str
    shape: tuple[int, ...]
    value: str
    attrs: tuple[Any, ...]
    call: int


class Communicator(ABC):
    """One worker's end of every collective. A backend is a subclass; a test of it is `tests/collectives/test_backends.py`.

    The seven operations take the tensor of this worker and a mesh axis (or several joined, ``"dp+tp"``, the first one major),
    write the result into `out`, and have what their namesakes in `spmd.collectives.dialect` say as meaning. `value` names what is
    moved, for errors. An operation returns when `out` may be read and `x` overwritten by what comes next (on a GPU: in the order
    of the stream), and raises
    `CollectiveError` for every worker when they cannot all complete it.
    """

    def __init__(self, mesh: Mesh, rank: int) -> None:
        self.mesh, self.rank = mesh, rank
        self.calls: list[tuple[Any, ...]] = []

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

    @abstractmethod
    def abort(self, why: str) -> None:
        """Release every worker of this run, with `CollectiveError`: this one cannot go on."""

    def finish(self) -> None:  # noqa: B027 -- a default: nothing to do
        """Note that this worker's function has returned: whoever still waits for it waits in vain."""

    def close(self) -> None:  # noqa: B027 -- a default: nothing to do
        """Give back what this communicator holds."""

    def trace(self) -> tuple[Record, ...]:
        """The collectives of the run so far, in order."""
        return tuple(_record(*call) for call in self.calls)


class Backend(ABC):
    """The workers of one mesh, of which `ranks` live in this process, each in a thread of its own.

    `timeout` is the longest, in seconds, that a worker may wait for another.
    """

    def __init__(self, mesh: Mesh, timeout: float) -> None:
        self.mesh, self.timeout = mesh, timeout
        self.ranks: Sequence[int] = range(mesh.size)

    @abstractmethod
    def communicator(self, rank: int) -> Communicator:
        """The communicator of a worker of this process. Called once, in the worker's own thread."""

    def device(self, rank: int) -> Any:
        """The device that worker `rank` runs on: number ``mesh.devices[rank]``, where there are several. Threads share the CPU."""
        return tvm_ffi.device("cpu", 0)

    def accept(self, target: Target) -> None:  # noqa: B027 -- a default: nothing to do
        """Raise `ShardingError` if code for `target` cannot run here: called once, before the program is compiled."""

    def adopt(self, executable: Any) -> None:  # noqa: B027 -- a default: nothing to do
        """Make ready for the compiled program: called once, before it is loaded on any device."""

    def begin(self) -> None:  # noqa: B027 -- a default: nothing to do
        """Make ready for a run: called before each, when no worker of this process runs."""

    def everyone(self, mine: list[T]) -> list[T]:
        """What every worker has, by rank, from what the workers of this process have. All of them do this together."""
        return mine

    def close(self) -> None:  # noqa: B027 -- a default: nothing to do
        """Give back what the backend holds: called last, when no worker of this process runs."""


def _factory(where: str, given: Any) -> Any:
    if isinstance(given, str) and ":" not in given:
        raise ShardingError(where, f"{given!r} names no attribute of a module", 'Write "module:attribute".')
    return given if isinstance(given, str) else checks.function(where, given)


Factory = Callable[[Mesh, float], Backend]
_FACTORIES: dict[str, str | Factory] = {"threads": "spmd.collectives.threads:ThreadBackend", "pocl": "spmd.testing.pocl:PoclBackend"}


@door(name=checks.text, factory=_factory)
def register_backend(name: str, factory: str | Factory) -> None:
    """Make `name` known to ``spmd.workers(backend=name)``; a text ``"module:attribute"`` is imported when first used."""
    _FACTORIES[name] = factory


@door(name=checks.text, mesh=checks.instance(Mesh, "Write Mesh(tp=2)."), timeout=checks.number(above=True))
def make_backend(name: str, mesh: Mesh, timeout: float) -> Backend:
    """The backend `name` for the workers of `mesh`."""
    factory = _FACTORIES.get(name)
    if factory is None:
        known = ", ".join(map(repr, _FACTORIES))
        raise ShardingError("workers", f"there is no backend {name!r}", f"Known are {known}; spmd.collectives.register_backend adds one.")
    if isinstance(factory, str):
        module, _, attribute = factory.partition(":")
        try:
            factory = getattr(import_module(module), attribute)
        except ModuleNotFoundError as error:
            if not module.startswith("spmd.") or f"{error.name}".startswith("spmd"):
                raise
            raise ShardingError(f"backend {name!r}", f"there is no {error.name}", f"pip install 'spmd[{name}]'.") from None
    return factory(mesh, timeout)


class _Current(threading.local):
    communicator: Communicator | None = None


_current = _Current()


@door(communicator=checks.maybe(checks.instance(Communicator)))
def set_communicator(communicator: Communicator | None) -> None:
    """Make the calling thread the worker of `communicator`."""
    _current.communicator = communicator


def _communicator(name: str, axis: str, workers: int) -> Communicator:
    communicator = _current.communicator
    if communicator is None:
        way_out = 'A program with R.spmd operators runs in workers: with spmd.workers(sharded) as w: w["main"](...).'
        raise CollectiveError(f"spmd.{name}: this thread is no worker. {way_out}")
    mesh = communicator.mesh
    if not all(map(mesh.has, axis.split("+"))) or mesh.axis_size(axis) != workers:
        what = f"spmd.{name} over mesh axis {axis!r} of {workers} workers"
        raise CollectiveError(f"{what}: these workers are {mesh}. Start workers with the program's mesh.")
    return communicator


def _carrier(name: str) -> Callable[..., None]:
    def carry(*args: Any) -> None:
        # the tensors, the axis and what else says how, as many tensors for the results
        count = next(i for i, arg in enumerate(args) if isinstance(arg, str))
        axis, *own, workers, value = args[count:-count]
        communicator = _communicator(name, axis, workers)
        values = value.split(SEPARATOR) if count > 1 else [value]
        call = len(communicator.calls)
        communicator.calls += [(name, axis, x.dtype, x.shape, moved, own, call) for x, moved in zip(args[:count], values, strict=True)]
        if count == 1:
            getattr(communicator, name)(args[0], axis, *own, value, args[-1])
        else:
            communicator.bundle(name, args[:count], axis, own, values, args[-count:])

    return carry


def _axis_index(axis: str, workers: int, out: Tensor) -> None:
    _communicator("axis_index", axis, workers).axis_index(axis, out)


def _record(kind: str, axis: str, dtype: Any, shape: Any, value: str, own: list[Any], call: int) -> Record:
    sizes, count = tuple(int(s) for s in shape), 1
    for size in sizes:
        count *= size
    attrs = tuple(a if isinstance(a, (int, str)) else tuple(a) for a in own)
    return Record(kind, axis, (count * dtype.bits * dtype.lanes + 7) // 8, str(dtype), sizes, value, attrs, call)


CARRIED = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all", "permute", "broadcast")

tvm_ffi.register_error(CollectiveError)
for _name in CARRIED:
    tvm_ffi.register_global_func(f"spmd.{_name}", _carrier(_name), override=True)
tvm_ffi.register_global_func("spmd.axis_index", _axis_index, override=True)
