"""A residual and the RMSNorm that follows it, in one kernel: the sum is written once, and stays in registers until it is normalized."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import tvm
import tvm_ffi
from tvm import relax, s_tir, te, tirx
from tvm.target import Target

_ADD, _NORM, _CAST = (tvm.ir.Op.get(f"relax.{name}") for name in ("add", "nn.rms_norm", "astype"))
_LANES = (4, 2, 1)
"""The elements that a thread takes at a time, in float32 at most: TVM writes no CUDA that compiles for a float32 repeated eight times."""
_MOST_VECTORS = 32
"""Of a row, that a thread keeps in its registers."""
_TYPES = ("float32", "float16", "bfloat16")
"""What is normalized in float32."""
_OPAQUE = 8
"""The pattern of a kernel with which TVM fuses nothing."""


@tvm.transform.module_pass(opt_level=0, name="spmd.FuseAddNorm")
class FuseAddNorm:
    """`rms_norm(a + b, w)` over the last dimension becomes one kernel that gives the norm and the sum, scheduled for the current target.

    A cast of a or b that nothing else reads goes into the kernel, too. What is left as it is: sums that broadcast, rows whose size is
    not known or too large for the registers of a block of threads.
    """

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        """A new module; `mod` stays as it is."""
        bb = relax.BlockBuilder(tvm.IRModule(dict(mod.functions_items()), attrs=mod.attrs, global_infos=mod.global_infos))
        most = int(Target.current(allow_none=False).attrs.get("max_num_threads", 256))
        kernels: dict[tvm.ir.GlobalVar, tuple[int, int]] = {}
        for gv, func in mod.functions_items():
            if isinstance(func, relax.Function):
                body = tvm_ffi.structural_mutate(func.body, [(relax.DataflowBlock, _Fusion(bb, func, most, kernels).block)])
                if not body.same_as(func.body):
                    bb.update_func(gv, relax.Function(func.params, body, func.ret_ty, func.is_pure, func.attrs, func.span))
        for gv, split in kernels.items():
            kernel = _scheduled(bb.get()[gv], *split)
            bb.update_func(gv, kernel.with_attrs({"tirx.is_scheduled": True, "op_pattern": _OPAQUE}))
        return bb.finalize()


@dataclass(frozen=True)
class _Pair:
    """A sum and the norm of it."""

    total: Any
    norm: Any
    terms: tuple[Any, Any]
    """What is added, as it is before a cast."""
    weight: Any
    epsilon: float
    split: tuple[int, int]
    """How many threads share a row, and how many elements each takes at a time."""


class _Fusion:
    """The fusion in one function, for blocks of at most so many threads; it tells how each kernel is to be split."""

    def __init__(
        self, bb: relax.BlockBuilder, func: relax.Function, most_threads: int, kernels: dict[tvm.ir.GlobalVar, tuple[int, int]]
    ) -> None:
        self.bb, self.params, self.most_threads, self.kernels = bb, set(func.params), most_threads, kernels
        self.uses: Counter[Any] = Counter()
        tvm_ffi.structural_walk(func.body, (relax.SeqExpr, self._count))

    def _count(self, seq: relax.SeqExpr) -> None:
        values = [binding.value for block in seq.blocks for binding in block.bindings]
        tvm_ffi.structural_walk([seq.body, *values], (tvm.ir.Var, lambda var: self.uses.update([var])))

    def block(self, found: relax.DataflowBlock, _: Any) -> relax.DataflowBlock:
        """A block with pairs in the places of their sums."""
        made = {binding.var: binding.value for binding in found.bindings}
        pairs = self._pairs(made)
        if not pairs:
            return found
        gone: set[Any] = {pair.norm for pair in pairs.values()}
        for pair in pairs.values():
            gone.update(term for term in made[pair.total].args if term not in pair.terms)
        bindings: list[Any] = []
        for binding in found.bindings:
            if binding.var in pairs:
                bindings += self._bindings(pairs[binding.var])
            elif binding.var not in gone:
                bindings.append(binding)
        return relax.DataflowBlock(bindings, found.span)

    def _pairs(self, made: dict[Any, Any]) -> dict[Any, _Pair]:
        """{sum: its pair}, where the weight of the norm is there before the sum."""
        place = {var: i for i, var in enumerate(made)}
        found: dict[Any, _Pair] = {}
        for norm, value in made.items():
            if not _is_norm(value):
                continue
            total, weight = value.args
            is_sum = total not in found and _is_sum(made.get(total), total)
            if not is_sum or str(total.ty.dtype) not in _TYPES or str(weight.ty.dtype) != str(total.ty.dtype):
                continue
            if weight not in self.params and place.get(weight, len(place)) > place[total]:
                continue
            split = _split(int(total.ty.shape[-1]), self.most_threads)
            if split is not None:
                one, other = (self._before_cast(term, made.get(term)) for term in made[total].args)
                found[total] = _Pair(total, norm, (one, other), weight, float(value.attrs.epsilon), split)
        return found

    def _before_cast(self, term: Any, value: Any) -> Any:
        """What a term is cast from, where nothing else reads the cast."""
        is_cast = isinstance(value, relax.Call) and value.op == _CAST and isinstance(value.args[0], tvm.ir.Var)
        return value.args[0] if is_cast and self.uses[term] == 1 else term

    def _bindings(self, pair: _Pair) -> list[relax.VarBinding]:
        """The call of a pair's kernel, and its results under the names of the norm and the sum."""
        given = [*pair.terms, pair.weight]
        dtype = str(pair.total.ty.dtype)
        call = self.bb.normalize(
            self.bb.call_te(lambda *tensors: _computed(pair, dtype, *tensors), *given, primfunc_name_hint="add_rms_norm")
        )
        self.kernels[call.args[0]] = pair.split
        both = relax.DataflowVar(f"{pair.total.name}_{pair.norm.name}", call.ty)
        fields = [(var, self.bb.normalize(relax.TupleGetItem(both, i))) for i, var in enumerate((pair.norm, pair.total))]
        return [relax.VarBinding(var, value) for var, value in [(both, call), *fields]]


