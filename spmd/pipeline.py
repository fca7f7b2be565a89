"""shard(): annotate -> propagate -> lower, one line a stage."""

from __future__ import annotations

import functools
import gc
import inspect
import logging
import threading
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import tvm

from . import checks
from .annotate import Specs, annotate, specs_of, unused_hints
from .checks.door import door, told
from .collectives.ccl import to_ccl
from .costs.access import mark_accesses
from .costs.cost import Cost, CostFactory
from .costs.planning_sizes import check_symbols, planning_sizes
from .costs.profile import Profile, profile_of, profile_taken
from .errors import ShardingError
from .explain import Difference, Plan
from .explain.difference import difference
from .ir.inline import inlined
from .ir.lift import LIFT, kept_whole, lifted
from .ir.normal import normalized
from .lower import check_plan, lower_graph, sizes_passed, told_by_shards
from .placement.arrays import host
from .placement.mesh import Mesh, MeshLike
from .plan import model
from .program.again import Again, asked_again, with_again
from .program.build import build_graph
from .program.graph import Graph
from .propagate.planner import make_plan
from .propagate.remat import decide_again
from .run.constants import constants_by_name
from .verify import verify as proven
from .weights.partition import partition

_LOG = logging.getLogger("spmd")


def _cost(_: str, given: Any) -> Any:
    """A class of costs, or what makes one."""
    if isinstance(given, Cost):
        raise ShardingError("cost", f"{given!r} is made already, and for one mesh", "Pass the class, cost=MyCost.")
    if not (isinstance(given, type) and issubclass(given, Cost)) and not (inspect.isroutine(given) or isinstance(given, functools.partial)):
        raise ShardingError("cost", f"it takes a subclass of spmd.Cost, and got {told(given)}", "Pass the class, cost=MyCost.")
    return given


def _dialect(where: str, given: Any) -> str:
    if given not in ("spmd", "ccl"):
        raise ShardingError(
            where, f"it takes the name of a dialect, and got {told(given)}", 'Write collectives="spmd" or collectives="ccl".'
        )
    return given


_GIVEN: dict[str, checks.Check] = {
    "mod": checks.module,
    "mesh": Mesh.taken,
    "specs": specs_of,
    "profile": profile_taken,
    "sizes": checks.maybe(checks.sizes),
    "divisible": checks.maybe(checks.divisible),
    "memory": checks.maybe(checks.memory),
    "lift": checks.whole(1),
    "cost": _cost,
}
"""What `shard`, `plan` and `price` are given."""


@dataclass(frozen=True)
class ShardedModule:
    """The program of each worker, the plan behind it, and the way to cut weights."""

    mod: tvm.IRModule
    plan: Plan

    def __repr__(self) -> str:
        return f"<ShardedModule of {self.plan!r}>"

    def _repr_html_(self) -> str:
        """What a notebook shows: the report of its plan."""
        return self.plan.report().html()

    @property
    def mesh(self) -> Mesh:
        """The workers."""
        return self.plan.mesh

    def partition(self, weights: Mapping[str, Any] | Sequence[Any], rank: int | None = None) -> Any:
        """``{name: array}`` (or a sequence in parameter order) cut into one such dict a worker, or that of worker `rank`.

        Weights that were constants of the program are in it, too, and nobody gives them: `Signature.constants` names those that a function
        takes after its own parameters, in order.
        """
        constants = {name: host(data) for name, data in constants_by_name(self.mod, self.plan.functions).items()}
        return partition(self.plan, weights, rank, constants)


@door(**_GIVEN, verify=checks.flag)
def shard(
    mod: tvm.IRModule,
    mesh: MeshLike,
    specs: Specs | None = None,
    *,
    profile: Profile | str = "generic",
    sizes: Mapping[str, int] | None = None,
    divisible: Mapping[str, int] | None = None,
    memory: float | None = None,
    lift: int = LIFT,
    cost: CostFactory = Cost,
    verify: bool = False,
) -> ShardedModule:
    """The program that each worker of `mesh` runs, for a whole-model Relax module written for one device. `mod` is not changed.

    `specs` maps patterns of names to `P` (see `annotate.Specs`); `profile` is the hardware whose predicted time is minimized;
    `sizes` gives symbolic sizes by name for that prediction (64 where it does not). `divisible` says by what symbolic sizes can be
    divided, by name: such dimensions may be split, and an argument that breaks the word is an error. `memory` is the most bytes that a
    worker may hold, by default those of the profile. Constants of `lift` bytes or more are weights: they are cut, and `workers` loads them.
    `cost` is a subclass of `Cost` that says what takes how long. With `verify` the program is proven (see docs/verify.md).
    Raises `ShardingError` for bad specs and for modules that cannot be represented.
    """
    with _frozen():
        graph, decided = _planned(mod, mesh, specs, profile, sizes, divisible, memory, lift, cost)
        made = ShardedModule(_lowered(graph, decided), decided)
    for text in proven(mod, made).undecided if verify else ():
        _LOG.warning(f"not proven: {text}")
    return made


