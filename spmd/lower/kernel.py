"""The PrimFuncs that one worker runs: the same blocks over smaller loops and buffers, cut where workers must exchange."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any

import tvm
import tvm_ffi
from tvm import s_tir, tirx

from spmd.ir.expressions import variables
from spmd.placement.mesh import Mesh
from spmd.placement.sharding import Split
from spmd.rules.kernel import Block, Kernel, levels, make_group_gemm, read_group_gemm
from spmd.rules.kernel.blocks import holds_blocks
from spmd.rules.kernel.model import REDUCE
from spmd.rules.model import Dim

from .places import Place, Rewrite


@dataclass(frozen=True)
class Stage:
    """One kernel of several: what it is given and makes, as buffers and numbers of the whole kernel."""

    func: tirx.PrimFunc
    inputs: tuple[Any, ...]
    scalars: tuple[Any, ...]
    outputs: tuple[Any, ...]
    """What is among the inputs too is written in place; the others are the last parameters."""


def local_kernel(kernel: Kernel, splits: Mapping[str, Split], mesh: Mesh) -> tirx.PrimFunc:
    """The kernel with the factors in `splits` cut to what each worker holds; `kernel.func` itself is not changed."""
    return _Cut(kernel, splits, mesh).all()


def stage_kernels(kernel: Kernel, factors: Sequence[str], splits: Mapping[str, Split], mesh: Mesh) -> list[Stage]:
    """The kernels, cut by `splits`, between which the buffers that splitting `factors` leaves partial are reduced.

    Each takes, before its results, for each of the factors a vector of the global position of every element, past the end for padding.
    """
    cut = _Cut(kernel, splits, mesh)
    found = levels(kernel.blocks, [b for f in factors for b, _ in kernel.staged[f].reduced])
    assert found is not None
    places = {f: tirx.decl_buffer((splits[f].local_size(mesh),), "int64", f"places_{f}") for f in factors}
    return [cut.stage([b for b, at in zip(kernel.blocks, found, strict=True) if at == level], places) for level in range(max(found) + 1)]


def local_group_gemm(func: tirx.PrimFunc, size: Callable[[str], int]) -> tirx.PrimFunc:
    """The kernel of one worker, for local sizes of ``e``, ``n`` and ``g`` units of the features of x."""
    whole = read_group_gemm(func)
    units = size("g")
    words = whole.words // whole.groups * units if whole.groups else 0
    local = replace(whole, experts=size("e"), out=size("n"), depth=units * whole.unit, words=words, groups=units if whole.groups else 0)
    return make_group_gemm(local).with_attrs(dict(func.attrs))


class _Cut:
    def __init__(self, kernel: Kernel, splits: Mapping[str, Split], mesh: Mesh) -> None:
        self.kernel, self.splits, self.mesh = kernel, splits, mesh
        self.buffers: dict[Any, Any] = {}
        for buffer, spec in kernel.buffers.items():
            shape = [self._size(dim, s) for dim, s in zip(spec, buffer.ty.shape, strict=True)]
            layout = None if buffer.ty.layout is None else "default"
            dtype = str(buffer.ty.dtype.dtype)
            self.buffers[buffer] = tirx.decl_buffer(shape, dtype, buffer.name, scope=buffer.ty.storage_scope, layout=layout)

    def all(self) -> tirx.PrimFunc:
        """Every block, in one kernel."""
        func = self.kernel.func
        body = self._mutated(func.body, {})
        return tirx.PrimFunc([self.buffers.get(p, p) for p in func.params], body, func.ret_type, func.attrs)

    def stage(self, blocks: Sequence[Block], places: Mapping[str, Any]) -> Stage:
        """The kernel of some of the blocks: it takes what other blocks write, and gives what they or the caller read."""
        kernel, func = self.kernel, self.kernel.func
        written = _distinct(b for block in blocks for b in block.writes)
        read = _distinct(b for block in blocks for b in block.reads)
        others = {b for block in kernel.blocks if block not in blocks for b in block.reads}
        inputs = tuple(b for b in _distinct((*read, *written)) if b not in written or b in kernel.in_place)
        outputs = tuple(b for b in written if b in others or b in kernel.outputs)
        made = {block.realize.block: self._block(block, places) for block in blocks}
        root = func.body.block
        stmts = root.body.seq if isinstance(root.body, tirx.SeqStmt) else [root.body]
        tops = dict.fromkeys(block.top for block in blocks)
        parts = [self._mutated(stmts[top], made) for top in tops]
        body = parts[0] if len(parts) == 1 else tirx.SeqStmt(parts)
        own = [self.buffers[b] for b in root.alloc_buffers if b in written and b not in outputs]
        block = s_tir.SBlock([], [], [], "root", body, alloc_buffers=own)
        used = set(variables(body))
        scalars = tuple(p for p in func.params if p in used and not isinstance(p.ty, tirx.BufferType))
        new = [self.buffers[b] for b in outputs if b not in inputs]
        params = [*(self.buffers[b] for b in inputs), *scalars, *places.values(), *new]
        made_func = tirx.PrimFunc(params, s_tir.SBlockRealize([], True, block), func.ret_type, func.attrs)
        return Stage(made_func, inputs, scalars, outputs)

    def _size(self, dim: Dim, whole: Any) -> Any:
        """The local size of a dimension or loop."""
        (piece,) = dim
        if not any(f in self.splits for f in piece):
            return whole
        total = 1
        for f in piece:
            total *= self.splits[f].local_size(self.mesh) if f in self.splits else (self.kernel.sizes[f] or 1)
        return tirx.IntImm(whole.ty.dtype, total)

    def _mutated(self, stmt: Any, blocks: Mapping[Any, Any]) -> Any:
        """A statement over local buffers and loops, with `blocks` in the place of those that they were made from."""
        kernel = self.kernel

        def on_loop(loop: Any, mutator: Any) -> Any:
            body = mutator.mutate(loop.body)
            extent = self._size((kernel.loops[loop.loop_var],), loop.extent) if loop.loop_var in kernel.loops else loop.extent
            return tirx.For(loop.loop_var, loop.min, extent, loop.kind, body, loop.thread_binding, loop.annotations)

        def on_block(block: Any, mutator: Any) -> Any:
            made = next((m for b, m in blocks.items() if b.same_as(block)), None)
            if made is not None:
                return made
            return self._around(block, mutator.default_mutate(block)) if holds_blocks(block.body) else mutator.default_mutate(block)

        def on_iter(iter_var: Any, _: Any) -> Any:
            return self._iter(iter_var)

        def on_var(var: Any, _: Any) -> Any:
            return self.buffers.get(var, var)

        callbacks = [(tirx.For, on_loop), (s_tir.SBlock, on_block), (tirx.IterVar, on_iter), (tvm.ir.Var, on_var)]
        return tvm_ffi.structural_mutate(stmt, callbacks)

    def _around(self, block: Any, local: Any) -> Any:
        """A block of blocks: where it reads and writes all of a dimension, that is all of the local one."""

        def regions(whole: Any, made: Any) -> list[Any]:
            found: list[Any] = []
            for old, new in zip(whole, made, strict=True):
                spec = self.kernel.buffers[old.source]
                cut = [any(f in self.splits for f in piece) for (piece,) in spec]
                ranges = [
                    tvm.ir.Range(0, size) if is_cut else r for is_cut, r, size in zip(cut, new.region, new.source.ty.shape, strict=True)
                ]
                found.append(tirx.BufferRegion(new.source, ranges))
            return found

        reads, writes = regions(block.reads, local.reads), regions(block.writes, local.writes)
        fields = (local.name_hint, local.body, local.init, local.alloc_buffers, local.match_buffers, local.annotations)
        return s_tir.SBlock(local.iter_vars, reads, writes, *fields)

    def _iter(self, iter_var: Any) -> Any:
        factors = self.kernel.iters.get(iter_var.var)
        extent = iter_var.dom.extent if factors is None else self._size((factors,), iter_var.dom.extent)
        return tirx.IterVar(tvm.ir.Range.from_min_extent(iter_var.dom.min, extent), iter_var.var, iter_var.iter_type, iter_var.thread_tag)

    def _block(self, block: Block, places: Mapping[str, Any]) -> Any:
        """A block that asks `places` where its elements are, and leaves out of its reductions those that are padding."""
        source = block.realize.block
        stays = any(b in self.kernel.in_place for b in block.writes)
        asked = [(v.var, f) for f in places for v in source.iter_vars if f in self.kernel.iters[v.var]]
        found = [Place(self.kernel, var, f, places[f], self.splits[f].size) for var, f in asked]
        reduced = [v.var for v in source.iter_vars if v.iter_type == REDUCE]
        careful = [p for p in found if stays or block.cares(p.var) or p.var in reduced]
        guards = [p for p in careful if self.splits[p.factor].is_padded(self.mesh)]
        rewrite = Rewrite(self.kernel, self.buffers, found, tuple(places))
        valid = reduce(tirx.all, [p.valid() for p in guards]) if guards else None

        def guarded(stmt: Any) -> Any:
            return stmt if valid is None or stmt is None else tirx.IfThenElse(valid, stmt, None)

        init = None if source.init is None else rewrite(source.init)
        if block.stores is None or stays:
            body, init = guarded(rewrite(source.body)), guarded(init) if stays else init
        else:
            stores: list[Any] = []
            for store in block.stores:
                value = rewrite(store.update if store.kind is not None else store.value)
                if valid is not None:
                    other = rewrite(store.start) if store.kind is not None else _zero(value)
                    value = tirx.if_then_else(valid, value, other)
                target, indices = self.buffers[store.buffer], rewrite.indices(store.buffer, store.indices)
                if store.kind is not None:
                    value = _REDUCE[store.kind](tirx.BufferLoad(target, indices), value)
                stores.append(tirx.BufferStore(target, value, indices))
            body = stores[0] if len(stores) == 1 else tirx.SeqStmt(stores)
        iters = [self._iter(v) for v in source.iter_vars]
        reads, writes = self._regions(source, body, init, [v.var for v in source.iter_vars])
        own = [self.buffers[b] for b in source.alloc_buffers]
        return s_tir.SBlock(iters, reads, writes, source.name_hint, body, init, own, [], source.annotations)

    def _regions(self, source: Any, body: Any, init: Any, iters: list[Any]) -> tuple[list[Any], list[Any]]:
        """What a block reads and writes: single elements, or all of a dimension where the block itself loops."""
        reads: list[Any] = []
        writes: list[Any] = []

        def visit(node: Any, visitor: Any) -> None:
            if isinstance(node, tirx.BufferStore):
                writes.append(self._region(node.buffer, node.indices, iters))
            elif isinstance(node, tvm.ir.TensorLoad):
                reads.append(self._region(node.source, node.indices, iters))
            visitor.default_visit(node)

        tvm_ffi.structural_visit(body, [((tvm.ir.Expr, tirx.Stmt), visit)])
        own = [w.source for w in writes] if init is not None else []
        reads = [r for r in reads if not any(r.source.same_as(w) for w in own)]
        return _unequal(reads), _unequal(writes)

    @staticmethod
    def _region(buffer: Any, indices: Sequence[Any], iters: list[Any]) -> Any:
        ranges: list[Any] = []
        for index, size in zip(indices, buffer.ty.shape, strict=True):
            known = all(any(v.same_as(i) for i in iters) for v in variables(index))
            ranges.append(tvm.ir.Range.from_min_extent(index, tirx.IntImm(str(index.ty.dtype), 1)) if known else tvm.ir.Range(0, size))
        return tirx.BufferRegion(buffer, ranges)


_REDUCE = {"sum": lambda a, b: a + b, "prod": lambda a, b: a * b, "max": tirx.max, "min": tirx.min}


def _zero(value: Any) -> Any:
    return tirx.const(0, str(value.ty.dtype))


def _distinct(buffers: Any) -> tuple[Any, ...]:
    return tuple(dict.fromkeys(buffers))


def _unequal(regions: list[Any]) -> list[Any]:
    found: list[Any] = []
    for region in regions:
        if not any(region.source.same_as(o.source) and tvm_ffi.structural_equal(region.region, o.region) for o in found):
            found.append(region)
    return found
