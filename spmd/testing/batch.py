"""Many programs checked at once: compiled, planned and run as one module, and those that fail made small."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import tvm
import tvm_ffi

from spmd import checks
from spmd.checks import door, told
from spmd.collectives import Record
from spmd.costs.planning_sizes import symbols_of
from spmd.errors import ShardingError
from spmd.pipeline import lower, shard
from spmd.placement.mesh import Mesh
from spmd.run.library import Library, build
from spmd.run.signatures import signatures
from spmd.run.workers import Workers, workers

from .equivalence import FREE_LINKS, difference, random_arguments, traffic_difference
from .plain import UNOPTIMIZED, linked, plain
from .shrink import Case, smallest
from .special import sprinkled_arguments

_TARGETS = {"pocl": {"kind": "opencl"}, "nccl": {"kind": "cuda"}, "rccl": {"kind": "rocm"}}
_TOLERANCE = {"float64": 1e-9, "float32": 1e-3, "float16": 5e-2, "bfloat16": 0.2}
"""Largest difference in what a long program gives, relative to the largest magnitude of a result, or to 1 where that is less."""
_DIGITS = {"pocl": 1e-6}
"""The least tolerance, where there is one: TVM writes constants with 7 digits into OpenCL."""
_PATIENCE = 60.0
"""Seconds for making failing programs small."""


def _cases(where: str, given: Any) -> list[Case]:
    if isinstance(given, str | Case) or not isinstance(given, Iterable):
        raise ShardingError(where, f"it takes a list of Case, and got {told(given)}", "Write [Case(mod, Mesh(tp=2))].")
    return [checks.instance(Case)(where, case) for case in cast("Iterable[Any]", given)]


@door(cases=_cases, seed=checks.whole(0), backend=checks.text, special=checks.flag)
def assert_all_equivalent(cases: Iterable[Case], *, seed: int = 0, backend: str = "threads", special: bool = False) -> int:
    """Check that every program gives what it gives unsharded, that its collectives are those of its plan, and that `lower` makes the
    same of it by this plan later; returns how many functions were run.

    The sharded programs run on `backend`: "threads", "mpi" where this process is one of a launcher's, or "pocl" for the schedules and the
    code of GPUs; unsharded ones run on the CPU, without fusion or schedules but with `special`.
    With `special` there are infinities and zeros of both signs among the arguments. Cases with the same mesh and `lift` are run as one
    module, for which the names of their functions must differ. Raises `AssertionError` with each kind of failure, and the smallest
    program found that has it, to be pasted into a test.
    """
    __tracebackhide__ = True
    cases = list(cases)
    names = [name for case in cases for name in signatures(case.mod)]
    if len(names) != len(set(names)):
        twice = next(name for name in names if names.count(name) > 1)
        way_out = "Give each program names of its own (programs(prefix=...))."
        raise ShardingError("assert_all_equivalent", f"two programs have a function {twice!r}", way_out)
    failed = failures(cases, seed, backend, special)
    if failed:
        texts: list[str] = []
        kinds: dict[str, tuple[Case, str]] = {}
        for index, problem in failed.items():
            kinds.setdefault(kind_of(problem), (cases[index], problem))
        deadline = time.monotonic() + _PATIENCE
        for kind, (case, problem) in kinds.items():

            def fails(tried: Sequence[Case], kind: str = kind) -> set[int]:
                return {i for i, p in failures(tried, seed, backend, special).items() if kind_of(p) == kind}

            least = smallest(case, fails, deadline)
            texts.append(f"{failures([least], seed, backend, special).get(0, problem)}\n{least}")
        raise AssertionError(f"{len(failed)} of {len(cases)} programs fail, in {len(kinds)} ways\n\n" + "\n\n".join(texts))
    return sum(len(signatures(case.mod)) for case in cases)


def failures(cases: Sequence[Case], seed: int = 0, backend: str = "threads", special: bool = False) -> dict[int, str]:
    """What is wrong, by the number of the case."""
    groups: dict[tuple[Mesh, int], list[int]] = {}
    for i, case in enumerate(cases):
        groups.setdefault((case.mesh, case.lift), []).append(i)
    found: dict[int, str] = {}
    for members in groups.values():
        found.update({members[i]: text for i, text in _narrowed([cases[i] for i in members], seed, backend, special).items()})
    return dict(sorted(found.items()))


def kind_of(problem: str) -> str:
    """The kind of a failure: the error's type, or what differs, without the names in it; of what is refused, why it is."""
    if problem.startswith(ShardingError.__name__):
        return re.sub(r"'[^']*'|\[.*?\]|\w*\d\w*", "", problem.splitlines()[0])
    return re.sub(r"'[^']*'|\[.*?\]", "", problem.split(":")[0])


