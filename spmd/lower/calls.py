"""The local call of each operator: the same operator on shards, with local sizes in its arguments, attributes and kernels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import tvm
import tvm_ffi
from tvm import relax

from spmd.placement.mesh import Mesh
from spmd.placement.sharding import Split
from spmd.plan.steps import Compute
from spmd.program.graph import Graph, Node
from spmd.rules.kernel import KERNEL_CALLS, CallKernel, kernel_key, read_call
from spmd.rules.model import Rule, Spec

from .forms import run_form
from .kernel import local_group_gemm, local_kernel
from .kv_cache import local_kernels
from .reshard import local_dims, mask_padding

if TYPE_CHECKING:
    from .function import FunctionLowering, Local


@dataclass(frozen=True)
class _Template:
    """What calls of one class under one choice have in common: layers repeat, and this is worked out once."""

    form: str | None
    attrs: Any
    types: list[Any]
    replaced: dict[int, Any]
    """Arguments by number, where the local call has others."""
    tensors: bool = False
    """Whether the arguments are the operands, as they are."""
    zero: list[int] | None = None
    """The operands whose padding must be zero for that of the result to be; None where it is not even then."""


class CallLowering:
    """Makes local calls for all functions of a module; equal kernels are made once."""

    def __init__(self, graph: Graph, builder: relax.BlockBuilder, mesh: Mesh) -> None:
        self.source, self.bb, self.mesh = graph.module, builder, mesh
        self.kernels: dict[tuple[object, ...], Any] = {}
        self.read: dict[tuple[object, ...], CallKernel] = {}
        self.globals: dict[str, Any] = {}
        self.templates: dict[tuple[object, ...], _Template] = {}
        self.checked: set[tuple[object, ...]] = set()
        """Results whose shapes were found to be what the plan says."""

    def global_var(self, var: Any) -> Any:
        """The function of the original module that `var` names, carried over as it is."""
        if var.name_hint not in self.globals:
            func = self.source[var]
            made = self.globals[var.name_hint] = self.bb.add_func(func, var.name_hint)
            if isinstance(func, relax.Function):  # which may call itself
                self.bb.update_func(made, _carried(func, self))
        return self.globals[var.name_hint]

    def emit(self, into: FunctionLowering, node: Node, choice: Compute, taken: list[Local]) -> tuple[Any, bool]:
        """The local result of an operator, and whether its padding is zero."""
        splits = dict(choice.splits)
        if splits:
            taken = self._masked(into, node, splits, choice, taken)
        if node.op == "relax.spmd.hint":
            return taken[0].expr, taken[0].zero
        if isinstance(node.binding, relax.MatchCast):
            return self._match_cast(into, node, choice, taken)
        call = node.binding.value
        if not isinstance(call, tvm.ir.Call):
            return into.emit(self._carried_expr(into, call, node, iter([t.expr for t in taken]))), False
        key = (node.call_class, choice.splits, choice.inputs, choice.outputs)
        template = self.templates.get(key)
        if template is None:
            template = self.templates[key] = self._template(node, choice, call, splits)
        if template.form is not None:
            context = {
                "kernel": lambda: self._read(node),
                "add_function": self.bb.add_func,
                "number": lambda expr: into.others.get(expr, expr),
            }
            stays = bool(node.writes) and len(node.writes) == len(node.outputs) and all(taken[i].zero for i in node.writes)
            return run_form(template.form, into.emit, node, choice, [t.expr for t in taken], self.mesh, **context), stays
        args = [t.expr for t in taken]
        if not template.tensors:
            args = self._args(into, node, choice, iter(args), template.replaced)
        zero = template.zero is not None and all(taken[i].zero for i in template.zero)
        op = call.op
        if isinstance(op, tvm.ir.GlobalVar):
            op = self.global_var(op)
        return into.bb.emit(tvm.ir.Call(op, args, template.attrs, template.types), node.name), zero

    def _match_cast(self, into: FunctionLowering, node: Node, choice: Compute, taken: list[Local]) -> tuple[Any, bool]:
        binding = node.binding
        if not (len(node.inputs) == len(node.outputs) == 1):  # of a shape, or of a tuple
            return into.bb.match_cast(into.substitute(binding.value, iter([t.expr for t in taken])), binding.ty), False
        shape = local_dims(node.outputs[0].dims, choice.outputs[0], self.mesh)
        return into.bb.match_cast(taken[0].expr, relax.TensorType(shape, node.outputs[0].dtype)), taken[0].zero

    def _template(self, node: Node, choice: Compute, call: Any, splits: Mapping[str, Split]) -> _Template:
        rule = node.rule
        form = next((rule.forms[f].name for f in splits if f in rule.forms), None)
        if form is not None:
            return _Template(form, None, [], {})

        def size(factor: str) -> int:
            return self._size(rule, splits, factor)

        attrs = call.attrs
        if splits and rule.local_attrs is not None:
            attrs = tvm.ir.make_node(attrs.__tvm_ffi_type_info__.type_key, **rule.local_attrs(size))
        replaced = dict(rule.local_args(size)) if splits and rule.local_args is not None else {}
        if splits:
            replaced |= {i: relax.prim_value(self._product(rule, splits, factors)) for i, factors in rule.scalar_args.items()}
        for i, output in rule.shape_args.items():
            replaced[i] = relax.ShapeExpr(local_dims(node.outputs[output].dims, choice.outputs[output], self.mesh))
        if node.op in KERNEL_CALLS:
            replaced[0] = self._kernel(node, dict(splits))
        tensors = not replaced and len(call.args) == len(node.inputs) and all(isinstance(a.ty, relax.TensorType) for a in call.args)
        types = [self._local_type(node, choice, t) for t in call.ty_args]
        return _Template(None, attrs, types, replaced, tensors, _zero_from(rule, splits, self.mesh))

    def _masked(self, into: FunctionLowering, node: Node, splits: Mapping[str, Split], choice: Compute, taken: list[Local]) -> list[Local]:
        """What changes nothing over padding that a reduction would otherwise take in."""
        padded = {f for f in node.rule.reduced if f in splits and splits[f].is_padded(self.mesh)}
        if not padded or any(f in node.rule.forms for f in splits):
            return taken
        masked: list[Local] = []
        for spec, value, local in zip(node.rule.inputs, node.inputs, taken, strict=True):
            sums = node.rule.reduce == "sum"
            if value.is_tensor and not (local.zero and sums) and _holds(spec, padded):
                dims, kind = into.dims.get(value, value.dims), node.rule.reduce or "sum"
                local = type(local)(mask_padding(into.emit, local.expr, dims, local.sharding, self.mesh, kind), local.sharding, sums)
            masked.append(local)
        return masked

    def _args(self, into: FunctionLowering, node: Node, choice: Compute, operands: Iterator[Any], replaced: Mapping[int, Any]) -> list[Any]:
        call, rule, splits = node.binding.value, node.rule, dict(choice.splits)
        kernels: Mapping[str, Any] = {}
        if rule.kernels == "paged_kv_cache" and splits:
            counts = [self._product(rule, splits, factors) for factors in rule.scalar_args.values()]
            where = f"{node.function}: {node.name!r}"
            made = local_kernels(self.source, call, counts[0], counts[1], where, lookup=into.bound.get, attrs=into.source.attrs)
            kernels = {name: self.bb.add_func(func, name) for name, func in made.items()}
        return [
            replaced[i] if i in replaced else into.substitute(arg, operands, kernels)
            for i, arg in enumerate(call.args[:])  # a slice is a list, much faster to walk than the container
        ]

    def _size(self, rule: Rule, splits: Mapping[str, Split], factor: str) -> int:
        return splits[factor].local_size(self.mesh) if factor in splits else rule.sizes[factor] or 0

    def _product(self, rule: Rule, splits: Mapping[str, Split], factors: str) -> int:
        total = 1
        for f in factors.split():
            total *= self._size(rule, splits, f)
        return total

    def _kernel(self, node: Node, splits: dict[str, Split]) -> Any:
        var = node.binding.value.args[0]
        if not splits:
            return self.global_var(var)
        key = (self._kernel_key(node), tuple(sorted(splits.items())))
        if key not in self.kernels:
            if node.rule.kernels == "group_gemm":
                made = local_group_gemm(self.source[var], lambda f: self._size(node.rule, splits, f))
            else:
                made = local_kernel(self._read(node).kernel, splits, self.mesh)
            self.kernels[key] = self.bb.add_func(made, var.name_hint)
        return self.kernels[key]

    def _kernel_key(self, node: Node) -> tuple[object, ...]:
        return kernel_key(node.binding.value, [v.dims for v in node.inputs], [v.dims for v in node.outputs])

    def _read(self, node: Node) -> CallKernel:
        """What the kernel of a call_tir says of itself."""
        key = self._kernel_key(node)
        if key not in self.read:
            call = node.binding.value
            self.read[key] = read_call(self.source[call.args[0]], call, [v.dims for v in node.inputs], [v.dims for v in node.outputs])
        return self.read[key]

    def _local_type(self, node: Node, choice: Compute, ty: Any) -> Any:
        outs = iter(zip(node.outputs, choice.outputs, strict=True))

        def local(ty: Any) -> Any:
            if isinstance(ty, relax.TupleType):
                return relax.TupleType([local(f) for f in ty.fields[:]])
            if isinstance(ty, relax.TensorType):
                value, sharding = next(outs)
                return relax.TensorType(local_dims(value.dims, sharding, self.mesh), value.dtype)
            return ty

        return local(ty)

    def _carried_expr(self, into: FunctionLowering, expr: Any, node: Node, operands: Iterator[Any]) -> Any:
        """An expression with a body of its own, a local function, over the local variables."""
        free = relax.analysis.free_vars(expr)
        replaced = {var: into.substitute(var, operands) for var in free}
        return tvm_ffi.structural_mutate(
            expr, [(tvm.ir.GlobalVar, lambda g, _: self.global_var(g)), (tvm.ir.Var, lambda v, _: replaced.get(v, v))]
        )


def _carried(func: relax.Function, calls: CallLowering) -> relax.Function:
    """A private function, its calls of others carried over too."""
    return tvm_ffi.structural_mutate(func, [(tvm.ir.GlobalVar, lambda g, _: calls.global_var(g))])


def _holds(spec: Spec, factors: set[str]) -> bool:
    return any(f in factors for dim in spec for piece in dim for f in piece)


def _zero_from(rule: Rule, splits: Mapping[str, Split], mesh: Mesh) -> list[int] | None:
    """The inputs whose padding must be zero for that of the result to be; None where it is not even then."""
    if not rule.zero:
        return None
    found: list[int] = []
    for f, split in splits.items():
        if not split.is_padded(mesh) or f in rule.reduced:
            continue
        holding = [i for i, spec in enumerate(rule.inputs) if _holds(spec, {f})]
        # A product too asks for all of them: what else is there may be infinite, and zero times that is NaN.
        if not holding or len(holding) < len(rule.inputs) - len(rule.pointers):
            return None
        found += holding
    return found
