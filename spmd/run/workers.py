"""Running a sharded program: workers, each with a virtual machine, that take and give global arrays."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Protocol

import tvm
import tvm_ffi
from tvm import relax

from spmd import checks
from spmd.checks import door, told
from spmd.collectives import Record, bind, make_backend
from spmd.collectives.pool import Pool, start_machines
from spmd.errors import ShardingError, nearest
from spmd.ir.lift import constants_of
from spmd.ir.normal import normalized
from spmd.ir.per_worker import check_whole
from spmd.placement.arrays import host, weights_of
from spmd.placement.mesh import Mesh
from spmd.placement.sharding import Sharding
from spmd.plan.decisions import Leaf, LeafTree, Signature
from spmd.plan.model import Plan
from spmd.run.constants import constants_by_name
from spmd.schedules import build, resolve

from . import arguments
from .arguments import Binder, Handle


class Sharded(Protocol):
    """What `workers` reads of a sharded module."""

    @property
    def mod(self) -> Any:
        """The program of each worker, an IRModule."""
        ...

    @property
    def mesh(self) -> Mesh:
        """The workers."""
        ...

    @property
    def plan(self) -> Plan:
        """Whose `functions` give the signature of each function."""
        ...


_WHOLE = "Pass what spmd.shard() gave, which has the plan too: spmd.workers(sharded)."


def program(where: str, given: Any) -> Any:
    """What `workers` takes, as a check of arguments."""
    if isinstance(given, tvm.IRModule) or (isinstance(getattr(given, "mod", None), tvm.IRModule) and hasattr(given, "plan")):
        return given
    way_out = _WHOLE if isinstance(given, Plan) else "Write spmd.workers(spmd.shard(mod, mesh))."
    raise ShardingError(where, f"it takes what spmd.shard() gives, or an IRModule for one worker, and got {told(given)}", way_out)


@door(sharded=program, backend=checks.text, timeout=checks.number(above=True, way_out="It is in seconds."))
def workers(sharded: Sharded | tvm.IRModule, backend: str = "threads", target: Any = "llvm", timeout: float = 60.0) -> Workers:
    """Compile `sharded` once and start its workers; a plain IRModule gets one worker that holds everything.

    Use it in a `with` statement. `timeout` is the longest, in seconds, that a worker may wait for another.
    """
    return Workers(sharded, backend, target, timeout)


class Workers:
    """Running workers. ``w["main"](x, weight)`` takes global arrays and gives global arrays.

    Arguments are NumPy arrays, TVM tensors, numbers, tuples of ints for shapes, tuples for tuple parameters, and handles
    of what is on the workers already: weights (`load`), opaque results such as a KV cache, results kept (``keep=True``).
    """

    def __init__(self, sharded: Sharded | tvm.IRModule, backend: str, target: Any, timeout: float) -> None:
        if isinstance(sharded, tvm.IRModule):
            check_whole(sharded, "workers()", _WHOLE)
            mod, self.mesh, self.signatures = normalized(sharded), Mesh(tp=1), signatures(sharded)
        else:
            mod, self.mesh, self.signatures = sharded.mod, sharded.mesh, dict(sharded.plan.functions)
        self.divisible: Mapping[str, int] = {} if isinstance(sharded, tvm.IRModule) else sharded.plan.divisible
        self.backend = make_backend(backend, self.mesh, timeout)
        target = _resolved(target)
        self.backend.accept(target)
        bound, slots = bind(mod, rows=self.backend.rows)
        executable = self.backend.once(lambda: build(bound, target))
        self.backend.adopt(executable)
        self._pool = Pool(self.backend)
        self._machines = start_machines(self._pool, executable, slots)
        self._constants = self._loaded(mod)
        self._traces: dict[int, tuple[Record, ...]] = {}

    def __getitem__(self, function: str) -> WorkerFunction:
        """The function of this name, on all workers."""
        if not isinstance(function, str) or function not in self.signatures:  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ShardingError("workers", f"there is no function {function!r}", nearest(function, self.signatures))
        return WorkerFunction(self, function, self.signatures[function])

    def call(self, function: str, signature: Signature, args: Sequence[Any], keep: bool, named: Mapping[str, Any] | None = None) -> Any:
        """Run `function` on every worker; see `WorkerFunction`."""
        bound = Binder(function, signature, self.backend, self.divisible).bind(args, named)
        for rank, given in enumerate(bound):
            given += [self._constants[leaf.name][rank] for leaf in signature.constants]
        mine = dict(zip(self.backend.ranks, bound, strict=True))
        elsewhere = len(self.backend.ranks) < self.mesh.size
        facts = arguments.facts([*args, *(named or {}).values()]) if elsewhere else []
        results = self._pool.run(f"{function!r}", lambda rank: self._machines[rank][function](*mine[rank]), facts)
        self._traces = {rank: self._pool.communicator(rank).trace() for rank in self.backend.ranks}
        return arguments.returned(signature.outputs, results, self.backend, keep)

    def _loaded(self, mod: tvm.IRModule) -> dict[str, list[Any]]:
        """What each worker of this process holds of the constants of the program, by name."""
        leaves = {leaf.name: leaf for signature in self.signatures.values() for leaf in signature.constants}
        return {
            name: arguments.place(host(data), leaves[name].sharding, self.backend, share=not leaves[name].written)
            for name, data in constants_by_name(mod, self.signatures).items()
        }

    def load(self, weights: Mapping[str, Any] | Sequence[Any], function: str | None = None) -> tuple[Handle, ...]:
        """Cut and place weights, by name or in order: one handle for each parameter after `num_input`.

        `function` is whose weights they are; without it, the first function that has any (those after its attribute `num_input`).
        Parameters that are a packed tuple take, and give, one handle for all of it.
        """
        if function is None:
            function = next((n for n, s in self.signatures.items() if s.num_input is not None and s.num_input < len(s.params)), None)
        if function is None:
            way_out = "Set the function attribute num_input, or pass all arguments to the function itself."
            raise ShardingError("load", "no function says which of its parameters are weights", way_out)
        signature = self[function].signature
        trees = signature.params[signature.num_input or 0 :]
        leaves = [leaf for tree in trees for leaf in arguments.leaves(tree)]
        weights = weights_of(f"{function}(), weights", weights, "load")
        values = _in_order(weights, leaves, function) if isinstance(weights, Mapping) else weights
        if len(values) != len(leaves):
            raise ShardingError(f"{function}(), weights", f"it takes {len(leaves)} weights, and got {len(values)}")
        left = iter(values)
        return tuple(_load(tree, left, Binder(function, signature, self.backend, self.divisible)) for tree in trees)

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
        return self._traces.get(self.backend.ranks[0] if rank is None else checks.whole(0)("trace, rank", rank), ())

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

    def __repr__(self) -> str:
        return f"<{self.name!r} on the workers of {self._owner.mesh}>"


def _resolved(target: Any) -> Any:
    try:
        return resolve(target)
    except ShardingError:
        raise
    except (TypeError, ValueError) as error:
        raise ShardingError("workers(), target", f"{error}".rstrip("."), "") from error


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


def _load(tree: LeafTree, weights: Iterator[Any], binder: Binder) -> Handle:
    """The next weight, or a packed tuple of the next ones, checked by `binder`, cut and placed."""
    backend = binder.backend
    if isinstance(tree, tuple):
        parts = [_load(part, weights, binder) for part in tree]
        packed = [tvm_ffi.convert([p.objects[i] for p in parts]) for i in range(len(backend.ranks))]
        return Handle(tuple(packed), backend, tree)
    weight = next(weights)
    if tree.sharding is None:
        what = f"it takes {arguments.described(tree)}, which is no tensor, and got {told(weight)}"
        raise ShardingError(f"{binder.function}(), weight {tree.name!r}", what, "Pass it to the function itself.")
    array = binder.array(tree, weight, "weight")
    return Handle(tuple(arguments.place(array, tree.sharding, backend, share=not tree.written)), backend, tree, array.shape)


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
