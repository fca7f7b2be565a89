"""Running a sharded program: workers, each with a virtual machine, that take and give global arrays."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import tvm
import tvm_ffi

from spmd import checks
from spmd.checks import door, told
from spmd.collectives import Backend, Record, make_backend
from spmd.collectives.pool import Pool, start_machines
from spmd.errors import ShardingError, nearest
from spmd.placement.arrays import weights_of
from spmd.placement.mesh import Mesh
from spmd.plan.decisions import Leaf, LeafTree, Signature
from spmd.plan.timeline import Timeline
from spmd.weights import Folder, Source
from spmd.weights.checkpoint import Shards
from spmd.weights.opened import opened

from . import arguments
from .arguments import Binder, Handle
from .donation import Donation, donates
from .library import Bound, Library, Sharded, compiled, program, resolved_target
from .tensors import Room
from .watch import Watch


@door(sharded=program, backend=checks.text, timeout=checks.number(above=True, way_out="It is in seconds."))
def workers(sharded: Sharded | tvm.IRModule | Library, backend: str = "threads", target: Any = "llvm", timeout: float = 60.0) -> Workers:
    """Compile `sharded` once and start its workers; a plain IRModule gets one worker that holds everything, and a `Library` is compiled.

    Use it in a `with` statement. `timeout` is the longest, in seconds, that a worker may wait for another.
    """
    return Workers(sharded, backend, target, timeout)


class Workers:
    """Running workers. ``w["main"](x, weight)`` takes global arrays and gives global arrays.

    Arguments are NumPy arrays, TVM tensors, numbers, tuples of ints for shapes, tuples for tuple parameters, and handles
    of what is on the workers already: weights (`load`), opaque results such as a KV cache, results kept (``keep=True``).
    """

    def __init__(self, sharded: Sharded | tvm.IRModule | Library, backend: str, target: Any, timeout: float) -> None:
        if isinstance(sharded, Library):
            self.backend = make_backend(backend, sharded.mesh, timeout)
            library = _accepted(sharded, self.backend, target)
        else:
            self.backend = make_backend(backend, _mesh_of(sharded), timeout)
            library = _compiled(sharded, self.backend, target)
        self.mesh, self.signatures, self.divisible = library.mesh, library.functions, library.divisible
        self.slots = library.slots
        self._donates = any(map(donates, self.signatures.values()))
        self.threads = self.backend.threads
        """The threads that each worker of this process computes with, on CPUs."""
        self._pool = Pool(self.backend)
        self._machines = start_machines(self._pool, library.executable, library.slots, [library.fingerprint])
        self._constants = self._placed(library.constants)
        self._recorded: dict[int, Callable[[], tuple[Record, ...]]] = {}

    def __getitem__(self, function: str) -> WorkerFunction:
        """The function of this name, on all workers."""
        if not isinstance(function, str) or function not in self.signatures:  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ShardingError("workers", f"there is no function {function!r}", nearest(function, self.signatures))
        return WorkerFunction(self, function, self.signatures[function])

    def call(
        self,
        function: str,
        signature: Signature,
        args: Sequence[Any],
        keep: bool,
        named: Mapping[str, Any] | None = None,
        watch: Watch | None = None,
    ) -> Any:
        """Run `function` on every worker; see `WorkerFunction`."""
        binder = Binder(function, signature, self.backend, self.divisible)
        given = binder.in_order(args, named)
        bound = binder.bind(given)
        donation = Donation(function, signature, given) if self._donates else None
        if donation is not None:
            donation.give()
        for rank, column in enumerate(bound):
            column += [self._constants[leaf.name][rank] for leaf in signature.constants]
        mine = dict(zip(self.backend.ranks, bound, strict=True))
        elsewhere = len(self.backend.ranks) < self.mesh.size
        facts = arguments.facts([*args, *(named or {}).values()]) if elsewhere else []

        def run(rank: int) -> Any:
            machine = self._machines[rank]
            return machine[function](*mine[rank]) if watch is None else watch.run(rank, machine, lambda: machine[function](*mine[rank]))

        results = self._pool.run(f"{function!r}", run, facts)
        self._recorded = {rank: self._pool.communicator(rank).recorded() for rank in self.backend.ranks}
        made = arguments.returned(signature.outputs, results, binder, keep)
        if donation is not None:
            donation.share(made)
        return made

    def _placed(self, constants: Mapping[str, arguments.Array]) -> dict[str, list[Any]]:
        """What each worker of this process holds of the constants of the program, by name."""
        leaves = {leaf.name: leaf for signature in self.signatures.values() for leaf in signature.constants}
        room = Room()
        return {
            name: arguments.place(data, leaves[name].sharding, self.backend, not leaves[name].written, room)
            for name, data in constants.items()
        }

    def load(
        self, weights: Mapping[str, Any] | Sequence[Any] | str | Path | Source | Folder | Callable[[str], Any], function: str | None = None
    ) -> tuple[Handle, ...]:
        """Cut and place weights, by name or in order: one handle for each parameter after `num_input`.

        They may be in files, in a folder that ``python -m spmd weights`` wrote or in a checkpoint, of which each worker reads its own part;
        or what `spmd.weights.source` gives; or a function from names to arrays.
        `function` is whose weights they are; without it, the first function that has any (those after its attribute `num_input`).
        Where no function has any, nothing is loaded of no weights.
        Parameters that are a packed tuple take, and give, one handle for all of it.
        """
        if function is None:
            function = next((n for n, s in self.signatures.items() if s.num_input is not None and s.num_input < len(s.params)), None)
        if function is None:
            if isinstance(weights, Mapping | Sequence) and not len(weights):
                return ()
            way_out = "Set the function attribute num_input, or pass all arguments to the function itself."
            raise ShardingError("load", "no function says which of its parameters are weights", way_out)
        signature = self[function].signature
        trees = signature.params[signature.num_input or 0 :]
        leaves = [leaf for tree in trees for leaf in arguments.leaves(tree)]
        binder, room = Binder(function, signature, self.backend, self.divisible), Room()
        if (stored := opened(weights)) is not None:
            read = functools.partial(_read, stored, binder=binder, room=room)
            return tuple(_load(tree, read, binder) for tree in trees)
        given = weights_of(f"{function}(), weights", weights, "load")
        values = _in_order(given, leaves, function) if isinstance(given, Mapping) else given
        if len(values) != len(leaves):
            raise ShardingError(f"{function}(), weights", f"it takes {len(leaves)} weights, and got {len(values)}")
        left = iter(values)
        return tuple(_load(tree, lambda leaf: _given(next(left), leaf, binder, room), binder) for tree in trees)

    def call_packed(self, name: str, *args: Any) -> Any:
        """Call the TVM function registered as `name` on every worker, handles replaced by the worker's own object.

        A number, text or shape comes back from the first worker, anything else as a handle.
        """
        function = tvm_ffi.get_global_func(checks.text("call_packed, name", name), allow_missing=True)
        if function is None:
            raise ShardingError("call_packed", f"TVM knows no global function {name!r}")
        columns = [arguments.plain_everywhere(arg, self.backend) for arg in args]
        mine = {rank: [column[i] for column in columns] for i, rank in enumerate(self.backend.ranks)}
        return arguments.wrapped(self._pool.run(name, lambda rank: function(*mine[rank])), self.backend, keep=True)

    def trace(self, rank: int | None = None) -> tuple[Record, ...]:
        """The collectives of the last function that ran, on worker `rank`, by default the first of this process."""
        recorded = self._recorded.get(self.backend.ranks[0] if rank is None else checks.whole(0)("trace, rank", rank))
        return recorded() if recorded else ()

    def close(self) -> None:
        """Stop the workers. Handles are of no use after it."""
        self._machines.clear()
        self._pool.close()

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()


class WorkerFunction:
    """One function of the program, on all workers."""

    def __init__(self, owner: Workers, name: str, signature: Signature) -> None:
        self._owner, self.name, self.signature = owner, name, signature

    def __call__(self, *args: Any, keep: bool = False, **named: Any) -> Any:
        """Cut the arguments, in order or by name, run, and join the results; with `keep`, results stay on the workers as handles."""
        return self._owner.call(self.name, self.signature, args, checks.flag(f"{self.name}(), keep", keep), named)

    def timeline(self, *args: Any, **named: Any) -> Timeline:
        """Run it, and say what each worker of this process did when: `Timeline`, traced.

        Watching every kernel takes some microseconds each, and GPUs wait for each to end: times are those of a slower run.
        """
        watch = Watch(self.name, self._owner.slots, self._owner.backend)
        self._owner.call(self.name, self.signature, args, True, named, watch)
        return Timeline("traced", {rank: watch.spans[rank] for rank in self._owner.backend.ranks})

    def __repr__(self) -> str:
        return f"<{self.name!r} on the workers of {self._owner.mesh}>"


def _mesh_of(sharded: Sharded | tvm.IRModule) -> Mesh:
    return Mesh(tp=1) if isinstance(sharded, tvm.IRModule) else sharded.mesh


def _compiled(sharded: Sharded | tvm.IRModule, backend: Backend, target: Any) -> Library:
    """Compiled as the backend wants it, by as few processes as it can."""
    bound = Bound.of(sharded, backend.rows)
    resolved = resolved_target("workers(), target", target)
    backend.accept(resolved)
    executable = backend.once(lambda: compiled("workers()", bound.mod, resolved))
    backend.adopt(executable)
    return bound.library(executable, resolved)


def _accepted(library: Library, backend: Backend, target: Any) -> Library:
    """A library that is there already."""
    if target != "llvm":
        what = f"the library is compiled for {library.target.kind.name}, and a target is given, too"
        raise ShardingError("workers(), target", what, "Leave the target out, or build for it.")
    if not backend.takes_libraries:
        raise ShardingError("workers", "this backend runs what it compiles itself", "Pass what spmd.shard() gave.")
    backend.accept(library.target)
    return library


def _load(tree: LeafTree, place: Callable[[Leaf], Handle], binder: Binder) -> Handle:
    """A weight, or a packed tuple of weights, each of which is placed by `place`."""
    if isinstance(tree, tuple):
        parts = [_load(part, place, binder) for part in tree]
        packed = [tvm_ffi.convert([p.objects[i] for p in parts]) for i in range(len(binder.backend.ranks))]
        return Handle(tuple(packed), binder.backend, tree, parts=tuple(parts))
    return place(tree)


def _given(weight: Any, leaf: Leaf, binder: Binder, room: Room) -> Handle:
    """A whole array, checked, cut and placed."""
    _check_tensor(leaf, binder, f", and got {told(weight)}")
    array = binder.array(leaf, weight, "weight")
    placed = arguments.place(array, leaf.sharding, binder.backend, not leaf.written, room)
    return Handle(tuple(placed), binder.backend, leaf, array.shape)


def _read(stored: Shards, leaf: Leaf, binder: Binder, room: Room) -> Handle:
    """The shards of the workers of this process, read and placed."""
    _check_tensor(leaf, binder)
    shape = stored.shape(leaf)
    binder.check(leaf, shape, leaf.dtype)

    def read(rank: int) -> arguments.Array:
        return stored.shard(leaf, binder.backend.mesh, rank)

    whole = leaf.sharding is not None and leaf.sharding.is_replicated
    placed = arguments.placed(read, binder.backend, whole and not leaf.written, room)
    return Handle(tuple(placed), binder.backend, leaf, shape)


def _check_tensor(leaf: Leaf, binder: Binder, got: str = "") -> None:
    if leaf.sharding is None:
        what = f"it takes {arguments.described(leaf)}, which is no tensor{got}"
        raise ShardingError(f"{binder.function}(), weight {leaf.name!r}", what, "Pass it to the function itself.")


def _in_order(weights: Mapping[str, Any], leaves: Sequence[Leaf], function: str) -> list[Any]:
    """The values of `weights` in the order of `leaves`."""
    names = dict.fromkeys(leaf.name for leaf in leaves)
    missing, unexpected = [n for n in names if n not in weights], [w for w in weights if w not in names]
    if missing or unexpected:
        odd, why = (missing, "is missing") if missing else (unexpected, "is no weight of it")
        more = f" (and {len(odd) - 1} more)" if len(odd) > 1 else ""
        near = nearest(odd[0], (unexpected or weights) if missing else names)
        raise ShardingError(f"{function}(), weights", f"{odd[0]!r} {why}{more}", near)
    return [weights[name] for name in names]
