"""Fuse what makes a matmul's right operand (transpose, cast, dequantize) into the matmul, before FuseOps; for `take`, too.

FuseOps fuses what follows a matmul, never what precedes it: a transposed weight would be copied at every call, a
packed embedding decoded whole for one token.
"""

from __future__ import annotations

from typing import Any

import tvm
import tvm_ffi
from tvm import relax, s_tir, tirx
from tvm.ir import GlobalVar, TensorLoad
from tvm.relax.expr_functor import PyExprMutator, PyExprVisitor, mutator, visitor
from tvm.s_tir import Schedule

from .cpu.analysis import is_costly, is_reduction_block
from .cpu.product import is_move, right_read
from .optional import FuseGroups

INJECTIVE = 2  # op_pattern up to which each output reads single elements of its inputs
NAME = "fused_weight"
_CALL_TIR = tvm.ir.Op.get("relax.call_tir")


@tvm.transform.module_pass(opt_level=0, name="spmd.FuseProducers")
class FuseProducers:
    """Group `call_tir`s of injective functions with the matmul that alone reads their result as its right operand.

    Runs after LegalizeOps and AnnotateTIROpPattern; what follows the matmul can still be fused by FuseOps.
    """

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        """A new module with the groups as single PrimFuncs."""
        rewriter = _Grouper(mod)
        for name, func in mod.functions_items():
            if isinstance(func, relax.Function) and not (func.attrs and func.attrs.get("Primitive", 0)):
                rewriter.rewrite(name, func)
        if not rewriter.groups:
            return mod
        fuse: Any = FuseGroups()
        fused = fuse(rewriter.builder_.get())
        functions = {}
        for name, func in fused.functions_items():
            pattern = rewriter.groups.get(name.name_hint)
            functions[name] = func if pattern is None else _merge_moves(func).with_attr("op_pattern", pattern)
        return tvm.IRModule(functions, attrs=fused.attrs, global_infos=fused.global_infos)


@visitor
class _Uses(PyExprVisitor):
    """Which variables are made by producers and only ever end in the right operand of a matmul of the same binding block.

    Between blocks stands what writes in place: a producer that moved behind it would read what is written.
    """

    def __init__(self, mod: tvm.IRModule):
        super().__init__()
        self.mod = mod
        self.bound: dict[relax.Var, relax.Call] = {}
        self._here: set[relax.Var] = set()
        self._users: dict[relax.Var, list[relax.Call]] = {}
        self._elsewhere: set[relax.Var] = set()
        self._rights: dict[GlobalVar, int | None] = {}
        self._cheap: dict[GlobalVar, bool] = {}
        self._owner: dict[relax.Call, relax.Var] = {}

    def visit_binding_block_(self, block: relax.BindingBlock) -> None:
        """What other blocks bind is not bound here."""
        self._here = set()
        super().visit_binding_block_(block)

    def visit_dataflow_block_(self, block: relax.DataflowBlock) -> None:
        """What other blocks bind is not bound here."""
        self._here = set()
        super().visit_dataflow_block_(block)

    def visit_var_binding_(self, binding: relax.VarBinding) -> None:
        """Note who reads what; anything but a producer's input or a right operand counts as elsewhere."""
        call = binding.value
        if not _is_plain_call_tir(call):
            self.visit_expr(call)
            return
        self.bound[binding.var] = call
        self._here.add(binding.var)
        self._owner[call] = binding.var
        right = self.right_operand(call)
        for i, arg in enumerate(call.args[1].fields):
            if arg in self._here and (i == right or self.is_producer(call)):
                self._users.setdefault(arg, []).append(call)
            else:
                self.visit_expr(arg)

    def visit_var_(self, op: relax.Var) -> None:
        """A use in a place that needs the value itself."""
        self._elsewhere.add(op)

    def visit_dataflow_var_(self, op: relax.DataflowVar) -> None:
        """A use in a place that needs the value itself."""
        self._elsewhere.add(op)

    def right_operand(self, call: relax.Call) -> int | None:
        """Which argument is the right operand of a matmul; None for any other call."""
        name = call.args[0]
        if name not in self._rights:
            self._rights[name] = _right_operand(self.mod[name])
        return self._rights[name] if self._rights[name] is not None and _tells_sizes(call) else None

    def is_producer(self, call: relax.Call) -> bool:
        """Whether the called function is cheap enough to be evaluated by the matmul itself."""
        name = call.args[0]
        if name not in self._cheap:
            self._cheap[name] = _is_cheap_injective(self.mod[name])
        return self._cheap[name]

    def absorbed(self, var: relax.Expr) -> bool:
        """Whether the matmuls that read `var` can make it themselves."""
        if var not in self.bound or var in self._elsewhere or not self.is_producer(self.bound[var]):
            return False
        users = self._users.get(var, [])
        return bool(users) and all(self.right_operand(user) is not None or self.absorbed(self._owner[user]) for user in users)


