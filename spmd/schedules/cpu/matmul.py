"""Matrix products with several rows on both sides: register tiles, blocked for the second-level cache."""

from __future__ import annotations

from contextlib import suppress

import tvm
from tvm import s_tir, tirx
from tvm.s_tir import Schedule, ScheduleError
from tvm.s_tir.schedule import LoopRV, SBlockRV
from tvm.target import Target

from .analysis import (
    CPURule,
    LoopNest,
    constant,
    contiguous_variable,
    covers,
    divisor,
    inline_cheap,
    inline_epilogues,
    is_unit,
    loops_of,
    names,
    variables,
)
from .product import MatrixProduct, is_move, recognize

BLOCK_BYTES = 512 * 1024  # of the right operand, kept in the second-level cache while all rows pass by
PACK_ROWS = 16  # from so many rows on, copying a strip of W out of its pages costs less than missing the TLB


class Matmul(CPURule):
    """`x @ W^T` by tiles of dot products along k, `x @ W` by tiles of outer products along n; any number of rows."""

    def __init__(self, parallel: bool = False, few: bool = False) -> None:
        super().__init__(parallel)
        self.few = few
        """Whether a symbolic number of rows is small."""

    def apply(self, func: tirx.PrimFunc, target: Target, tunable: bool) -> Schedule | None:
        """The schedule of `func` for CPU `target`, or None."""
        self.lanes = vector_bits(target) // 32
        return super().apply(func, target, tunable)

    def schedule(self, nest: LoopNest) -> bool:
        """Declines anything but one product with cheap steps before it and elementwise ones after it."""
        sch = nest.sch
        if len(nest.reductions) != 1:
            return False
        main = nest.reductions[0].block_rv
        if recognize(sch.get(main)) is None:
            return False
        keep = [name for name in names(sch, sch.get_producers(main)) if not is_move(sch.get(sch.get_sblock(name)))]
        inline_cheap(nest, keep)
        inline_epilogues(nest)
        product = recognize(sch.get(main))
        after = [b for b in nest.blocks if nest.reductions[0].name in names(sch, sch.get_producers(b.block_rv))]
        before = list(sch.get_producers(main))
        if product is None or len(after) > 1 or len(nest.blocks) != 1 + len(after) + len(before):
            return False
        self._tile(sch, main, product, before, after[0].block_rv if after else None)
        return True

    def _tile(self, sch: Schedule, main: SBlockRV, product: MatrixProduct, before: list[SBlockRV], epilogue: SBlockRV | None) -> None:
        if self._has_many_rows(sch, main, product):
            self._turn(sch, main, product)
        else:
            self._lay_out(sch, main, product)
        product = recognize(sch.get(main)) or product
        rows, columns = self._tile_sizes(sch.get(main), product)
        padded = self._pad(sch, main, product, rows, columns)
        if padded:
            if epilogue is not None:
                sch.compute_inline(sch.get_consumers(main)[0])
            for producer in before:
                if sch.get(main).name_hint not in names(sch, sch.get_consumers(producer)):
                    sch.compute_inline(producer)  # into the block that pads its result
        product = recognize(sch.get(main)) or product
        m, n = loops_of(sch, main, [product.m, product.n])
        k, outer, inner = (loops_of(sch, main, v) for v in (product.k, product.outer, product.inner))
        m_tile, m_in = sch.split(m, [None, rows])
        n_block, n_tile, n_in = sch.split(n, [None, self._tiles_in_block(sch, n, k, product, columns), columns])
        sch.reorder(*outer, n_block, *inner, m_tile, n_tile, *k, m_in, n_in)
        self._bring_near(sch, main, product, n_block)
        depth = len(outer) + len(inner) + 3
        written = self._write_out(sch, main, None if padded else epilogue, n_tile)
        self.parallelize(sch, *outer, n_block)  # before the first sum is parted from the others, behind which TVM sees no product
        # The tile becomes registers only if every loop over it is unrolled or vectorized.
        leaving = [loop for loop in sch.get_loops(written)[depth:] if not is_unit(sch.get(loop).extent)]
        for tile in ([m_in, n_in], leaving):
            if tile and not product.transposed and not is_unit(sch.get(tile[-1]).extent):
                tile.append(self._vectors(sch, tile.pop(), columns))
            for loop in tile:
                sch.unroll(loop)
        start = sch.get_loops(sch.decompose_reduction(main, k[0]))[depth:]
        if not product.transposed:
            sch.vectorize(start.pop())
        for loop in start:
            sch.unroll(loop)

    def _tile_sizes(self, block: s_tir.SBlock, product: MatrixProduct) -> tuple[int, int]:
        """Rows and columns of a register tile; the accumulators are half of the registers or fewer."""
        extents = {it.var: it.dom.extent for it in block.iter_vars}
        m, n = constant(extents[product.m]), constant(extents[product.n])
        rows = self._rows(m, product)
        wide = 4 if product.transposed else 2 * self.lanes  # a tile above 1 KiB would not be put on the stack
        if n is None:
            return rows, 4 if product.transposed else self.lanes
        columns = divisor(n, wide)
        if columns >= min(n, wide // 4, 8):
            return rows, columns
        return rows, min(wide, 1 << (n - 1).bit_length())  # an awkward size: pad it

    def _rows(self, m: int | None, product: MatrixProduct) -> int:
        if product.transposed or self.few or (m is not None and m < PACK_ROWS):
            few = 4 if self.lanes >= 8 else 2
            return few if m is None or m > 2 * few else max(divisor(m, few), min(few, 2))
        many = 8 if self.lanes >= 16 else 6
        return many if m is None or divisor(m, many) < many - 1 else divisor(m, many)

    def _pad(self, sch: Schedule, main: SBlockRV, product: MatrixProduct, rows: int, columns: int) -> bool:
        """Fill rows (and columns, if symbolic) up to whole tiles, with zeros in copies; False if none were needed."""
        block = sch.get(main)
        padding = []
        for it in block.iter_vars:
            tile = rows if it.var.same_as(product.m) else columns if it.var.same_as(product.n) else 1
            size = constant(it.dom.extent)
            padding.append(tile if size is None or size % tile else 1)
        if all(p == 1 for p in padding):
            return False
        sch.pad_einsum(main, padding)
        return True

    def _lay_out(self, sch: Schedule, main: SBlockRV, product: MatrixProduct) -> None:
        """Keep a decoded right operand with k innermost, if that is how its source lies in memory."""
        source = sch.get(main).reads[product.right].source
        for producer in sch.get_producers(main):
            block = sch.get(producer)
            walked = contiguous_variable(block)
            if not block.writes[0].source.same_as(source) or product.transposed or walked is None or len(source.shape) < 2:
                continue
            if walked in variables(block.writes[0].region[-2].min):
                sch.transform_layout(producer, ("write", 0), _swap_last)

    def _has_many_rows(self, sch: Schedule, main: SBlockRV, product: MatrixProduct) -> bool:
        rows = next(constant(it.dom.extent) for it in sch.get(main).iter_vars if it.var.same_as(product.m))
        return not self.few if rows is None else rows >= PACK_ROWS

    def _turn(self, sch: Schedule, main: SBlockRV, product: MatrixProduct) -> None:
        """Copy a right operand that has k innermost, or decode it, to where n is innermost."""
        if not product.transposed:
            return
        source = sch.get(main).reads[product.right].source
        makers = [p for p in sch.get_producers(main) if sch.get(p).writes[0].source.same_as(source)]
        sch.transform_layout(makers[0] if makers else sch.cache_read(main, product.right, "global"), ("write", 0), _swap_last)

    def _vectors(self, sch: Schedule, loop: LoopRV, columns: int) -> LoopRV:
        """The loop over the vectors that the columns of a tile make, their lanes vectorized."""
        vectors, lane = sch.split(loop, [None, divisor(columns, self.lanes)])
        sch.vectorize(lane)
        return vectors

    def _tiles_in_block(self, sch: Schedule, n: LoopRV, k: list[LoopRV], product: MatrixProduct, columns: int) -> int:
        if not product.transposed:
            return 1
        depth = 1
        for loop in k:
            depth *= constant(sch.get(loop).extent) or 1024
        fit = max(1, min(64, BLOCK_BYTES // (depth * product.bytes)) // columns)
        size = constant(sch.get(n).extent)
        return divisor(size // columns, fit) if size is not None else fit

    def _bring_near(self, sch: Schedule, main: SBlockRV, product: MatrixProduct, at: LoopRV) -> None:
        """Decode the right operand a block at a time; copy it together if it lies in many pages."""
        block = sch.get(main)
        source = block.reads[product.right].source
        decoded = False
        for producer in sch.get_producers(main):
            if sch.get(producer).writes[0].source.same_as(source):
                sch.compute_at(producer, at, preserve_unit_loops=True)
                step = sch.get(producer)
                walked = contiguous_variable(step)
                if len(step.iter_vars) > 1 and walked is not None and walked.same_as(step.iter_vars[-2].var):
                    sch.reorder(*reversed(sch.get_loops(producer)[-2:]))
                decoded = True
        if not decoded and not product.transposed and self._has_many_rows(sch, main, product):
            sch.compute_at(sch.cache_read(main, product.right, "global"), at)

    def _write_out(self, sch: Schedule, main: SBlockRV, epilogue: SBlockRV | None, at: LoopRV) -> SBlockRV:
        """Accumulate a tile in registers, write it once; the block that writes."""
        follows = epilogue is not None and covers(sch.get(epilogue), sch.get(main))
        written = sch.cache_write(main, 0, "global")
        sch.reverse_compute_at(written, at, preserve_unit_loops=True)
        if follows:
            with suppress(ScheduleError):  # not elementwise in the product: it runs on its own afterwards
                sch.reverse_compute_at(epilogue, at)
        return written


def _swap_last(*index: tirx.Var) -> list[tirx.Var]:
    return [*index[:-2], index[-1], index[-2]]


def vector_bits(target: Target) -> int:
    """The width of the target's vector registers. TVM 0.27 says 512 for every x86."""
    has = tvm.get_global_func("target.target_has_feature", allow_missing=True)
    if has is None or target.kind.name != "llvm":
        return 128
    widths = {"avx512f": 512, "avx": 256}
    return next((bits for feature, bits in widths.items() if has(feature, target)), 128)
