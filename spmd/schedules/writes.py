"""What writes in place stands alone: TVM moves and folds what stands around it, as if nothing wrote.

In one dataflow block, a kernel of `call_tir_inplace` would be fused into one that writes new memory, and what reads memory before it is
written into what stands behind. A constant that is written would be another one at the next call. A reshape of what is written stays a
view of memory, which TVM makes of it where nothing is fused with it. A write of which nothing is read would be dropped: it becomes a plain
call of what writes.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from itertools import groupby
from typing import Any

import tvm
import tvm_ffi
from tvm import relax, te, tirx

_LOG = logging.getLogger("spmd")
_IN_PLACE = ("relax.call_tir_inplace", "relax.call_inplace_packed")
_VIEWS = frozenset(f"relax.{name}" for name in ("reshape", "flatten", "expand_dims", "squeeze"))


@tvm.transform.module_pass(opt_level=0, name="spmd.SeparateWrites")
class SeparateWrites:
    """Each call that writes in place stands in a binding block of its own; the dataflow block around it is cut in two."""

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        """A new module; `mod` itself where nothing writes in place."""
        writing = {gv: f for gv, f in mod.functions_items() if isinstance(f, relax.Function) and _writes(f)}
        if not writing:
            return mod
        bb = relax.BlockBuilder(tvm.IRModule(dict(mod.functions_items()), attrs=mod.attrs, global_infos=mod.global_infos))
        for gv, func in writing.items():
            bb.update_func(gv, _Separation(bb, func).run())
        return relax.transform.Normalize()(bb.get())


class _Separation:
    """The separation of one function."""

    def __init__(self, bb: relax.BlockBuilder, func: relax.Function) -> None:
        self.bb, self.func = bb, func
        self.made: dict[Any, Any] = {}
        bindings: list[Any] = []
        tvm_ffi.structural_walk(func.body, (relax.VarBinding, bindings.append))
        self.made.update((b.var, b.value) for b in bindings)
        self.used = _used(func)
        self.bare = False
        """Whether something is called that only writes."""
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
        made = relax.Function(func.params, body, func.ret_ty, func.is_pure, func.attrs, func.span)
        return made.with_attr("relax.force_pure", True) if self.bare else made

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
            bindings = [made for binding in block.bindings for made in self._bindings(binding)]
            if isinstance(block, relax.DataflowBlock):
                parts = [(alone, list(part)) for alone, part in groupby(bindings, key=lambda b: _stands_alone(b.value))]
                blocks += [(relax.BindingBlock if alone else relax.DataflowBlock)(part) for alone, part in parts]
            else:
                blocks.append(relax.BindingBlock(bindings))
        return relax.SeqExpr(blocks, seq.body, seq.span)

    def _bindings(self, binding: Any) -> Iterator[Any]:
        """A binding, or what stands in its place."""
        var, ty = binding.var, binding.var.ty
        if var in self.views:
            view = relax.op.memory.view(self.views[var], ty.shape, ty.dtype, relax.prim_value(tirx.IntImm("int64", 0)))
            yield relax.VarBinding(var, self.bb.normalize(view), binding.span)
        elif var in self.owned:
            folded = relax.Var(f"{var.name}_constant", ty)
            both = relax.Var(f"{var.name}_copy", relax.TupleType([ty, ty]))
            copy = relax.op.call_tir_inplace(self._copy(ty), relax.Tuple([folded]), [0, -1], [ty, ty])
            yield relax.VarBinding(folded, binding.value, binding.span)
            yield relax.VarBinding(both, self.bb.normalize(copy))
            yield relax.VarBinding(var, self.bb.normalize(relax.TupleGetItem(both, 1)))
        elif var not in self.used and (call := _bare(binding.value)) is not None:
            self.bare = True
            call = self.bb.normalize(call)
            yield relax.VarBinding(relax.Var(var.name, call.ty), call, binding.span)
        else:
            if var not in self.used and _is_write(binding.value):
                _LOG.warning("%r writes in place, but nothing reads what it gives: TVM leaves it out; return what it gives", var.name)
            yield binding

    def _copy(self, ty: Any) -> Any:
        """A kernel that copies what it is given. It is called as if it wrote that: nothing else stays as it is."""
        given = te.placeholder([int(s) for s in ty.shape.values], str(ty.dtype), "given")
        func = te.create_prim_func([given, te.compute(given.shape, lambda *i: given[i], "copy")])
        return self.bb.add_func(func.without_attr("global_symbol"), "copy")


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


def _used(func: relax.Function) -> set[Any]:
    """The variables of a function that something reads."""
    found: set[Any] = set()

    def see(seq: relax.SeqExpr) -> None:
        tvm_ffi.structural_walk([seq.body, *(b.value for block in seq.blocks for b in block.bindings)], (tvm.ir.Var, found.add))

    tvm_ffi.structural_walk(func.body, (relax.SeqExpr, see))
    return found


def _bare(value: Any) -> relax.Call | None:
    """The call alone of what a call that writes in place writes by, where that is all that it needs: no memory of its own, no sizes."""
    if not _is_write(value) or any(int(i) < 0 for i in value.attrs.inplace_indices):
        return None
    if _name(value) == "relax.call_inplace_packed":
        return relax.Call(value.args[0], value.args[1:], ty_args=[relax.TupleType([])])
    return relax.Call(value.args[0], value.args[1].fields) if len(value.args) == 2 else None


def _stands_alone(value: Any) -> bool:
    """Whether a value is a call that writes: in place, or one that gives nothing."""
    return _is_write(value) or (isinstance(value, relax.Call) and isinstance(value.ty, relax.TupleType) and not value.ty.fields)


def _is_write(value: Any) -> bool:
    """Whether a value is a call that writes an argument in place."""
    return isinstance(value, relax.Call) and _name(value) in _IN_PLACE


def _name(call: Any) -> str:
    return str(call.op.name) if isinstance(call.op, tvm.ir.Op) else ""
