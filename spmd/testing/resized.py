"""Kernels for the sizes of shards, as their text alone has it: their rules are not asked, so that what these leave out can be found."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import tvm
import tvm_ffi
from tvm import relax, s_tir, tirx

KERNELS = ("relax.call_tir", "relax.call_tir_inplace")
Shape = Sequence[int]


class Untried(Exception):
    """Why a call cannot be tried on shards."""


class Unfit(Exception):
    """The shards do not fit together."""


class Sizes:
    """What sizes become on a shard: each number, or symbol, the same everywhere."""

    def __init__(self) -> None:
        self.numbers: dict[int, int] = {}
        self.symbols: dict[Any, int] = {}
        self.others: set[Any] = set()
        """The symbols that stand for another number than for the whole."""

    def learn(self, named: Sequence[Any], whole: Shape, local: Shape) -> None:
        """Note what the dimensions of a tensor, as they are named, become. Raises `Unfit` where one symbol, and `Untried` where one
        number becomes two.
        """
        for size, before, made in zip(named, whole, local, strict=True):
            if isinstance(size, tvm.ir.Var):
                if self.symbols.setdefault(size, made) != made:
                    raise Unfit
                if made != before:
                    self.others.add(size)
            elif not isinstance(size, int | tirx.IntImm):
                raise Untried(f"its size {size} is an expression")
            elif self.numbers.setdefault(int(size), made) != made:
                raise Untried(f"two dimensions of size {int(size)} are split in two ways, and it does not tell them apart")

    def is_other(self, size: Any) -> bool:
        """Whether a size is another on a shard."""
        return size in self.others if isinstance(size, tvm.ir.Var) else self.numbers.get(int(size), int(size)) != int(size)

    def local(self, whole: Sequence[Any]) -> list[int]:
        """A shape on a shard."""
        made = [self.symbols.get(s) if isinstance(s, tvm.ir.Var) else self.numbers.get(int(s), int(s)) for s in whole]
        if None in made:
            raise Untried("nothing that it takes tells the sizes of its result")
        return [s for s in made if s is not None]


def kernel_call(builder: relax.BlockBuilder, name: str, call: Any, args: Sequence[Any], mod: tvm.IRModule) -> Any:
    """The call of a kernel on shards, `args`, that is made for their sizes and put into the module."""
    kernel, operands = mod[call.args[0]], list(args[1].fields)
    in_place = [int(i) for i in call.attrs.inplace_indices] if call.op.name == KERNELS[1] else []
    shards = [(_shape(w), _shape(a)) for w, a in zip(call.args[1].fields, operands, strict=True) if isinstance(a.ty, relax.TensorType)]
    func, sizes = resized(kernel, shards)
    scalars = iter(p for p in kernel.params if not isinstance(p.ty, tirx.BufferType))
    for i, operand in enumerate(operands):
        if not isinstance(operand.ty, relax.TensorType) and (variable := next(scalars)) in sizes.symbols:
            operands[i] = relax.prim_value(tirx.IntImm(str(variable.ty.dtype), sizes.symbols[variable]))
    function = builder.add_func(func.without_attr("global_symbol"), f"{name}_kernel")
    tensors = [p for p in func.params if isinstance(p.ty, tirx.BufferType)]
    new = iter(tensors[len(shards) :])
    results = [operands[i].ty if i >= 0 else _type(next(new)) for i in in_place] if in_place else [_type(b) for b in new]
    types = results[0] if len(results) == 1 else results
    if in_place:
        return relax.op.call_tir_inplace(function, relax.Tuple(operands), in_place, types)
    return relax.op.call_tir(function, relax.Tuple(operands), types)


def packed_call(call: Any, args: Sequence[Any]) -> Any:
    """The call of a packed function on shards, `args`, whose result has sizes like theirs."""
    sizes = Sizes()

    def learn(whole: Any, local: Any) -> None:
        if isinstance(whole, relax.Tuple):
            for one, other in zip(whole.fields, local.fields, strict=True):
                learn(one, other)
        elif isinstance(whole, tvm.ir.Expr) and isinstance(whole.ty, relax.TensorType):
            sizes.learn(_shape(whole), _shape(whole), _shape(local))

    def local(ty: Any) -> Any:
        if isinstance(ty, relax.TupleType):
            return relax.TupleType([local(f) for f in ty.fields])
        return relax.TensorType(sizes.local(list(ty.shape.values)), str(ty.dtype)) if isinstance(ty, relax.TensorType) else ty

    for whole, shard in zip(call.args, args, strict=True):
        learn(whole, shard)
    return tvm.ir.Call(call.op, list(args), call.attrs, [local(ty) for ty in call.ty_args])


def _shape(tensor: Any) -> list[int]:
    return [int(n) for n in tensor.ty.shape.values]


def _type(buffer: Any) -> Any:
    return relax.TensorType([int(n) for n in buffer.ty.shape], str(buffer.ty.dtype.dtype))


def resized(func: tirx.PrimFunc, given: Sequence[tuple[Shape, Shape]]) -> tuple[tirx.PrimFunc, Sizes]:
    """The kernel whose first buffers have these shapes, each the whole and the local one: the ranges of its loops are others too.

    Raises `Unfit` where they do not fit, `Untried` where it cannot be done, or where it might reach beyond a dimension.
    """
    sizes, tensors = Sizes(), [p for p in func.params if isinstance(p.ty, tirx.BufferType)]
    for tensor, (whole, local) in zip(tensors, given, strict=False):
        sizes.learn(list(tensor.ty.shape), whole, local)
    buffers = {b: _buffer(b, sizes) for b in _buffers(func)}

    def extent(whole: Any) -> Any:
        number = sizes.numbers.get(int(whole), int(whole)) if isinstance(whole, tirx.IntImm) else sizes.symbols.get(whole)
        return whole if number is None else tirx.IntImm(str(whole.ty.dtype), number)

    def on_range(one: Any, mutator: Any) -> Any:
        return tvm.ir.Range.from_min_extent(mutator.mutate(one.min), mutator.mutate(extent(one.extent)))

    def on_loop(loop: Any, mutator: Any) -> Any:
        body, size = mutator.mutate(loop.body), mutator.mutate(extent(loop.extent))
        return tirx.For(loop.loop_var, loop.min, size, loop.kind, body, loop.thread_binding, loop.annotations)

    def on_var(var: Any, _: Any) -> Any:
        if var in sizes.symbols:
            return tirx.IntImm(str(var.ty.dtype), sizes.symbols[var])
        return buffers.get(var, var)

    body = tvm_ffi.structural_mutate(func.body, [(tvm.ir.Range, on_range), (tirx.For, on_loop), (tvm.ir.Var, on_var)])
    _check_bounds(body, {new: list(map(sizes.is_other, old.ty.shape)) for old, new in buffers.items()})
    return tirx.PrimFunc([buffers.get(p, p) for p in func.params], body, func.ret_type, func.attrs), sizes


def _buffers(func: tirx.PrimFunc) -> list[Any]:
    """Parameters, and what is allocated inside."""
    found = [p for p in func.params if isinstance(p.ty, tirx.BufferType)]
    tvm_ffi.structural_walk(func.body, ((s_tir.SBlock,), lambda block: found.extend(block.alloc_buffers)))
    return found


def _buffer(buffer: Any, sizes: Sizes) -> Any:
    kind = buffer.ty
    shape = [
        tirx.IntImm("int64" if isinstance(s, int) else str(s.ty.dtype), n) for s, n in zip(kind.shape, sizes.local(kind.shape), strict=True)
    ]
    layout = None if kind.layout is None else "default"
    return tirx.decl_buffer(shape, str(kind.dtype.dtype), buffer.name, scope=kind.storage_scope, layout=layout)


def _check_bounds(body: Any, others: Mapping[Any, Sequence[bool]]) -> None:
    """Raise `Untried` where an index may be out of range, in one of these dimensions, or what a block variable is bound to."""
    analyzer = tvm.sym.Analyzer()
    beyond: list[str] = []

    def plain(index: Any) -> str:
        return re.sub(r"T\.int64\((\d+)\)", r"\1", str(index))

    def within(index: Any, size: Any, what: str) -> None:
        bound = analyzer.const_int_bound(index)
        if bound.min_value < 0 or bound.max_value >= int(size):
            beyond.append(f"{what} {plain(index)} is not known to stay below {int(size)} on a shard")

    def see(node: Any, visitor: Any) -> None:
        if isinstance(node, tirx.For):
            analyzer.bind(node.loop_var, tvm.ir.Range.from_min_extent(node.min, node.extent))
        elif isinstance(node, s_tir.SBlockRealize):
            for variable, value in zip(node.block.iter_vars, node.iter_values, strict=True):
                within(value, variable.dom.extent, "the block variable")
                analyzer.bind(variable.var, variable.dom)
        elif isinstance(node, tirx.BufferStore | tvm.ir.TensorLoad):
            buffer = node.buffer if isinstance(node, tirx.BufferStore) else node.source
            for index, size, other in zip(node.indices, buffer.ty.shape, others.get(buffer, ()), strict=False):
                if other:
                    within(index, size, f"the index of {buffer.name!r}")
        visitor.default_visit(node)

    tvm_ffi.structural_visit(body, [((tvm.ir.Expr, tirx.Stmt), see)])
    if beyond:
        raise Untried(beyond[0])