def _is_norm(value: Any) -> bool:
    """Whether a value is an RMSNorm over the last dimension, of a variable, by a variable."""
    if not (isinstance(value, relax.Call) and value.op == _NORM and all(isinstance(arg, tvm.ir.Var) for arg in value.args)):
        return False
    shape = value.args[0].ty.shape
    return isinstance(shape, relax.ShapeExpr) and [int(axis) % len(shape) for axis in value.attrs.axes] == [len(shape) - 1]


def _is_sum(value: Any, total: Any) -> bool:
    """Whether a value is a sum of two variables of its own shape, with rows of a known size."""
    if not (isinstance(value, relax.Call) and value.op == _ADD and isinstance(total.ty.shape[-1], tirx.IntImm)):
        return False
    terms = [term for term in value.args if isinstance(term, tvm.ir.Var) and isinstance(term.ty.shape, relax.ShapeExpr)]
    return len(terms) == 2 and all(tvm_ffi.structural_equal(term.ty.shape, total.ty.shape) for term in terms)


def _split(size: int, most_threads: int) -> tuple[int, int] | None:
    """(threads, lanes) for rows of this size, all threads with equally many vectors; None where a thread would have too many."""
    lanes = next(n for n in _LANES if size % n == 0)
    vectors = size // lanes
    threads = next(n for n in range(min(vectors, most_threads), 0, -1) if vectors % n == 0)
    return (threads, lanes) if vectors <= _MOST_VECTORS * threads else None


def _computed(pair: _Pair, dtype: str, one: te.Tensor, other: te.Tensor, weight: te.Tensor) -> tuple[te.Tensor, te.Tensor]:
    """The norm, in float32 as TVM's own, and the sum."""
    *rows, size = one.shape
    inner = te.reduce_axis((0, size), "k")
    total = te.compute(one.shape, lambda *i: one[i].astype(dtype) + other[i].astype(dtype), "total")
    squares = te.compute(rows, lambda *i: te.sum(_wide(total[(*i, inner)]) * _wide(total[(*i, inner)]), axis=inner), "squares")
    mean, epsilon = tirx.const(1 / int(size), "float32"), tirx.const(pair.epsilon, "float32")

    def results(*i: tirx.Var) -> tuple[tirx.Expr, tirx.Expr]:
        scale = tirx.rsqrt(squares[i[:-1]] * mean + epsilon)
        return (scale * _wide(total[i]) * _wide(weight[i[-1]])).astype(dtype), total[i]

    norm, copy = te.compute(one.shape, results, "norm")
    return norm, copy


def _wide(value: tirx.Expr) -> tirx.Expr:
    return value.astype("float32")


def _scheduled(func: tirx.PrimFunc, threads: int, lanes: int) -> tirx.PrimFunc:
    """A block of threads for each row."""
    sch = s_tir.Schedule(func)
    total, squares, norm, _ = sch.get_child_blocks(sch.get_sblock("root"))
    *rows, _ = sch.get_loops(norm)
    row = sch.fuse(*rows)
    sch.bind(row, "blockIdx.x")
    for block, scope in ((squares, "shared"), (total, "local")):
        sch.compute_at(block, row, preserve_unit_loops=True)
        sch.set_scope(block, 0, scope)
    for block in (total, squares, norm):
        _, thread, lane = sch.split(sch.get_loops(block)[-1], [None, threads, lanes])
        sch.bind(thread, "threadIdx.x")
        if block is not squares:
            sch.vectorize(lane)
    return sch.mod["main"]
