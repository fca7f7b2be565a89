"""Hypothesis strategies for meshes, specs and random well-typed Relax programs. Needs the extra ``test``.

A program is a module of functions, each a dag of operators over shared values. Numbers stay tame: what grows is made small, and an operator
whose result jumps where its argument hardly changes (comparisons, argmax and the like) reads only what no rounding has touched.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import Any

import tvm
from hypothesis import strategies as st

from spmd.ir.builder import Builder
from spmd.ir.inline import inlined
from spmd.ir.lift import LIFT, lifted
from spmd.ir.trees import named_leaves
from spmd.placement.mesh import Mesh
from spmd.placement.spec import P
from spmd.plan.decisions import Leaf, Signature
from spmd.run.signatures import signatures

from .loops import loops
from .maker import BLOCKS, SYMBOLIC
from .write import write
from .writes import STORE

__all__ = ["DIVISIBLE", "NARROW", "SIZES", "loops", "meshes", "programs", "specs"]

Draw = Callable[[Any], Any]

SIZES = {f"n{size}": size for size in SYMBOLIC}
"""What the symbols of programs stand for: `sizes` of `assert_equivalent`."""
DIVISIBLE = {f"n{size}": by for size, by in BLOCKS.items()}
"""What some of them are said to be divisible by: `divisible` of `assert_equivalent`."""

NARROW = ("bfloat16", "float8_e4m3fn", "float8_e5m2")
"""Types of few digits that CPUs run: `narrow` of `programs`."""


@st.composite
def programs(draw: Draw, functions: int = 6, operators: int = 12, prefix: str = "f", narrow: Sequence[str] = ()) -> tvm.IRModule:
    """Modules of 1 to `functions` public functions of 1 to about `operators` operators each, and private ones that they call.

    Some have constants, which functions share. The names of functions and of weights start with `prefix`. A symbolic size is named ``n``
    and the number that it stands for. Floats are cast to types of `narrow` and back: not every target has them.

    Hypothesis draws a few bytes, of which all else follows: left to itself, it repeats a third of them and favours the smallest. What fails
    is made small by `spmd.testing.shrink`.
    """
    dice = Random(draw(st.binary(min_size=8, max_size=8)))
    bb = Builder()
    helpers: list[tuple[Any, list[Any]]] = []
    constants: list[Any] | None = [] if dice.randint(0, 3) == 0 else None
    if dice.randint(0, 4) == 0:
        params = write(dice, bb, f"{prefix}_private", 3, None, constants, [], private=True, narrow=narrow)
        helpers.append((next(g for g in bb.get().get_global_vars() if g.name_hint == f"{prefix}_private"), params))
    weights: list[Any] | None = [] if dice.randint(0, 1) else None
    for i in range(dice.randint(1, functions)):
        write(dice, bb, f"{prefix}{i}", operators, weights, constants, helpers, narrow=narrow)
    return bb.finalize()


def meshes(most: int = 4) -> st.SearchStrategy[Mesh]:
    """Meshes of 2 to `most` workers: along one axis, ``tp``, or two, ``dp`` and ``tp``, `dp` between hosts where it is shorter."""
    lines = [Mesh(tp=n) for n in range(2, most + 1)]
    grids = [Mesh(dp=n, tp=m, hosts=n if n < m else 1) for n in range(2, most // 2 + 1) for m in range(2, most // n + 1)]
    return st.sampled_from([*lines, *grids])


@st.composite
def specs(
    draw: Draw, mod: tvm.IRModule, mesh: Mesh | None = None, divisible: Mapping[str, int] | None = None, lift: int = LIFT
) -> dict[str, P]:
    """Specs for some of the parameters and results of a module: dimensions split over axes of `mesh`, by default ``tp``, or over parts of
    them, whole or open. Symbolic sizes are split evenly where `divisible` says that they can be, else in units over one axis; constants of
    `lift` bytes or more are weights.
    """
    dice = Random(draw(st.integers(0, 2**63)))
    found: dict[str, P] = {}
    for name, signature in signatures(lifted(inlined(mod), lift)).items():
        for key, leaf in [*_parameters(name, signature), *named_leaves(f"{name}.return", signature.outputs)]:
            if leaf.shape and key not in found and dice.randint(0, 2) == 0:
                entries = _entries(dice, leaf.shape, mesh or Mesh(tp=1), divisible or {})
                if leaf.name.endswith(STORE):
                    entries = _of_store(entries, leaf.shape)
                found[key] = P(*entries)
    return found


def _entries(dice: Random, shape: tuple[int | str, ...], mesh: Mesh, divisible: Mapping[str, int]) -> list[Any]:
    """One entry a dimension: each axis, or part of one, splits one of them, or none; several may split the same."""
    split: list[list[str]] = [[] for _ in shape]
    axes = [part for axis, size in mesh.axes.items() for part in _parts(dice, axis, size)]
    for axis in dice.sample(axes, len(axes)):
        at = dice.randint(-1, len(shape) - 1)
        if at < 0:
            continue
        size = shape[at]
        if isinstance(size, int) or divisible.get(size, 1) % mesh.axis_size(axis, *split[at]) == 0 or not split[at]:  # else in units
            split[at].append(axis)
    return [dice.choice([None, "?"]) if not s else s[0] if len(s) == 1 else tuple(s) for s in split]


def _of_store(entries: list[Any], shape: tuple[int | str, ...]) -> list[Any]:
    """What may be asked of what is written in place: its rows are written at any place, and a dimension of one has no loop to be cut."""
    return [None, *(None if size == 1 else entry for entry, size in zip(entries[1:], shape[1:], strict=True))]


def _parts(dice: Random, axis: str, size: int) -> list[str]:
    """An axis, or now and then two parts of it."""
    major = next((n for n in (2, 3) if size % n == 0 and size > n), size)
    return [f"{axis}(1){major}", f"{axis}({major}){size // major}"] if major < size and dice.randint(0, 3) == 0 else [axis]


def _parameters(name: str, signature: Signature) -> list[tuple[str, Leaf]]:
    """Parameters by the name that specs know them by: weights have their own."""
    inputs = signature.num_input if signature.num_input is not None else len(signature.params)
    own = [(p.name if i >= inputs else f"{name}.{p.name}", p) for i, p in enumerate(signature.params) if isinstance(p, Leaf)]
    # Integers may be equal in several programs, which are sharded as one module, and are one weight then.
    return [*own, *((leaf.name, leaf) for leaf in signature.constants if leaf.dtype.startswith("float"))]