@mutator
class _Grouper(PyExprMutator):
    """Drops absorbed producers, and calls a function that holds them and their matmul."""

    def __init__(self, mod: tvm.IRModule):
        super().__init__(mod)
        self.mod = mod
        self.groups: dict[str, int] = {}  # name of each group -> op_pattern of its reader
        self.uses = _Uses(mod)

    def rewrite(self, name: GlobalVar, func: relax.Function) -> None:
        """Group within one Relax function, if there is anything to group."""
        self.uses = _Uses(self.mod)
        self.uses.visit_expr(func)
        if any(self.uses.absorbed(var) for var in self.uses.bound):
            self.builder_.update_func(name, self.visit_expr(func))

    def visit_var_binding_(self, binding: relax.VarBinding) -> None:
        """Emit nothing for what a matmul will make."""
        if not self.uses.absorbed(binding.var):
            super().visit_var_binding_(binding)

    def visit_call_(self, op: relax.Call) -> relax.Expr:
        """A matmul with absorbed producers becomes a call of its group."""
        right = self.uses.right_operand(op) if _is_plain_call_tir(op) else None
        chain = self._chain(op.args[1].fields[right]) if right is not None else []
        if not chain:
            return super().visit_call_(op)
        group, inputs = _group([(var, self.uses.bound[var]) for var in chain], op)
        target = self.builder_.add_func(group, f"{NAME}_{op.args[0].name_hint}")
        self.groups[target.name_hint] = int(self.mod[op.args[0]].attrs["op_pattern"])
        return relax.Call(target, [self.visit_expr(arg) for arg in inputs])

    def _chain(self, var: relax.Expr) -> list[relax.Var]:
        """The absorbed variables that `var` is made from and itself, in order of evaluation."""
        if not isinstance(var, relax.Var) or not self.uses.absorbed(var):
            return []
        before = [v for arg in self.uses.bound[var].args[1].fields for v in self._chain(arg)]
        return [*dict.fromkeys(before), var]


def _group(chain: list[tuple[relax.Var, relax.Call]], matmul: relax.Call) -> tuple[relax.Function, list[relax.Expr]]:
    """A primitive function of the producers and their matmul, and the arguments to call it with."""
    made: dict[relax.Expr, relax.Var] = {}
    params: dict[relax.Expr, relax.Var] = {}
    bindings: list[relax.Binding] = []

    def inside(call: relax.Call) -> relax.Call:
        fields = [made[arg] if arg in made else _parameter(params, arg) for arg in call.args[1].fields]
        return relax.Call(call.op, [call.args[0], relax.Tuple(fields)], call.attrs, call.ty_args)

    absorbed = [var for var, _ in chain]
    for arg in matmul.args[1].fields:
        if arg not in absorbed:
            _parameter(params, arg)  # in the order of the matmul: activations first
    for var, call in chain:
        local = relax.DataflowVar(var.name, var.ty)
        bindings.append(relax.VarBinding(local, inside(call)))
        made[var] = local
    out = relax.Var("gv", matmul.ty)
    bindings.append(relax.VarBinding(out, inside(matmul)))
    body = relax.SeqExpr([relax.DataflowBlock(bindings)], out)
    function = relax.Function(list(params.values()), body, matmul.ty, attrs=tvm.ir.make_node("ir.DictAttrs", Primitive=True))
    return relax.utils.copy_with_new_vars(function), list(params)