def _narrowed(cases: list[Case], seed: int, backend: str, special: bool) -> dict[int, str]:
    """The failures among cases of one mesh and `lift`. What cannot be planned or compiled is looked for in halves."""
    try:
        return _run(cases, seed, backend, special)
    except Exception as error:
        if len(cases) == 1:
            return {0: f"{type(error).__name__}: {error}"}
    half = len(cases) // 2
    second = _narrowed(cases[half:], seed, backend, special)
    return {**_narrowed(cases[:half], seed, backend, special), **{half + i: text for i, text in second.items()}}


def _run(cases: list[Case], seed: int, backend: str, special: bool) -> dict[int, str]:
    merged: dict[Any, Any] = {}
    owner: dict[str, int] = {}
    specs: dict[str, Any] = {}
    sizes: dict[str, int] = {}
    divisible: dict[str, int] = {}
    for i, case in enumerate(cases):
        merged.update(case.mod.functions_items())
        owner.update(dict.fromkeys(signatures(case.mod), i))
        specs.update(case.specs)
        sizes.update(case.sizes)
        divisible.update(case.divisible)
    mod = tvm.IRModule(merged)
    arguments = {name: random_arguments(s.params, name, seed, sizes) for name, s in signatures(mod).items()}
    if special:
        arguments = {name: sprinkled_arguments(given, seed, nan=False) for name, given in arguments.items()}
    try:
        # TVM makes 0 of x * 0 wherever it sees the 0, such as a convolution's padding, which depends on the schedule for an infinite x.
        expected = _Calls(mod if special else plain(mod)).run(arguments)
    except Exception as error:
        raise RuntimeError(f"the program itself fails, unsharded: {error}") from error
    sizes = {n: sizes[n] for n in symbols_of(mod) if n in sizes}
    divisible = {n: d for n, d in divisible.items() if n in sizes}
    sharded = shard(mod, cases[0].mesh, specs, profile=FREE_LINKS, sizes=sizes, divisible=divisible, lift=cases[0].lift)
    if not tvm_ffi.structural_equal(lower(mod, sharded.plan), sharded.mod):
        raise RuntimeError("lowered later by its plan it is another program")
    traces: dict[str, tuple[Record, ...]] = {}
    found = _Calls(sharded, traces, backend).run(arguments)
    wrong: dict[int, str] = {}
    for name, i in owner.items():
        problem = f"unsharded {expected.errors[name]}" if name in expected.errors else found.errors.get(name)
        problem = problem or _difference(expected.results[name], found.results[name], _DIGITS.get(backend, 0.0))
        problem = problem or traffic_difference(sharded.plan, {name: traces[name]})
        if problem:
            wrong.setdefault(i, problem)
    return wrong


@dataclass
class _Calls:
    """Calls of every function of a program, and their errors."""

    program: Any
    traces: dict[str, tuple[Record, ...]] | None = None
    backend: str = "threads"
    results: dict[str, Any] = field(default_factory=dict[str, Any])
    errors: dict[str, str] = field(default_factory=dict[str, str])

    def run(self, arguments: Mapping[str, Sequence[Any]]) -> _Calls:
        """Call each function once."""
        with self._started() as w:
            for name, given in arguments.items():
                try:
                    self.results[name] = w[name](*given)
                except Exception as error:
                    self.errors[name] = f"{type(error).__name__}: {error}"
                if self.traces is not None:
                    self.traces[name] = w.trace()
        return self

    def _started(self) -> Workers:
        if isinstance(self.program, Library):
            return workers(self.program)
        if self.backend == "threads":
            return workers(linked(build(self.program, UNOPTIMIZED)))
        return workers(self.program, self.backend, _TARGETS.get(self.backend, UNOPTIMIZED))


def _difference(expected: Any, found: Any, least: float, where: str = "result") -> str:
    """How results differ; floats by what a long program may add up, `least` or more."""
    if isinstance(expected, tuple):
        pairs = enumerate(zip(expected, found, strict=True))
        return next((d for i, (a, b) in pairs if (d := _difference(a, b, least, f"{where}[{i}]"))), "")
    values = np.asarray(expected)
    if values.dtype.name not in _TOLERANCE or not values.size:
        return difference(expected, found, where=where)
    finite = np.abs(values[np.isfinite(values)].astype("float64"))
    largest = float(finite.max()) if finite.size else 1.0
    tolerance = max(least, _TOLERANCE[values.dtype.name])
    return difference(expected, found, tolerance * max(1.0, 1.0 / max(largest, 1e-30)), where)