@door(**_GIVEN)
def plan(
    mod: tvm.IRModule,
    mesh: MeshLike,
    specs: Specs | None = None,
    *,
    profile: Profile | str = "generic",
    sizes: Mapping[str, int] | None = None,
    divisible: Mapping[str, int] | None = None,
    memory: float | None = None,
    lift: int = LIFT,
    cost: CostFactory = Cost,
) -> Plan:
    """The first half of `shard`: where each tensor lives, and why."""
    with _frozen():
        return _planned(mod, mesh, specs, profile, sizes, divisible, memory, lift, cost)[1]


@door(**_GIVEN)
def price(
    mod: tvm.IRModule,
    mesh: MeshLike,
    specs: Specs | None = None,
    *,
    profile: Profile | str = "generic",
    sizes: Mapping[str, int] | None = None,
    divisible: Mapping[str, int] | None = None,
    memory: float | None = None,
    lift: int = LIFT,
    cost: CostFactory = Cost,
) -> Difference:
    """What `specs` cost: how the plan that obeys them differs from the one that nothing is asked of, in time, traffic and placement."""
    given = (profile, sizes, divisible, memory, lift, cost)
    with _frozen():
        free, bound = (_planned(mod, mesh, asked, *given)[1] for asked in (None, specs))
    return difference(free, bound)


@door(mod=checks.module, plan=checks.instance(model.Plan, "Write spmd.lower(mod, spmd.plan(mod, mesh))."), collectives=_dialect)
def lower(mod: tvm.IRModule, plan: model.Plan, *, collectives: str = "spmd") -> tvm.IRModule:
    """The second half of `shard`: the per-worker program of `mod` under `plan`. Raises `ShardingError` for a plan of another module.

    `collectives` is the dialect that they are written in: "spmd", which `workers` and `build` take, or "ccl", `R.ccl.*` alone for runtimes
    of Disco (see docs/backends.md), of which not every mesh axis can be carried.
    """
    with _frozen():
        divisible = checks.divisible("plan.divisible", plan.divisible)
        graph = build_graph(lifted(inlined(normalized(mod)), plan.lift), divisible)
        if plan.again:
            graph = build_graph(with_again(graph, plan.again), divisible)
        check_plan(graph, plan)
        made = _lowered(graph, plan)
        return to_ccl(made, plan.mesh) if collectives == "ccl" else made


def _lowered(graph: Graph, plan: model.Plan) -> tvm.IRModule:
    """The program of each worker; sizes that no worker is told are written as multiples of local ones first."""
    told = told_by_shards(graph, plan)
    return lower_graph(graph if told is None else build_graph(told, plan.divisible), plan)


def _planned(
    mod: tvm.IRModule,
    mesh: MeshLike,
    specs: Specs | None,
    profile: Profile | str,
    sizes: Mapping[str, int] | None,
    divisible: Mapping[str, int] | None,
    memory: float | None,
    lift: int,
    cost: CostFactory,
) -> tuple[Graph, Plan]:
    """The graph of `mod` and its plan, whose notes are logged: what is replicated for want of a rule is never silent."""
    times = cost(Mesh.of(mesh), profile_of(profile), planning_sizes(sizes, divisible), memory)
    if not isinstance(times, Cost):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ShardingError("cost", f"it gave {told(times)}, and not a spmd.Cost", "Pass a subclass of spmd.Cost, cost=MyCost.")
    given = mark_accesses(build_graph(lifted(inlined(normalized(mod)), lift), divisible))
    check_symbols(given, sizes=sizes, divisible=divisible)
    annotate(given, times.mesh, specs)
    asked, notes = asked_again(given)

    def remade(again: Again) -> Graph:
        """The graph in which these values are made again."""
        return annotate(mark_accesses(build_graph(with_again(given, again), divisible)), times.mesh, specs) if again else given

    graph, decision, again = decide_again(given, times, remade, asked)
    decided = Plan.of(make_plan(graph, times, decision))
    decided.again = again
    decided.notes += notes
    decided.functions.update(sizes_passed(graph, decided))
    decided.divisible, decided.lift, decided.profile = dict(divisible or {}), lift, times.name
    if times.mesh.size > 1 and (whole := kept_whole(graph.module, lift)):
        decided.notes.append(whole)
    decided.notes += unused_hints(mod, graph)
    for note in decided.notes:
        _LOG.warning(note)
    return graph, decided


_MANY = 1 << 16
"""New objects after which they are looked through for garbage while plans are made, of which little is garbage."""


class _Frozen:
    """What there is already is left out of garbage collection while plans are made: looking through it takes a third of the time.

    What is made meanwhile, by this thread or others, is collected as ever, in larger lots. Where somebody has frozen objects, nothing is
    done.
    """

    def __init__(self) -> None:
        self._turn = threading.Lock()
        self._inside = 0
        self._ours = False
        self._lots = gc.get_threshold()

    @contextmanager
    def __call__(self) -> Generator[None]:
        """Frozen from the first thread that comes in to the last that leaves."""
        with self._turn:
            if not self._inside and not gc.get_freeze_count():
                gc.freeze()
                self._ours = True
                self._lots = gc.get_threshold()
                if self._lots[0]:  # zero: somebody wants no collection
                    gc.set_threshold(max(self._lots[0], _MANY), *self._lots[1:])
            self._inside += 1
        try:
            yield
        finally:
            with self._turn:
                self._inside -= 1
                if self._ours and not self._inside:
                    gc.unfreeze()
                    gc.set_threshold(*self._lots)
                    self._ours = False


_frozen = _Frozen()
