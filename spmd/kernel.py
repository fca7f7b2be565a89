"""What a PrimFunc says about itself: which buffer dimensions and loops go together, read off its blocks.

Every loop variable and buffer dimension is a product of *factors*, major first. ``out[n, k] = w[n, k // 8] * s[n, k // 32]``
gives ``k = (a b c)`` with c = 8 and b = 4, so that w is ``n (a b)`` and s is ``n a``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import tvm
import tvm_ffi
from tvm import s_tir, tirx

from .expression import Size, Spec

_DATA_PARALLEL, _REDUCE = 0, 2  # IterVar.DataPar, IterVar.CommReduce


class Unreadable(Exception):
    """Why the factors of a kernel cannot be read; the text goes into the report."""


@dataclass(frozen=True)
class Kernel:
    """The factors of a PrimFunc."""

    params: tuple[Spec, ...]
    """One spec a buffer parameter, outputs last."""
    sizes: dict[str, Size]
    whole: frozenset[str]
    """Factors that cannot be split: their position counts, or constants of the kernel depend on their size."""
    reduce: str | None
    """The kind of reduction that ends the kernel, if one does."""
    loops: dict[Any, tuple[str, ...]]
    """Loop variable -> its factors."""
    iters: dict[Any, tuple[str, ...]]
    """Block variable -> its factors."""
    buffers: dict[Any, Spec]
    """Buffer -> its spec, those that the kernel allocates too."""
    zero: bool
    """Whether zeros in all inputs give zeros out."""


@dataclass
class _Node:
    """A loop variable or a buffer dimension, as a number that is cut at `divisors` (each the product of what is minor to it)."""

    size: Size
    divisors: set[int]


def read_kernel(func: tirx.PrimFunc, outputs: int) -> Kernel:
    """The factors of `func`, whose last `outputs` parameters are written. Raises `Unreadable` with the reason."""
    return _Reader(func, outputs).read()


class _Reader:
    def __init__(self, func: tirx.PrimFunc, outputs: int) -> None:
        self.func, self.outputs = func, outputs
        self.nodes: dict[Any, _Node] = {}
        self.links: list[tuple[str, Any, Any, int]] = []
        """("same", a, b, 1); ("high", v, dim, c): dim = v // c; ("low", v, dim, c): dim = v % c."""
        self.whole: set[Any] = set()
        self.blocks: list[Any] = []
        self.loop_of: dict[Any, Any] = {}

    def read(self) -> Kernel:
        if self.func.attrs is not None and self.func.attrs.get("tirx.is_scheduled"):
            raise Unreadable("it is already scheduled")
        for param in self.func.params:
            if not isinstance(param.ty, tirx.BufferType):
                raise Unreadable(f"its parameter {param.name!r} is no buffer")
        self._blocks(self.func.body, {})
        for realize in self.blocks:
            self._block(realize)
        for buffer in self._buffers():  # those that nothing reads have dimensions too
            for dim, size in enumerate(buffer.ty.shape):
                self.nodes.setdefault((buffer, dim), _Node(_static(size), set()))
        self._share_divisors()
        chains = {key: self._chain(node) for key, node in self.nodes.items()}
        names, sizes = self._unify(chains)

        def factors(key: Any) -> tuple[str, ...]:
            return tuple(names[key, i] for i in range(len(chains[key])))

        whole = {f for key in self.whole for f in factors(key)} | {f for key in self.nodes for f in factors(key)[1:]}
        buffers = {b: tuple((factors((b, d)),) for d in range(len(b.ty.shape))) for b in self._buffers()}
        params = tuple(tuple((tuple(f for f in piece if sizes[f] != 1),) for (piece,) in buffers[p]) for p in self.func.params)
        reduce, reduced = self._reduction(factors)
        written = {f for spec in params[-self.outputs :] for (piece,) in spec for f in piece}
        iterated = [(v.iter_type, factors(v.var)) for r in self.blocks for v in r.block.iter_vars]
        whole |= {f for kind, fs in iterated for f in fs if kind not in (_DATA_PARALLEL, _REDUCE) or (kind == _REDUCE and f not in reduced)}
        whole |= set(sizes) - written - reduced
        iters = {var: factors(var) for var in self.loop_of}
        loops = {loop: iters[var] for var, loop in self.loop_of.items()}
        return Kernel(params, sizes, frozenset(whole), reduce, loops, iters, buffers, self._keeps_zero())

    def _buffers(self) -> Iterator[Any]:
        seen = list(self.func.params)
        yield from seen
        for block in (self.func.body.block, *(r.block for r in self.blocks)):
            yield from block.alloc_buffers

    def _blocks(self, stmt: Any, loops: dict[Any, Any]) -> None:
        """Collect leaf blocks; every loop from 0 to its extent, serial."""
        if isinstance(stmt, s_tir.SBlockRealize):
            if not stmt.block.iter_vars:
                self._blocks(stmt.block.body, loops)
                return
            if len(stmt.block.match_buffers) or not _is_true(stmt.predicate):
                raise Unreadable(f"block {stmt.block.name_hint!r} has a predicate or matched buffers")
            for iter_var, value in zip(stmt.block.iter_vars, stmt.iter_values, strict=True):
                if value not in loops:
                    raise Unreadable(f"block {stmt.block.name_hint!r} is bound to {value}, which is no plain loop")
                self.nodes[iter_var.var] = _Node(_static(loops[value].extent), set())
                self.loop_of[iter_var.var] = value
            self.blocks.append(stmt)
        elif isinstance(stmt, tirx.For):
            if not _is_zero(stmt.min) or stmt.kind != tirx.ForKind.SERIAL:
                raise Unreadable(f"its loop over {stmt.loop_var.name!r} is not a serial one from 0")
            self._blocks(stmt.body, {**loops, stmt.loop_var: stmt})
        elif isinstance(stmt, tirx.SeqStmt):
            for inner in stmt.seq:
                self._blocks(inner, loops)
        else:
            raise Unreadable(f"it has a {type(stmt).__name__} outside of any block")

    def _block(self, realize: Any) -> None:
        for stmt in (realize.block.init, realize.block.body):
            if stmt is None:
                continue
            if not isinstance(stmt, tirx.BufferStore):
                raise Unreadable(f"block {realize.block.name_hint!r} holds a {type(stmt).__name__}")
            self._access(stmt.buffer, stmt.indices)
            self._value(stmt.value)

    def _access(self, buffer: Any, indices: Iterable[Any]) -> None:
        for dim, index in enumerate(indices):
            size = _static(buffer.ty.shape[dim])
            key = (buffer, dim)
            node = self.nodes.setdefault(key, _Node(size, set()))
            if node.size != size or not self._index(key, size, index):
                self.whole.add(key)
                self._value(index)

    def _index(self, key: Any, size: Size, index: Any) -> bool:
        """Link a buffer dimension to the loop variables that index it; False where the index is of no known form."""
        known = self.nodes.get(index)
        if known is not None and known.size == size:
            self.links.append(("same", index, key, 1))
            return True
        if _is_zero(index):
            return size == 1
        if isinstance(index, tirx.FloorDiv | tirx.FloorMod) and index.a in self.nodes:
            kind = "high" if isinstance(index, tirx.FloorDiv) else "low"
            whole, part = self.nodes[index.a].size, _static(index.b)
            if whole is None or not part or whole % part or size != (whole // part if kind == "high" else part):
                return False
            self.nodes[index.a].divisors.add(part)
            self.links.append((kind, index.a, key, part))
            return True
        if isinstance(index, tirx.Add) and isinstance(index.a, tirx.Mul) and index.a.a in self.nodes and index.b in self.nodes:
            part, low = _static(index.a.b), self.nodes[index.b].size
            high = self.nodes[index.a.a].size
            if part is None or low != part or high is None or size != high * part:
                return False
            self.nodes[key].divisors.add(part)
            self.links += [("high", key, index.a.a, part), ("low", key, index.b, part)]
            return True
        return False

    def _value(self, expr: Any) -> None:
        """Loads inside a value are accesses; a loop variable outside of one tells its position, so it stays whole."""

        def visit(node: Any, visitor: Any) -> None:
            if isinstance(node, tvm.ir.TensorLoad):
                self._access(node.source, node.indices)
            elif isinstance(node, tirx.FloorMod) and node.a in self.nodes and _divides(_static(node.b), self.nodes[node.a].size):
                # k % 8 looks only at the minor factors of k, which never split.
                self.nodes[node.a].divisors.add(_static(node.b) or 1)
            elif isinstance(node, tvm.ir.Var):
                if node in self.nodes:
                    self.whole.add(node)
            else:
                visitor.default_visit(node)

        tvm_ffi.structural_visit(expr, [((tvm.ir.Expr,), visit)])

    def _share_divisors(self) -> None:
        changed = True
        while changed:
            changed = False
            for kind, a, b, c in self.links:
                left, right = self.nodes[a], self.nodes[b]
                if kind == "same":
                    to_left, to_right = right.divisors, left.divisors
                elif kind == "high":
                    to_left, to_right = {d * c for d in right.divisors}, {d // c for d in left.divisors if d % c == 0 and d > c}
                else:
                    to_left, to_right = right.divisors, {d for d in left.divisors if d < c}
                if not to_left <= left.divisors or not to_right <= right.divisors:
                    left.divisors |= to_left
                    right.divisors |= to_right
                    changed = True

    def _chain(self, node: _Node) -> list[Size]:
        """Sizes of the factors of a node, major first; a node whose divisors do not nest is one factor that stays whole."""
        cuts = sorted(node.divisors, reverse=True)
        if not cuts:
            return [node.size]
        for a, b in pairwise(cuts):
            if a % b:
                raise Unreadable(f"it divides one index by both {a} and {b}")
        assert node.size is not None
        sizes: list[Size] = [node.size // cuts[0]]
        return sizes + [a // b for a, b in zip(cuts, [*cuts[1:], 1], strict=True)]

    def _unify(self, chains: dict[Any, list[Size]]) -> tuple[dict[Any, str], dict[str, Size]]:
        parent: dict[Any, Any] = {(key, i): (key, i) for key, chain in chains.items() for i in range(len(chain))}

        def root(x: Any) -> Any:
            while parent[x] is not x:
                x = parent[x]
            return x

        for kind, a, b, _ in self.links:
            left, right = len(chains[a]), len(chains[b])
            offset = 0 if kind in ("same", "high") else left - right
            for i in range(right):
                ra, rb = root((a, i + offset)), root((b, i))
                if ra is not rb:
                    parent[rb] = ra
        names: dict[Any, str] = {}
        sizes: dict[str, Size] = {}
        roots: dict[Any, str] = {}
        for key, chain in chains.items():
            for i, size in enumerate(chain):
                top = root((key, i))
                names[key, i] = roots.setdefault(top, f"f{len(roots)}")
                sizes.setdefault(names[key, i], size)
        return names, sizes

    def _reduction(self, factors: Any) -> tuple[str | None, set[str]]:
        """The kind of the reduction whose result is an output that nothing else reads, and its factors."""
        kinds: dict[str, set[str]] = {}
        for realize in self.blocks:
            reduced = {f for v in realize.block.iter_vars if v.iter_type == _REDUCE for f in factors(v.var)}
            if not reduced:
                continue
            stmt = realize.block.body
            read_again = any(
                stmt.buffer.same_as(region.source) for other in self.blocks if other is not realize for region in other.block.reads
            )
            kind = {tirx.Add: "sum", tirx.Max: "max", tirx.Min: "min", tirx.Mul: "prod"}.get(type(stmt.value))
            at_end = stmt.buffer in list(self.func.params)[-self.outputs :] and not read_again and self.outputs == 1
            # Every worker starts from the same value, which must not count once a worker.
            at_end = at_end and (kind in ("max", "min") or _starts_at(realize.block.init, {"sum": 0, "prod": 1}.get(kind or "")))
            if at_end and kind is not None and isinstance(stmt.value.a, tvm.ir.TensorLoad) and stmt.value.a.source.same_as(stmt.buffer):
                kinds.setdefault(kind, set()).update(reduced)
        if len(kinds) != 1:
            return None, set()
        ((kind, reduced),) = kinds.items()
        return kind, reduced

    def _keeps_zero(self) -> bool:
        """Whether every output is zero where all inputs are, block after block."""
        params = list(self.func.params)
        known: dict[Any, float | None] = dict.fromkeys(params[: -self.outputs], 0.0)
        for realize in self.blocks:
            stmt, init = realize.block.body, realize.block.init
            before = 0.0 if init is None else _at_zero(init.value, known)
            known[stmt.buffer] = _at_zero(stmt.value, {**known, stmt.buffer: before})
        return all(known.get(p) == 0 for p in params[-self.outputs :])


def _starts_at(init: Any, value: int | None) -> bool:
    return init is not None and isinstance(init.value, tirx.IntImm | tirx.FloatImm) and init.value.value == value


def _at_zero(expr: Any, known: Mapping[Any, float | None]) -> float | None:
    """The value of `expr` when each buffer holds its `known` value everywhere: NaN for a finite number that cannot be told,
    None for what may be no finite number.
    """
    if isinstance(expr, tvm.ir.TensorLoad):
        return known.get(expr.source)
    if isinstance(expr, tirx.IntImm | tirx.FloatImm):
        return float(expr.value)
    if isinstance(expr, tirx.Cast):
        return _at_zero(expr.value, known)
    if isinstance(expr, tirx.Add | tirx.Sub | tirx.Mul | tirx.Max | tirx.Min):
        a, b = _at_zero(expr.a, known), _at_zero(expr.b, known)
        if a is None or b is None:
            return None
        if isinstance(expr, tirx.Mul) and 0 in (a, b):
            return 0.0
        if math.isnan(a) or math.isnan(b):
            return math.nan
        found = {tirx.Add: a + b, tirx.Sub: a - b, tirx.Mul: a * b, tirx.Max: max(a, b), tirx.Min: min(a, b)}
        return found[type(expr)]
    return math.nan if isinstance(expr.ty, tvm.ir.PrimType) and "float" not in str(expr.ty.dtype) else None


def _static(expr: Any) -> int | None:
    return expr if isinstance(expr, int) else int(expr.value) if isinstance(expr, tirx.IntImm) else None


def _divides(part: int | None, whole: Size) -> bool:
    return part is not None and whole is not None and part > 0 and whole % part == 0


def _is_zero(expr: Any) -> bool:
    return _static(expr) == 0


def _is_true(expr: Any) -> bool:
    return expr is True or _static(expr) == 1
