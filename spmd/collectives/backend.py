"""What carries collectives: the backends, by name."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any, TypeVar

import tvm_ffi
from tvm.target import Target

from spmd import checks
from spmd.checks import door
from spmd.errors import ShardingError
from spmd.placement.mesh import Mesh

from .carry import python_carriers
from .communicator import Endpoint
from .cores import processors, share
from .slots import Slots

T = TypeVar("T")


class Backend(ABC):
    """The workers of one mesh, of which `ranks` live in this process, each in a thread of its own.

    `timeout` is the longest, in seconds, that a worker may wait for another.
    """

    rows = False
    """Whether it carries collectives of one tensor along the first dimension only, as libraries do: programs are bound so then."""
    takes_libraries = True
    """Whether it runs programs that were compiled elsewhere."""

    def __init__(self, mesh: Mesh, timeout: float) -> None:
        self.mesh, self.timeout = mesh, timeout
        self.ranks: Sequence[int] = range(mesh.size)

    @abstractmethod
    def communicator(self, rank: int) -> Endpoint:
        """The end of a worker of this process. Called once, in the worker's own thread."""

    @property
    def threads(self) -> int:
        """How many threads each worker of this process may compute with on CPUs: the processors are divided among those of one machine."""
        return share(len(self.ranks), len(processors()))

    def device(self, rank: int) -> Any:
        """The device that worker `rank` runs on: number ``mesh.devices[rank]``, where there are several. Threads share the CPU."""
        return tvm_ffi.device("cpu", 0)

    def accept(self, target: Target) -> None:  # noqa: B027 -- a default: nothing to do
        """Raise `ShardingError` if code for `target` cannot run here: called once, before the program is compiled."""

    def adopt(self, executable: Any) -> None:  # noqa: B027 -- a default: nothing to do
        """Make ready for the compiled program: called once, before it is loaded on any device."""

    def once(self, compiled: Callable[[], Any]) -> Any:
        """The executable that `compiled` gives: made by every process, where a backend knows no better."""
        return compiled()

    def carriers(self, slots: Slots) -> Mapping[str, Callable[..., None]]:
        """The functions that carry the slots of a program, by name: called before it is loaded. By default, they ask `Communicator`."""
        return python_carriers(slots)

    def agree(self, what: str, facts: Sequence[str] = ()) -> None:  # noqa: B027 -- a default: nothing to do
        """Raise `CollectiveError` unless all processes are about to do the same: `what`, with `facts` such as the sizes of arguments."""

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
_FACTORIES: dict[str, str | Factory] = {
    "threads": "spmd.collectives.threads:ThreadBackend",
    "mpi": "spmd.collectives.mpi:MPIBackend",
    "nccl": "spmd.collectives.nccl:NCCLBackend",
    "rccl": "spmd.collectives.nccl:RCCLBackend",
    "pocl": "spmd.testing.pocl:PoclBackend",
}


@door(name=checks.text, factory=_factory)
def register_backend(name: str, factory: str | Factory) -> None:
    """Make `name` known to ``spmd.workers(backend=name)``; a text ``"module:attribute"`` is imported when first used."""
    _FACTORIES[name] = factory


@door(name=checks.text, mesh=checks.instance(Mesh, "Write Mesh(tp=2)."), timeout=checks.number(above=True))
def make_backend(name: str, mesh: Mesh, timeout: float) -> Backend:
    """The backend `name` for the workers of `mesh`."""
    factory = _FACTORIES.get(name) or _of_packages().get(name)
    if factory is None:
        known = ", ".join(map(repr, {**_FACTORIES, **_of_packages()}))
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


def _of_packages() -> dict[str, str]:
    """The backends that other installed packages name as entry points ``spmd.backends``."""
    return {point.name: point.value for point in entry_points(group="spmd.backends")}
