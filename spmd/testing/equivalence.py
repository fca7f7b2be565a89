"""Equality is the specification: the sharded program on simulated workers against the unsharded one."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import tvm

from spmd import checks
from spmd.annotate import Specs, specs_of
from spmd.checks import door, told
from spmd.collectives import Record
from spmd.costs.profile import Link, Profile, profile_taken
from spmd.errors import ShardingError
from spmd.ir.inline import reached
from spmd.ir.lift import LIFT
from spmd.pipeline import ShardedModule, shard
from spmd.placement.layout import Array
from spmd.placement.mesh import Mesh, MeshLike
from spmd.plan.decisions import Collective, Leaf, LeafTree, Signature
from spmd.plan.model import Plan
from spmd.plan.steps import computes
from spmd.program.graph import Branch
from spmd.run.library import program
from spmd.run.signatures import signatures
from spmd.run.workers import Workers, workers

from .arrays import random_array

_NAME = re.compile(r"(?<![\w.])(?!T\.)[A-Za-z_]\w*")
"""A symbol in a size as TVM writes it, ``n * T.int64(4)``."""
Run = Callable[[Workers], Any]
"""What to do with a program: calls its functions, gives arrays (in tuples, lists, or dicts) to compare."""

FREE_LINKS = Profile(
    "free links", flops=1e12, memory_bandwidth=1e12, link_bandwidth=1e18, link_latency=1e-12, links={"*": Link(1e18, 1e-12)}
)
"""Moving data costs next to nothing, so that even tiny programs are split wherever they can be."""

_TOLERANCE = {"float64": 1e-12, "float32": 2e-5, "float16": 4e-3, "bfloat16": 3e-2, "float8_e4m3fn": 0.5, "float8_e5m2": 1.0}
"""Largest difference relative to the largest magnitude of a result: what another order of a sum explains."""


@door(sharded=program, run=checks.maybe(checks.function), seed=checks.whole(0), sizes=checks.maybe(checks.sizes))
def simulate(
    sharded: ShardedModule | tvm.IRModule, run: Run | None = None, *, seed: int = 0, sizes: Mapping[str, int] | None = None
) -> Any:
    """Run a program on simulated workers in this process and return what it gives.

    Without `run`, every function is called once on random arguments (`random_arguments`): ``{function: result}``.
    """
    with workers(sharded) as w:
        return (run or _every_function(w.signatures, seed, sizes))(w)


@door(
    mod=checks.module,
    mesh=Mesh.taken,
    specs=specs_of,
    run=checks.maybe(checks.function),
    profile=profile_taken,
    seed=checks.whole(0),
    sizes=checks.maybe(checks.sizes),
    divisible=checks.maybe(checks.divisible),
    tolerance=checks.maybe(checks.number()),
)
def assert_equivalent(
    mod: tvm.IRModule,
    mesh: MeshLike,
    specs: Specs | None = None,
    *,
    run: Run | None = None,
    profile: Profile | str = FREE_LINKS,
    seed: int = 0,
    sizes: Mapping[str, int] | None = None,
    divisible: Mapping[str, int] | None = None,
    lift: int = LIFT,
    tolerance: float | None = None,
) -> ShardedModule:
    """Check that `mod` sharded over `mesh` gives what it gives unsharded; returns the sharded module.

    `run` says what to do with a program, which it must for functions that take objects. Without it every function is called on
    random arguments, symbolic sizes taken from `sizes` (3 where it does not say), and the collectives that run must be those of the
    plan, to the byte. `profile` decides placements that `specs` leave open; the default splits what it can. `lift` is as in `shard`.
    Integers and booleans must be equal, floats within `tolerance` of the largest magnitude (by dtype: what reordering a sum explains).
    Raises `AssertionError` naming the result, the difference and the plan.
    """
    sizes = {**dict.fromkeys(_symbols(mod), 3), **(divisible or {}), **(sizes or {})}
    named = {name: size for name, size in sizes.items() if name.isidentifier()}  # and not an expression such as "2 * n"
    sharded = shard(mod, mesh, specs, profile=profile, sizes=named, divisible=divisible, lift=lift)
    traces: dict[str, tuple[Record, ...]] = {}
    if run is None:  # the same arguments for both, by the names that the plan gives
        expected = simulate(mod, _every_function(sharded.plan.functions, seed, sizes))
        found = simulate(sharded, _every_function(sharded.plan.functions, seed, sizes, traces))
    else:
        expected, found = simulate(mod, run), simulate(sharded, run)
    different = difference(expected, found, tolerance) or traffic_difference(sharded.plan, traces)
    assert not different, f"{different}\n{sharded.plan.explain()}"
    return sharded


def _every_function(
    signatures: Mapping[str, Signature], seed: int, sizes: Mapping[str, int] | None, traces: dict[str, tuple[Record, ...]] | None = None
) -> Run:
    """Call every function once on random arguments; `traces` is given the collectives of each."""

    def run(w: Workers) -> dict[str, Any]:
        results: dict[str, Any] = {}
        for name, signature in signatures.items():
            results[name] = w[name](*random_arguments(signature.params, name, seed, sizes))
            if traces is not None:
                traces[name] = w.trace()
        return results

    return run


@door(params=checks.listed, function=checks.text, seed=checks.whole(0), sizes=checks.maybe(checks.sizes))
def random_arguments(params: Sequence[LeafTree], function: str, seed: int, sizes: Mapping[str, int] | None = None) -> list[Any]:
    """Random arrays for the parameters of a function; equal names give equal arrays. Integers are 0 to 3."""

    def make(tree: LeafTree) -> Any:
        if not isinstance(tree, Leaf | tuple):  # pyright: ignore[reportUnnecessaryIsInstance]
            what = f"it takes the parameters of a function, and got {told(tree)}"
            raise ShardingError("random_arguments", what, "Write plan.functions['main'].params.")
        if not isinstance(tree, Leaf):
            return tuple(make(part) for part in tree)
        if tree.shape is None:
            raise ShardingError(f"function {function!r}", f"its parameter {tree.name!r} is no tensor", "Say what to run with run=.")
        shape = [s if isinstance(s, int) else _size(s, sizes or {}) for s in tree.shape]
        return random_array(tree.name, shape, tree.dtype, seed)

    return [make(p) for p in params]


def _size(text: str, sizes: Mapping[str, int]) -> int:
    """The size that a symbol, or a product of some and of numbers as TVM writes it, stands for; 3 where nobody says."""
    if text in sizes or text.isidentifier():
        return sizes.get(text, 3)
    terms = re.sub(r"T\.int64\((\d+)\)", r"\1", text).split(" * ")
    known = all(term.isdigit() or term.isidentifier() for term in terms)
    return math.prod(int(term) if term.isdigit() else sizes.get(term, 3) for term in terms) if known else 3


def _symbols(mod: tvm.IRModule) -> list[str]:
    """The names of all symbolic sizes that parameters have."""
    found: dict[str, None] = {}

    def visit(tree: LeafTree) -> None:
        if isinstance(tree, Leaf):
            for size in tree.shape or ():
                found.update(dict.fromkeys(_NAME.findall(size) if isinstance(size, str) else ()))
        else:
            for part in tree:
                visit(part)

    for signature in signatures(mod).values():
        visit(signature.params)
    return list(found)


def traffic_difference(plan: Plan, traces: Mapping[str, tuple[Record, ...]]) -> str:
    """How the collectives that ran differ from those of the plan; empty where they are the same to the byte.

    Those that stand in branches must be those of some way through the branches. Those of loops may run any number of times.
    """
    for function, everything in traces.items():
        loops = _loops_of(plan, function)
        repeated = {_traffic(c) for c in plan.collectives if c.function in loops}
        records = [r for r in everything if _ran(r) not in repeated]
        ran = Counter(map(_ran, records))
        planned = [c for c in plan.collectives if c.function == function and _traffic(c) not in repeated]
        if ran not in _ways(planned, (), ran):
            always = Counter(map(_traffic, (c for c in planned if not c.branch)))
            extra, lacking = sorted((ran - Counter(map(_traffic, planned))).elements()), sorted((always - ran).elements())
            if not extra and not lacking:
                return f"function {function!r}: {sorted(ran.elements())} ran, which is no way through its branches"
            return f"function {function!r}: {extra} ran unplanned, {lacking} did not run"
        together, wanted = _bundled((r.call, r.value) for r in records), _bundled((c.bundle, c.value) for c in planned if c.bundle)
        if together != wanted:
            return f"function {function!r}: {together} went in one call, the plan has {wanted}"
    return ""


def _bundled(moved: Iterable[tuple[int, str]]) -> list[list[str]]:
    """The names of what went in one call, where that was more than one."""
    calls: dict[int, list[str]] = {}
    for call, value in moved:
        calls.setdefault(call, []).append(value)
    return sorted(values for values in calls.values() if len(values) > 1)


def _loops_of(plan: Plan, function: str) -> set[str]:
    """The loops that a function calls, and those that these call."""
    return reached(function, {name: {step.op for step in computes(steps)} & plan.loops.keys() for name, steps in plan.steps.items()})


def _ran(record: Record) -> tuple[str, str, int, str, str]:
    return record.kind, record.axis, record.bytes, record.dtype, record.value


def _traffic(collective: Collective) -> tuple[str, str, int, str, str]:
    return collective.kind, collective.axis, collective.bytes, collective.dtype, collective.value


def _ways(planned: Sequence[Collective], branch: Branch, ran: Counter[Any]) -> list[Counter[Any]]:
    """What one branch (at first: the function) sends, for each way that the Ifs in it may go, but for ways that send more than `ran`."""
    inside = [c for c in planned if c.branch[: len(branch)] == branch]
    ways = [Counter(_traffic(c) for c in inside if c.branch == branch)]
    for name in dict.fromkeys(c.branch[len(branch)][0] for c in inside if c.branch != branch):
        parts = [way for taken in (True, False) for way in _ways(inside, (*branch, (name, taken)), ran)]
        sums = [a + b for a in ways for b in parts]
        ways = list({frozenset(way.items()): way for way in sums if way <= ran}.values())
    return ways


@door(tolerance=checks.maybe(checks.number()), where=checks.text)
def difference(expected: Any, found: Any, tolerance: float | None = None, where: str = "result") -> str:
    """How `found` differs from `expected`, both arrays in tuples, lists or mappings; empty where it does not.

    Integers and booleans must be equal, floats within `tolerance` of the largest magnitude of the array (by dtype where it is None).
    """
    if isinstance(expected, Mapping):
        keys: list[Any] = list(expected)
        if not isinstance(found, Mapping) or keys != list(found):
            return f"{where}: {keys} against {list(found) if isinstance(found, Mapping) else told(found)}"
        return next((d for k in keys if (d := difference(expected[k], found[k], tolerance, f"{where}[{k!r}]"))), "")
    if isinstance(expected, tuple | list):
        if not isinstance(found, tuple | list) or len(expected) != len(found):
            return f"{where}: {len(expected)} parts against {len(found) if isinstance(found, tuple | list) else told(found)}"
        pairs = enumerate(zip(expected, found, strict=True))
        return next((d for i, (a, b) in pairs if (d := difference(a, b, tolerance, f"{where}[{i}]"))), "")
    if isinstance(expected, np.ndarray | np.generic | int | float):
        if not isinstance(found, np.ndarray | np.generic | int | float | bool):
            return f"{where}: an array against {told(found)}"
        return _array_difference(np.asarray(expected), np.asarray(found), tolerance, where)
    return ""


def _array_difference(expected: Array, found: Array, tolerance: float | None, where: str) -> str:
    name = expected.dtype.name
    if expected.shape != found.shape or name != found.dtype.name:
        return f"{where}: {name}{expected.shape} against {found.dtype.name}{found.shape}"
    if name not in _TOLERANCE:
        wrong = int(np.sum(expected != found))
        return f"{where}: {wrong} of {expected.size} elements differ" if wrong else ""
    a, b = expected.astype("float64"), found.astype("float64")
    finite = np.isfinite(a)
    if not np.array_equal(finite, np.isfinite(b)) or not np.array_equal(a[~finite], b[~finite], equal_nan=True):
        return f"{where}: infinities or NaNs differ"
    if not finite.any():
        return ""
    largest = float(np.max(np.abs(a[finite] - b[finite])))
    allowed = (tolerance if tolerance is not None else _TOLERANCE[name]) * max(float(np.max(np.abs(a[finite]))), 1e-30)
    return f"{where}: the largest difference is {largest:.3g}, at most {allowed:.3g} was expected" if largest > allowed else ""
