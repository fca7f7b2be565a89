"""Reads the factors of a PrimFunc off its loops, block variables and buffer indices."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import tvm
import tvm_ffi
from tvm import s_tir, tirx

from spmd.ir.expressions import static, variables
from spmd.rules.model import Size, Spec

from .blocks import bound_values, holds_blocks, put_in, read_block
from .linear import keeps_zero, linear_sets
from .links import Links, Node
from .model import Block, Kernel, Staged, Unreadable
from .normal import is_true, normalized
from .stages import Program, final_reduction, splittable


def read_kernel(func: tirx.PrimFunc, outputs: int | Sequence[int], in_place: Sequence[int] = ()) -> Kernel:
    """The factors of `func`, whose last `outputs` buffer parameters are written (or those of these numbers).

    `in_place` are the numbers of those that hold something when it starts. Raises `Unreadable` with the reason.
    """
    if func.attrs is not None and func.attrs.get("tirx.is_scheduled"):
        raise Unreadable("it is already scheduled")
    if not isinstance(func.body, s_tir.SBlockRealize):
        raise Unreadable("it is not made of blocks")
    func = normalized(func)
    tensors = [p for p in func.params if isinstance(p.ty, tirx.BufferType)]
    written = tensors[len(tensors) - outputs :] if isinstance(outputs, int) else [tensors[i] for i in outputs]
    return _Reader(func, tensors, written, [tensors[i] for i in in_place]).read()


@dataclass(frozen=True)
class _Factors:
    """The named factors of a kernel."""

    by_key: dict[Any, tuple[str, ...]]
    """Dimension of a buffer, as ``(buffer, number)``, or variable of a block -> its factors, major first."""
    sizes: dict[str, Size]
    buffers: dict[Any, Spec]
    iters: dict[Any, tuple[str, ...]]
    """Variable of a block -> its factors."""

    def of(self, key: Any) -> tuple[str, ...]:
        """The factors of a dimension or variable."""
        return self.by_key[key]


class _Reader:
    def __init__(self, func: tirx.PrimFunc, tensors: list[Any], written: list[Any], in_place: list[Any]) -> None:
        self.func, self.tensors, self.written, self.in_place = func, tensors, written, in_place
        self.links = Links()
        self.nodes = self.links.nodes
        self.whole: set[Any] = set()
        self.blocks: list[Block] = []
        self.loop_of: dict[Any, Any] = {}
        self.known: list[Any] = list(tensors)
        """Every buffer."""
        self.gathered: set[Any] = set()
        self.valued: set[Any] = set()
        """Buffers that are read for more than to know where to read others."""
        self.bound: dict[Any, Any] = {}
        """The values that the block of the walk binds to variables."""
        self.inside = False
        """Whether the walk is inside of an index."""
        self.around: tuple[Any, ...] = ()
        """The variables of the blocks around the walk."""

    def read(self) -> Kernel:
        self._walk()
        found = self._named()
        whole = {f for key in self.whole for f in found.of(key)} | {f for key in self.nodes for f in found.of(key)[1:]}
        candidates = [f for f in found.sizes if f not in whole]
        allowed = splittable(candidates, Program(self.blocks, found.iters, found.buffers, self.written, bool(self.in_place)))
        whole |= {f for f in candidates if f not in allowed}
        zero = keeps_zero(self.blocks, [p for p in self.tensors if p not in self.written or p in self.in_place], self.written)
        pointers = frozenset(p for p in self.tensors if p not in self.written and p not in self.valued)
        reduce = final_reduction(allowed)
        params = tuple(tuple((tuple(f for f in piece if found.sizes[f] != 1),) for (piece,) in found.buffers[p]) for p in self.tensors)
        staged = self._staged(allowed, found.iters, reduce, zero, self._holding(params, pointers))
        if any(b.around for b in self.blocks):  # what stands in one block is not cut into several kernels
            whole |= staged.keys()
            staged = {}
        return Kernel(
            func=self.func,
            params=params,
            outputs=tuple(self.written),
            in_place=tuple(self.in_place),
            sizes=found.sizes,
            whole=frozenset(whole),
            reduce=reduce,
            staged=staged,
            loops={loop: found.iters[var] for var, loop in self.loop_of.items()},
            iters=found.iters,
            buffers=found.buffers,
            blocks=tuple(self.blocks),
            zero=zero,
            linear=() if self.in_place else linear_sets(self.blocks, self.tensors, self.written),
            gathered=frozenset(i for i, p in enumerate(self.tensors) if p in self.gathered),
            pointers=pointers,
        )

    def _walk(self) -> None:
        """Find the blocks, and link what indexes each other."""
        body = self.func.body.block.body
        self.known += self.func.body.block.alloc_buffers
        for top, stmt in enumerate(body.seq if isinstance(body, tirx.SeqStmt) else [body]):
            self._statement(stmt, {}, top)
        for block in self.blocks:
            self._block(block)
        for buffer in self.known:  # those that nothing reads have dimensions too
            for dim, size in enumerate(buffer.ty.shape):
                self.nodes.setdefault((buffer, dim), Node(static(size), set()))
        self.links.share_divisors()

    def _named(self) -> _Factors:
        """Give the factors names, equal ones the same."""
        chains = {key: self.links.chain(node) for key, node in self.nodes.items()}
        names, sizes = self.links.unify(chains)
        of = {key: tuple(names[key, i] for i in range(len(chain))) for key, chain in chains.items()}
        buffers = {b: tuple((of[b, d],) for d in range(len(b.ty.shape))) for b in self.known}
        return _Factors(of, sizes, buffers, {var: of[var] for b in self.blocks for var in b.variables})

    def _holding(self, params: Sequence[Spec], pointers: frozenset[Any]) -> list[set[str]]:
        """The factors of each tensor whose numbers are read."""
        pairs = zip(self.tensors, params, strict=True)
        return [{f for (piece,) in spec for f in piece} for p, spec in pairs if p not in self.written and p not in pointers]

    def _staged(
        self, allowed: dict[str, Staged], iters: dict[Any, tuple[str, ...]], reduce: str | None, zero: bool, holding: list[set[str]]
    ) -> dict[str, Staged]:
        """Those of the factors that can be split for which the same kernel on shards will not do.

        It will do where nothing is reduced, or a last sum to which zeros in padding add nothing. What writes in place would write to
        padding that its caller knows to be zero.
        """
        return {
            f: s
            for f, s in allowed.items()
            if s.reduced
            or self.in_place
            or self._needs_care(f, iters)
            or (s.partial is not None and not _plain(f, s.partial, reduce, zero, holding))
        }

    def _needs_care(self, factor: str, iters: dict[Any, tuple[str, ...]]) -> bool:
        """Whether some block asks for the position of this factor, or must not run on its padding."""
        return any(factor in iters[v.var] and b.cares(v.var) for b in self.blocks for v in b.realize.block.iter_vars)

    def _statement(self, stmt: Any, loops: dict[Any, Any], top: int) -> None:
        """Collect leaf blocks under loops from 0."""
        if isinstance(stmt, s_tir.SBlockRealize):
            self._bind(stmt, loops)
            self.known += stmt.block.alloc_buffers
            if stmt.block.iter_vars and not holds_blocks(stmt.block.body):
                self.blocks.append(read_block(stmt, top, self.around))
            else:
                self._within(stmt.block, loops, top)
        elif isinstance(stmt, tirx.For):
            bound = stmt.thread_binding is not None or stmt.kind == tirx.ForKind.THREAD_BINDING
            if static(stmt.min) != 0 or (bound and not _around_blocks(stmt)):
                raise Unreadable(f"its loop over {stmt.loop_var.name!r} is not a plain one from 0")
            self._statement(stmt.body, {**loops, stmt.loop_var: stmt}, top)
        elif isinstance(stmt, tirx.SeqStmt):
            for inner in stmt.seq:
                self._statement(inner, loops, top)
        else:
            raise Unreadable(f"it has a {type(stmt).__name__} outside of any block")

    def _within(self, block: Any, loops: dict[Any, Any], top: int) -> None:
        """The blocks inside of a block, whose own variables are never split."""
        if block.init is not None:
            raise Unreadable(f"block {block.name_hint!r} reduces over blocks inside of it")
        before, mine = self.around, tuple(v.var for v in block.iter_vars)
        self.around = (*before, *mine)
        self.whole.update(mine)
        # Threads are for the blocks around; a block inside that is bound to one has a loop of its own.
        self._statement(block.body, {v: loop for v, loop in loops.items() if loop.thread_binding is None}, top)
        self.around = before

    def _bind(self, realize: Any, loops: dict[Any, Any]) -> None:
        """Make the variables of a block known by the loops that they run over."""
        name = realize.block.name_hint
        if len(realize.block.match_buffers) or not is_true(realize.predicate):
            raise Unreadable(f"block {name!r} has a predicate or matched buffers")
        for iter_var, value in zip(realize.block.iter_vars, realize.iter_values, strict=True):
            if static(value) == 0 and static(iter_var.dom.extent) == 1:
                self.nodes[iter_var.var] = Node(1, set())
                continue
            if value not in loops:
                raise Unreadable(f"block {name!r} is bound to {value}, which is no plain loop")
            self.nodes[iter_var.var] = Node(static(loops[value].extent), set())
            self.loop_of[iter_var.var] = value

    def _block(self, block: Block) -> None:
        """Follow every access and value of a block."""
        self.bound = bound_values(block.realize.block.body)

        def visit(node: Any, visitor: Any) -> None:
            if isinstance(node, tirx.BufferStore):
                block.writes.append(node.buffer)
                for index in self._access(block, node.buffer, node.indices, visitor):
                    # Where it writes hangs on more than which element it is: every worker would have to do all of it.
                    self.whole.update(v for v in variables(index) if v in self.nodes)
                visitor.visit(node.value)
            elif isinstance(node, tvm.ir.TensorLoad):
                block.reads.append(node.source)
                if not self.inside:
                    self.valued.add(node.source)
                self._access(block, node.source, node.indices, visitor)
            elif isinstance(node, tirx.FloorMod) and node.a in self.nodes and _divides(static(node.b), self.nodes[node.a].size):
                # k % 8 looks only at the minor factors of k, which never split.
                self.nodes[node.a].divisors.add(static(node.b) or 1)
            elif isinstance(node, tvm.ir.Var):
                if node in self.nodes:
                    block.positional.add(node)
            else:
                visitor.default_visit(node)

        for stmt in (block.realize.block.init, block.realize.block.body):
            if stmt is not None:
                tvm_ffi.structural_visit(stmt, [((tvm.ir.Expr, tirx.Stmt), visit)])
        for buffer in (*block.reads, *block.writes):
            if not any(buffer.same_as(b) for b in self.known):
                raise Unreadable(f"block {block.realize.block.name_hint!r} uses a buffer of its own")

    def _access(self, block: Block, buffer: Any, indices: Iterable[Any], visitor: Any) -> list[Any]:
        """Link the dimensions of `buffer` to what indexes them; the indices that are of no known form."""
        odd: list[Any] = []
        for dim, given in enumerate(indices):
            index = put_in(given, self.bound)
            size = static(buffer.ty.shape[dim])
            key = (buffer, dim)
            node = self.nodes.setdefault(key, Node(size, set()))
            if node.size != size or not self.links.index(key, size, index):
                odd.append(index)
                self.whole.add(key)
                before, inside = len(block.reads), self.inside
                self.inside = True
                visitor.visit(index)
                self.inside = inside
                if len(block.reads) > before:
                    block.pointing.update(v for v in variables(index) if v in self.nodes)
                    self.gathered.add(buffer)
        return odd


def _plain(factor: str, kind: str, reduce: str | None, zero: bool, holding: list[set[str]]) -> bool:
    """Whether a last reduction needs no more than the same kernel on shards: zeros in padding add nothing to it."""
    return kind == reduce == "sum" and zero and all(factor in h for h in holding)


def _around_blocks(loop: Any) -> bool:
    """Whether a loop stands around a block of blocks, whose variables are never split."""
    body = loop.body
    while isinstance(body, tirx.For):
        body = body.body
    return isinstance(body, s_tir.SBlockRealize) and bool(body.block.iter_vars) and holds_blocks(body.block.body)


def _divides(part: int | None, whole: Size) -> bool:
    return part is not None and whole is not None and part > 0 and whole % part == 0
