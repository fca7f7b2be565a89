"""Equality is the specification: the sharded program on simulated workers against the unsharded one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ml_dtypes
import numpy as np
import tvm

from ..annotate import Specs
from ..errors import ShardingError
from ..layout import Array
from ..mesh import Mesh
from ..pipeline import ShardedModule, shard
from ..plan import Leaf, LeafTree
from ..profile import Profile
from ..workers import Workers, workers

Run = Callable[[Workers], Any]
"""What to do with a program: calls its functions, gives arrays (in tuples, lists, or dicts) to compare."""

FREE_LINKS = Profile("free links", flops=1e12, memory_bandwidth=1e12, link_bandwidth=1e18, link_latency=1e-12)
"""Moving data costs next to nothing, so that even tiny programs are split wherever they can be."""

_TOLERANCE = {"float64": 1e-12, "float32": 2e-5, "float16": 4e-3, "bfloat16": 3e-2}
"""Largest difference relative to the largest magnitude of a result: what another order of a sum explains."""


def simulate(
    sharded: ShardedModule | tvm.IRModule, run: Run | None = None, *, seed: int = 0, sizes: Mapping[str, int] | None = None
) -> Any:
    """Run a program on simulated workers in this process and return what it gives.

    Without `run`, every function is called once on random arguments (`random_arguments`): ``{function: result}``.
    """
    with workers(sharded) as w:
        if run is not None:
            return run(w)
        return {name: w[name](*random_arguments(w.signatures[name].params, name, seed, sizes)) for name in w.signatures}


def assert_equivalent(
    mod: tvm.IRModule,
    mesh: Mesh | int,
    specs: Specs | None = None,
    *,
    run: Run | None = None,
    profile: Profile | str = FREE_LINKS,
    seed: int = 0,
    sizes: Mapping[str, int] | None = None,
    tolerance: float | None = None,
) -> ShardedModule:
    """Check that `mod` sharded over `mesh` gives what it gives unsharded; returns the sharded module.

    `run` says what to do with a program, which it must for functions that take objects; without it every function is called on
    random arguments, symbolic sizes taken from `sizes` (3 where it does not say). `profile` decides placements that `specs` leave open; the
    default splits what it can. Integers and booleans must be equal, floats within `tolerance` of the largest magnitude (by dtype:
    what reordering a sum explains). Raises `AssertionError` naming the result, the difference and the plan.
    """
    sharded = shard(mod, mesh, specs, profile=profile, sizes=sizes)
    expected = simulate(mod, run, seed=seed, sizes=sizes)
    found = simulate(sharded, run, seed=seed, sizes=sizes)
    _compare("result", expected, found, tolerance, sharded)
    return sharded


def random_arguments(params: Sequence[LeafTree], function: str, seed: int, sizes: Mapping[str, int] | None = None) -> list[Any]:
    """Random arrays for the parameters of a function; equal names give equal arrays. Integers are 0 to 3."""

    def make(tree: LeafTree) -> Any:
        if not isinstance(tree, Leaf):
            return tuple(make(part) for part in tree)
        if tree.shape is None:
            raise ShardingError(f"function {function!r}", f"its parameter {tree.name!r} is no tensor", "Say what to run with run=.")
        shape = [s if isinstance(s, int) else (sizes or {}).get(s, 3) for s in tree.shape]
        return random_array(tree.name, shape, tree.dtype, seed)

    return [make(p) for p in params]


def random_array(name: str, shape: Sequence[int], dtype: str, seed: int) -> Array:
    """A random array that depends on `name` and `seed` alone; floats have variance one over the last dimension for rank 2 and up."""
    rng = np.random.default_rng([seed, *name.encode()])
    kind: Any = np.dtype(getattr(ml_dtypes, dtype, dtype))
    if kind.kind in "iu":
        return rng.integers(0, 4, size=shape).astype(kind)
    if kind.kind == "b":
        return rng.integers(0, 2, size=shape).astype(kind)
    scale = 1 / np.sqrt(shape[-1]) if len(shape) > 1 and shape[-1] else 1.0
    return (rng.standard_normal(shape) * scale).astype(kind)


def _compare(where: str, expected: Any, found: Any, tolerance: float | None, sharded: ShardedModule) -> None:
    if isinstance(expected, Mapping):
        assert list(expected) == list(found), f"{where}: {list(expected)} against {list(found)}"
        for key in expected:
            _compare(f"{where}[{key!r}]", expected[key], found[key], tolerance, sharded)
    elif isinstance(expected, tuple | list):
        assert len(expected) == len(found), f"{where}: {len(expected)} parts against {len(found)}"
        for i, (a, b) in enumerate(zip(expected, found, strict=True)):
            _compare(f"{where}[{i}]", a, b, tolerance, sharded)
    elif isinstance(expected, np.ndarray | np.generic | int | float):
        _compare_arrays(where, np.asarray(expected), np.asarray(found), tolerance, sharded)


def _compare_arrays(where: str, expected: Array, found: Array, tolerance: float | None, sharded: ShardedModule) -> None:
    name = expected.dtype.name
    assert expected.shape == found.shape and name == found.dtype.name, (
        f"{where}: {name}{expected.shape} against {found.dtype.name}{found.shape}"
    )
    if name not in _TOLERANCE:
        wrong = int(np.sum(expected != found))
        assert not wrong, f"{where}: {wrong} of {expected.size} elements differ\n{sharded.plan.explain()}"
        return
    a, b = expected.astype("float64"), found.astype("float64")
    finite = np.isfinite(a)
    assert np.array_equal(finite, np.isfinite(b)) and np.array_equal(a[~finite], b[~finite], equal_nan=True), (
        f"{where}: infinities or NaNs differ\n{sharded.plan.explain()}"
    )
    if not finite.any():
        return
    difference = float(np.max(np.abs(a[finite] - b[finite])))
    allowed = (tolerance if tolerance is not None else _TOLERANCE[name]) * max(float(np.max(np.abs(a[finite]))), 1e-30)
    assert difference <= allowed, (
        f"{where}: the largest difference is {difference:.3g}, at most {allowed:.3g} was expected\n{sharded.plan.explain()}"
    )
