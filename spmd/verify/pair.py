"""A module and its per-worker program, run on the same numbers and compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import tvm
import tvm_ffi
from tvm import relax

from spmd.errors import ShardingError
from spmd.placement.mesh import Mesh

from . import placed, signature
from .arguments import Arguments, Run
from .blame import first_wrong
from .expressions import is_float
from .field import NAN, of_floats
from .opaque import Cache, Opaque
from .pieces import NotInPieces, Relations
from .program import Program
from .signature import Signature
from .undecided import Undecided
from .values import Sizes, Tensor, Unknown, Wrong

_PADDING = -1
"""The number of a worker's head that is none of the module's."""


@dataclass(frozen=True)
class Asked:
    """What is asked of every pair of programs."""

    mesh: Mesh
    sizes: Mapping[str, int]
    divisible: Mapping[str, int]
    arguments: Mapping[str, Any]
    seed: int
    rounds: int | None
    heads: dict[tuple[int, int], set[int]] = field(default_factory=dict[tuple[int, int], set[int]])
    """A worker and one of its heads in a cache -> the heads of the module that it is, in all functions."""


class Pair:
    """A module and its per-worker program, run on the same numbers."""

    def __init__(self, mod: tvm.IRModule, local: tvm.IRModule, asked: Asked, held: Relations) -> None:
        self.mesh, self.sizes, self.divisible, self.given = asked.mesh, asked.sizes, asked.divisible, asked.arguments
        self._ways: list[list[bool]] = [[], []]
        self._forced: bool | None = None
        try:
            self._one = Program(mod, Mesh(one=1), Opaque(), lambda ways: self._decided(0, ways))
            self._many = Program(local, self.mesh, Opaque(), lambda ways: self._decided(1, ways))
        except Undecided as undecided:
            raise ShardingError("verify", str(undecided), "Replace the operator by one that TVM can lower.") from undecided
        self._source = {var.name_hint: f for var, f in mod.functions.items()}
        self._branches = any(_has_branches(f) for f in mod.functions.values())
        self.elements, self.runs, self.undecided = 0, 0, list[str]()
        self.held, self._heads = held, asked.heads

    def _decided(self, which: int, ways: list[bool]) -> bool | None:
        self._ways[which].append(ways[0])
        return self._forced

    def check(self, name: str, one: Signature, run: Run) -> None:
        """One function on one choice of numbers; where it branches, also each way."""
        for forced in (None, True, False) if self._branches else (None,):
            self._forced = forced
            try:
                self._run(name, one, run)
            except Undecided as undecided:
                self.undecided.append(f"{name}: {undecided}")

    def _run(self, name: str, one: Signature, run: Run) -> None:
        make, args, expected = self._module(name, run)
        self.runs += 1
        before = args if self._one.shares else make.of(self._source[name])
        self._many.opaque = Opaque(self._one.opaque)
        try:
            columns = self._columns(before, one, make)
            found = self._call(self._many, 1, name, columns)
            if self._ways[0] != self._ways[1]:
                raise Wrong(f"it takes other branches than the module: {self._ways[1]}, and not {self._ways[0]}")
            if one.is_open:
                self._find(expected, found)
            else:
                self._compare(expected, found, one.outputs, f"the result of {name!r}")
            for i, (arg, column) in enumerate(zip(one.of(args), columns, strict=False)):
                if isinstance(arg, Tensor) and self._one.shares and self._many.shares:
                    continue  # neither program writes to what it is given
                self._compare(arg, column, one.params[i], f"what {name!r} leaves in parameter {i}")
        except Wrong as wrong:
            if one.sources is not None:
                raise NotInPieces from wrong
            blamed = self._blamed(name, before, make, one)
            raise ShardingError(f"verify, {name!r}", f"{wrong}{blamed}", "The per-worker program is wrong there.") from wrong

    def _module(self, name: str, run: Run) -> tuple[Arguments, list[Any], Any]:
        """Arguments whose integers point outside no more than zeros do, what the module leaves in them, and what it gives."""
        given = {key.split(".", 1)[1]: value for key, value in self.given.items() if key.startswith(f"{name}.")}

        def tried(high: int) -> tuple[Arguments, list[Any], Any]:
            make = Arguments(run, high, self.sizes, self.divisible, given)
            args = make.of(self._source[name])
            self._one.outside, self._one.opaque = 0, Opaque()
            return make, args, self._expected(name, args)

        outside: dict[int, int] = {}
        for high in _highs(self._source[name]):
            found = tried(high)
            outside[high] = self._one.outside
            if not self._one.outside:
                return found
        # Some kernels read outside whatever they are given, and drop it.
        return tried(next(high for high, count in outside.items() if count <= outside[1]))

    def _columns(self, args: list[Any], one: Signature, make: Arguments) -> list[list[Any]]:
        """What each worker is given, sizes and constants of the module among it."""
        columns = [self._cut(arg, place, f"parameter {i}") for i, (arg, place) in enumerate(zip(one.of(args), one.params, strict=True))]
        columns += [[make.named(one.sizes)] * self.mesh.size] if one.sizes else []
        return columns + [self._cut(_constant(data), place, "a constant") for place, data in one.constants]

    def _expected(self, name: str, args: list[Any]) -> Any:
        try:
            return self._call(self._one, 0, name, [[arg] for arg in args])[0]
        except Wrong as wrong:
            raise ShardingError(f"verify, {name!r}", f"the module itself cannot be run: {wrong}") from wrong

    def _call(self, program: Program, which: int, name: str, columns: list[list[Any]]) -> list[Any]:
        self._ways[which] = []
        return program.run(name, columns)

    def _cut(self, value: Any, place: Any, where: str) -> list[Any]:
        """What each worker is given of an argument."""
        ranks = range(self.mesh.size)
        if isinstance(value, tuple) and not isinstance(value, Sizes):
            parts = [self._cut(v, p, where) for v, p in zip(value, place, strict=True)]
            return [tuple(part[rank] for part in parts) for rank in ranks]
        if isinstance(value, Tensor):
            return placed.cuts(value, place or signature.whole(value.data.ndim), self.mesh, self._many.shares)
        return [Cache(value.name) if isinstance(value, Cache) else value for _ in ranks]

    def _find(self, expected: Sequence[Tensor], columns: Sequence[Sequence[Any]]) -> None:
        """Find how workers hold their results, of which nothing was said; what was found before must hold again."""
        copies = placed.copies(expected)
        if not self.held.copies:
            self.held.copies += copies
            for column in zip(*columns, strict=True):
                one = placed.found(expected, column, self.mesh) if all(isinstance(part, Tensor) for part in column) else None
                if one is None:
                    raise NotInPieces
                self.held.results.append(one)
        if self.held.copies != copies:
            raise NotInPieces
        for (index, place), column in zip(self.held.results, zip(*columns, strict=True), strict=True):
            self._compare_tensor(expected[index], list(column), place, "a result")

    def _compare(self, expected: Any, column: list[Any], place: Any, where: str) -> None:
        """Raise `Wrong` at the first number that is another one; what cannot be decided is noted."""
        unknown = next((v for v in (expected, *column) if isinstance(v, Unknown)), None)
        strange = next((rank for rank, v in enumerate(column) if _form(v) != _form(expected)), None)
        if unknown is not None:
            self.undecided.append(f"{where}: {unknown.why}")
        elif strange is not None:
            raise Wrong(f"{where} on worker {strange} is {_form(column[strange])}, and not {_form(expected)}")
        elif isinstance(expected, tuple) and not isinstance(expected, Sizes):
            for i, one in enumerate(expected):
                self._compare(one, [v[i] for v in column], place[i] if isinstance(place, tuple) else None, f"{where}[{i}]")
        elif isinstance(expected, Tensor):
            self._compare_tensor(expected, column, place or signature.whole(expected.data.ndim), where)
        elif isinstance(expected, Cache):
            self._compare_caches(expected, column, where)
        elif any(v != expected for v in column):
            raise Wrong(f"{where} is {column}, and not {expected}")

    def _compare_tensor(self, expected: Tensor, column: list[Tensor], place: Any, where: str) -> None:
        try:
            self.elements += placed.compared(expected, column, place, self.mesh)
        except Wrong as wrong:
            raise Wrong(f"{where} {wrong}") from wrong
        if is_float(expected.dtype) and bool((expected.data == NAN).any()):
            self.undecided.append(f"{where}: in the module itself some of it is no number, or memory that nobody wrote")

    def _compare_caches(self, expected: Cache, column: list[Any], where: str) -> None:
        for rank, cache in enumerate(column):
            if not isinstance(cache, Cache) or (cache.name, cache.asked) != (expected.name, expected.asked):
                raise Wrong(f"{where} on worker {rank} is another cache than the module's")
            if expected.heads is not None and (cache.heads or 0) * self.mesh.size < expected.heads:
                raise Wrong(f"{where} on worker {rank} has {cache.heads} heads, too few for the {expected.heads} of all")
        kept = {(layer, kept) for cache in column for (layer, _), kept in cache.history.items()}
        for (layer, head), history in expected.history.items():
            if (layer, history) not in kept:
                raise Wrong(f"{where}: no worker keeps head {head} of layer {layer}")
        for rank, cache in enumerate(column):
            for (layer, head), history in cache.history.items():
                same = {h for (at, h), other in expected.history.items() if at == layer and other == history} or {_PADDING}
                if not self._heads.setdefault((rank, head), set(same)) & same:
                    raise Wrong(f"{where}: on worker {rank} head {head} is another one than elsewhere")
                self._heads[rank, head] &= same

    def _blamed(self, name: str, args: list[Any], make: Arguments, one: Signature) -> str:
        """The first value of the per-worker program that is none of the module, in words."""
        self._one.steps, self._many.steps = [], []
        fresh, self._one.opaque = make.of(self._source[name]), Opaque()
        self._many.opaque = Opaque(self._one.opaque)
        try:
            self._one.run(name, [[arg] for arg in fresh])
            self._many.run(name, self._columns(args, one, make))
        except (Wrong, Undecided):
            pass  # what ran before it stopped is looked at
        return first_wrong(self._one, self._many, args)


def _form(value: Any) -> str:
    """What kind of a value it is, in words."""
    if isinstance(value, tuple) and not isinstance(value, Sizes):
        return f"a tuple of {len(value)}"  # pyright: ignore[reportUnknownArgumentType]
    return "a tensor" if isinstance(value, Tensor) else "a cache" if isinstance(value, Cache) else "a number, shape or text"


def _constant(data: Any) -> Tensor:
    dtype = str(data.dtype)
    return Tensor(of_floats(data.numpy(), dtype) if is_float(dtype) else data.numpy(), dtype)


def _has_branches(func: Any) -> bool:
    found: list[Any] = []
    if isinstance(func, relax.Function):
        tvm_ffi.structural_walk(func.body, ((relax.If,), found.append))
    return bool(found)


def _highs(func: Any) -> list[int]:
    """What integers may be below, tried until none points outside: sizes of parameters, the largest first."""
    sizes: set[int] = set()

    def visit(ty: Any) -> None:
        if isinstance(ty, relax.TupleType):
            for inner in ty.fields:
                visit(inner)
        elif isinstance(ty, relax.TensorType) and isinstance(ty.shape, relax.ShapeExpr):
            sizes.update(int(s) for s in ty.shape.values if isinstance(s, tvm.tirx.IntImm))

    for param in func.params:
        visit(param.ty)
    return sorted({4, 2, 1} | {s for s in sizes if s > 4}, reverse=True)