def _parameter(params: dict[relax.Expr, relax.Var], arg: relax.Expr) -> relax.Var:
    if arg not in params:
        params[arg] = relax.Var(arg.name if isinstance(arg, relax.Var) else "const", arg.ty)
    return params[arg]


def _merge_moves(func: tirx.PrimFunc) -> tirx.PrimFunc:
    """Read through transposes at once; what decodes stays a step of its own, so that a schedule can place it."""
    sch = Schedule(func)
    for block in sch.get_child_blocks(sch.get_sblock("root")):
        if is_move(sch.get(block)) and sch.get_consumers(block):
            sch.compute_inline(block)
    merged = sch.mod["main"]
    return merged if "global_symbol" in (func.attrs or {}) else merged.without_attr("global_symbol")


def _is_plain_call_tir(call: Any) -> bool:
    return (
        isinstance(call, relax.Call)
        and call.op == _CALL_TIR
        and len(call.args) == 2  # a third argument would be symbolic variables
        and isinstance(call.args[1], relax.Tuple)
        and isinstance(call.ty, relax.TensorType)
    )


def _tells_sizes(call: relax.Call) -> bool:
    """Whether a function of these arguments could know the shape of its result: it is given ``n``, and not ``2 * n`` alone."""
    types = [arg.ty for arg in call.args[1].fields if isinstance(arg.ty, relax.TensorType)]
    shapes = [ty.shape.values for ty in (*types, call.ty) if isinstance(ty.shape, relax.ShapeExpr)]
    told = [dim for shape in shapes[:-1] for dim in shape if isinstance(dim, tvm.ir.Var)]
    asked: list[Any] = []
    tvm_ffi.structural_walk([dim for shape in shapes for dim in shape], (tvm.ir.Var, asked.append))
    return all(any(var.same_as(known) for known in told) for var in asked)


def _pattern(func: Any) -> int | None:
    """The annotated op_pattern of an unscheduled PrimFunc."""
    if not isinstance(func, tirx.PrimFunc) or not func.attrs or func.attrs.get("tirx.is_scheduled", False):
        return None
    pattern = func.attrs.get("op_pattern")
    return None if pattern is None else int(pattern)


def _is_cheap_injective(func: Any) -> bool:
    pattern = _pattern(func)
    return pattern is not None and pattern <= INJECTIVE and not is_costly(func.body)


def _right_operand(func: Any) -> int | None:
    """Which parameter may be made while it is read: a product's right operand, or the table that rows are taken from."""
    blocks: list[s_tir.SBlock] = []
    if _pattern(func) is not None:
        tvm_ffi.structural_walk(func.body, (s_tir.SBlock, blocks.append))
    compute = [block for block in blocks if block.iter_vars]
    if len(compute) != 1:
        return None
    read = right_read(compute[0])
    source = _table(compute[0]) if read is None else compute[0].reads[read].source
    return next((i for i, param in enumerate(func.params) if source is not None and param.same_as(source)), None)


def _table(block: s_tir.SBlock) -> tirx.Var | None:
    """The buffer that a spatial block reads at indices found in another buffer, if it reads one so."""
    found: list[tirx.Var] = []

    def see(load: TensorLoad) -> None:
        inner: list[TensorLoad] = []
        tvm_ffi.structural_walk(list(load.indices), (TensorLoad, inner.append))
        if inner:
            found.append(load.source)

    if isinstance(block.body, tirx.BufferStore) and not is_reduction_block(block):
        tvm_ffi.structural_walk(block.body.value, (TensorLoad, see))
    return found[0] if len(found) == 1 else None
