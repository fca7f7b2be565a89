"""What writes in place is called for what it does: TVM moves, folds and drops what stands around it as if nothing wrote.

TVM calls `call_tir_inplace` pure. In one dataflow block, its kernel would be fused into one that writes new memory, and what reads memory
before it is written into what stands behind. A constant that is written would be another one at the next call. A write of which nothing is
read would be dropped, with the branch or the function that it stands in. So it becomes what TVM makes of it in the end, an impure call of
the kernel with the memory of its results, in a block of its own, and the functions around it are impure. A reshape of what is written stays
a view of memory, which TVM makes of it where nothing is fused with it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import groupby
from typing import Any

import tvm
import tvm_ffi
from tvm import relax, te, tirx

_IN_PLACE = ("relax.call_tir_inplace", "relax.call_inplace_packed")
_VIEWS = frozenset(f"relax.{name}" for name in ("reshape", "flatten", "expand_dims", "squeeze"))


@tvm.transform.module_pass(opt_level=0, name="spmd.SeparateWrites")
class SeparateWrites:
    """Each call that writes in place is an impure one, in a binding block of its own; the dataflow block around it is cut in two."""

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        """A new module; `mod` itself where nothing writes in place."""
        functions = {gv: f for gv, f in mod.functions_items() if isinstance(f, relax.Function)}
        writing = {gv.name_hint for gv, f in functions.items() if _writes(f)}
        if not writing:
            return mod
        calls = {gv.name_hint: _called(f) for gv, f in functions.items()}
        while callers := {name for name, called in calls.items() if called & writing} - writing:
            writing |= callers  # who calls what writes, writes
        named = {gv: _impure(gv.name_hint, f) for gv, f in functions.items() if gv.name_hint in writing}
        bb = relax.BlockBuilder(tvm.IRModule({named.get(gv, gv): f for gv, f in mod.functions_items()}, mod.attrs, mod.global_infos))
        for gv, made in named.items():
            func = tvm_ffi.structural_mutate(functions[gv], [(tvm.ir.GlobalVar, lambda v, _: named.get(v, v))])
            bb.update_func(made, _Separation(bb, func).run())
        return relax.transform.Normalize()(bb.get())


class _Separation:
    """The separation of one function."""

    def __init__(self, bb: relax.BlockBuilder, func: relax.Function) -> None:
        self.bb, self.func = bb, func
        self.made: dict[Any, Any] = {}
        bindings: list[Any] = []
        tvm_ffi.structural_walk(func.body, (relax.VarBinding, bindings.append))
        self.made.update((b.var, b.value) for b in bindings)
        self.views: dict[Any, Any] = {}
        self.owned: set[Any] = set()
        self._follow()

    def run(self) -> relax.Function:
        """The function with its blocks cut."""
        func = self.func
        body = tvm_ffi.structural_mutate(func.body, [(relax.SeqExpr, self._seq)])
        shared: dict[Any, Any] = {}

        def see(seq: relax.SeqExpr) -> None:
            for var in _crossing(seq):
                shared[var] = relax.Var(var.name, var.ty, var.span)

        tvm_ffi.structural_walk(body, (relax.SeqExpr, see))
        body = tvm_ffi.structural_mutate(body, [(relax.DataflowVar, lambda v, _: shared.get(v, v))])
        return relax.Function(func.params, body, func.ret_ty, False, func.attrs, func.span)

    def _follow(self) -> None:
        """Find the reshapes through which something is written, and what is written and would be folded to a constant."""
        waiting: list[Any] = []
        for value in filter(_is_write, self.made.values()):
            tvm_ffi.structural_walk(value, (tvm.ir.Var, waiting.append))
        seen: set[Any] = set()
        while waiting:
            var = waiting.pop()
            value: Any = self.made.get(var)
            if var in seen or value is None:
                continue
            seen.add(var)
            if isinstance(value, tvm.ir.Var):
                waiting.append(value)
            elif isinstance(value, relax.Call) and _name(value) in _VIEWS and isinstance(var.ty.shape, relax.ShapeExpr):
                self.views[var] = value.args[0]
                waiting.append(value.args[0])
            elif isinstance(var.ty, relax.TensorType) and self._is_folded(value):
                self.owned.add(var)

    def _is_folded(self, value: Any) -> bool:
        """Whether TVM may fold a value to a constant: nothing that an argument tells goes into it."""
        if isinstance(value, relax.Call) and (not isinstance(value.op, tvm.ir.Op) or _is_write(value)):
            return False
        used: list[Any] = []
        tvm_ffi.structural_walk(value, (tvm.ir.Var, used.append))
        return all(v in self.made and self._is_folded(self.made[v]) for v in used if not isinstance(v, tvm.ir.GlobalVar))

    def _seq(self, seq: relax.SeqExpr, mutator: Any) -> Any:
        seq = mutator.default_mutate(seq)
        blocks: list[Any] = []
        for block in seq.blocks:
            bindings = [pair for binding in block.bindings for pair in self._bindings(binding)]
            if isinstance(block, relax.DataflowBlock):
                parts = [(alone, [b for _, b in part]) for alone, part in groupby(bindings, key=lambda pair: pair[0])]
                blocks += [(relax.BindingBlock if alone else relax.DataflowBlock)(part) for alone, part in parts]
            else:
                blocks.append(relax.BindingBlock([b for _, b in bindings]))
        return relax.SeqExpr(blocks, seq.body, seq.span)

    def _bindings(self, binding: Any) -> Iterator[tuple[bool, Any]]:
        """A binding, or what stands in its place; with each, whether it must stand in no dataflow block."""
        var, ty, value = binding.var, binding.var.ty, binding.value
        if var in self.views:
            view = relax.op.memory.view(self.views[var], ty.shape, ty.dtype, relax.prim_value(tirx.IntImm("int64", 0)))
            yield False, self._bound(var, view)
        elif var in self.owned:
            folded = relax.Var(f"{var.name}_constant", ty)
            yield False, relax.VarBinding(folded, value, binding.span)
            yield from self._copied(var, folded)
        elif not _is_write(value):
            yield _is_impure(value), binding
        elif _name(value) == _IN_PLACE[1]:
            types = list(value.ty_args)
            gives = types if len(types) < 2 else [relax.TupleType(types)]
            yield True, self._bound(var, relax.Call(value.args[0], value.args[1:], value.attrs, gives))
        else:
            yield from self._called(binding)

    def _called(self, binding: Any) -> Iterator[tuple[bool, Any]]:
        """The call of a kernel with the memory of its results, which those are then."""
        var, call = binding.var, binding.value
        types = call.ty_args[0].fields if isinstance(call.ty_args[0], relax.TupleType) else call.ty_args
        args, results = list(call.args[1].fields), list[Any]()
        for i, ty in zip(call.attrs.inplace_indices, types, strict=True):
            at = int(i)
            if at >= 0 and not isinstance(args[at], tvm.ir.Var):  # a constant
                copy = relax.Var(f"{var.name}_copy", args[at].ty)
                yield from self._copied(copy, args[at])
                args[at] = copy
            elif at < 0:
                results.append(relax.Var(f"{var.name}_new", ty))
                yield True, self._bound(results[-1], _new(ty))
                continue
            results.append(args[at])
        args += [v for v, i in zip(results, call.attrs.inplace_indices, strict=True) if int(i) < 0]
        called = self.bb.normalize(relax.Call(call.args[0], args))
        yield True, relax.VarBinding(relax.Var(f"{var.name}_call", called.ty), called, binding.span)
        yield True, self._bound(var, relax.Tuple(results) if isinstance(var.ty, relax.TupleType) else results[0])

    def _copied(self, var: Any, given: Any) -> Iterator[tuple[bool, Any]]:
        """Memory of its own for what TVM takes for a constant."""
        yield True, self._bound(var, _new(given.ty))
        call = self.bb.normalize(relax.Call(self._copy(given.ty), [given, var]))
        yield True, relax.VarBinding(relax.Var(f"{var.name}_call", call.ty), call)

    def _copy(self, ty: Any) -> Any:
        given = te.placeholder([int(s) for s in ty.shape.values], str(ty.dtype), "given")
        func = te.create_prim_func([given, te.compute(given.shape, lambda *i: given[i], "copy")])
        return self.bb.add_func(func.without_attr("global_symbol"), "copy")

    def _bound(self, var: Any, value: Any) -> relax.VarBinding:
        return relax.VarBinding(var, self.bb.normalize(value))


def _new(ty: Any) -> relax.Call:
    """Memory for a tensor."""
    return relax.op.builtin.alloc_tensor(ty.shape, str(ty.dtype), 0)


def _impure(name: str, func: relax.Function) -> tvm.ir.GlobalVar:
    """A variable for a function that writes."""
    made = tvm.ir.GlobalVar(name)
    relax.expr._update_type(made, relax.FuncType([param.ty for param in func.params], func.ret_ty, False))  # pyright: ignore[reportPrivateUsage]
    return made


def _crossing(seq: relax.SeqExpr) -> list[Any]:
    """The dataflow variables that are bound outside of a dataflow block, or read in another one than that which binds them."""
    blocks = list(enumerate(seq.blocks))
    made: Mapping[Any, int] = {binding.var: i for i, block in blocks for binding in block.bindings}
    found: dict[Any, None] = {}
    for i, block in blocks:
        for binding in block.bindings:
            used: list[Any] = [] if isinstance(block, relax.DataflowBlock) else [binding.var]
            tvm_ffi.structural_walk(binding.value, (relax.DataflowVar, used.append))
            outside = [v for v in used if v.same_as(binding.var) or made.get(v, i) != i]
            found.update(dict.fromkeys(v for v in outside if isinstance(v, relax.DataflowVar)))
    return list(found)


def _writes(func: relax.Function) -> bool:
    found: list[Any] = []
    tvm_ffi.structural_walk(func.body, (relax.Call, lambda call: found.append(call) if _is_write(call) else None))
    return bool(found)


def _called(func: relax.Function) -> set[str]:
    """The names of what a function calls, or hands on."""
    found: list[Any] = []
    tvm_ffi.structural_walk(func.body, (tvm.ir.GlobalVar, found.append))
    return {gv.name_hint for gv in found}


def _is_impure(value: Any) -> bool:
    """Whether a value is a call that may not stand in a dataflow block: one that writes, or gives nothing, or calls what does."""
    if not isinstance(value, relax.Call):
        return False
    gives_nothing = isinstance(value.ty, relax.TupleType) and not value.ty.fields
    return gives_nothing or (isinstance(value.op, tvm.ir.Var) and isinstance(value.op.ty, relax.FuncType) and not value.op.ty.purity)


def _is_write(value: Any) -> bool:
    """Whether a value is a call that writes an argument in place."""
    return isinstance(value, relax.Call) and _name(value) in _IN_PLACE


def _name(call: Any) -> str:
    return str(call.op.name) if isinstance(call.op, tvm.ir.Op) else ""
