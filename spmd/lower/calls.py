"""The local call of each operator: the same operator on shards, with local sizes in its arguments, attributes and kernels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import tvm
import tvm_ffi
from tvm import relax

from spmd.placement.mesh import Mesh
from spmd.placement.sharding import Split
from spmd.plan.steps import Compute
from spmd.program.graph import Graph, Node
from spmd.rules.kernel import KERNEL_CALLS, CallKernel, kernel_key, read_call
from spmd.rules.model import Rule

from .carried import Carried
from .forms import run_form
from .kernel import local_group_gemm, local_kernel
from .kv_cache import local_kernels
from .reshard import local_dims
from .scope import Scope


@dataclass(frozen=True)
class _Template:
    """What calls of one class under one step have in common: layers repeat, and this is worked out once."""

    form: str | None
    attrs: Any
    types: list[Any]
    replaced: dict[int, Any]
    """Arguments by number, where the local call has others."""
    tensors: bool = False
    """Whether the arguments are the operands, as they are."""


class CallLowering:
    """Makes local calls for all functions of a module; equal kernels are made once."""

    def __init__(self, graph: Graph, builder: relax.BlockBuilder, mesh: Mesh) -> None:
        self.source, self.bb, self.mesh = graph.module, builder, mesh
        self.carried = Carried(graph.module, builder)
        self.kernels: dict[tuple[object, ...], Any] = {}
        self.read: dict[tuple[object, ...], CallKernel] = {}
        self.templates: dict[tuple[object, ...], _Template] = {}
        self.checked: set[tuple[object, ...]] = set()
        """Results whose shapes were found to be what the plan says."""
        self._numbers: dict[tuple[object, ...], int] = {}
        self._by_identity: dict[tuple[int, ...], int] = {}
        """Steps share what they have in common, and live as long as their plan."""

    def number(self, step: Compute) -> int:
        """The number of all steps with these splits and shardings."""
        key = (id(step.splits), id(step.inputs), id(step.outputs))
        found = self._by_identity.get(key)
        if found is None:
            found = self._by_identity[key] = self._numbers.setdefault((step.splits, step.inputs, step.outputs), len(self._numbers))
        return found

    def emit(self, scope: Scope, node: Node, step: Compute, taken: list[Any]) -> Any:
        """The local result of an operator on what a worker has of its operands."""
        if node.op == "relax.spmd.hint":
            return taken[0]
        if isinstance(node.binding, relax.MatchCast):
            return self._match_cast(scope, node, step, taken)
        call = node.binding.value
        if not isinstance(call, tvm.ir.Call):
            return scope.emit(self._carried_expr(scope, call, iter(taken)))
        key = (node.call_class, self.number(step))
        template = self.templates.get(key)
        if template is None:
            template = self.templates[key] = self._template(node, step, call, dict(step.splits))
        if template.form is not None:
            context = {
                "kernel": lambda: self._read(node),
                "add_function": self.bb.add_func,
                "number": lambda expr: scope.others.get(expr, expr),
            }
            return run_form(template.form, scope.emit, node, step, taken, self.mesh, **context)
        if not template.tensors:
            taken = self._args(scope, node, step, iter(taken), template.replaced)
        op = call.op
        if isinstance(op, tvm.ir.GlobalVar):
            op = self.carried.global_var(op)
        return scope.bb.emit(tvm.ir.Call(op, taken, template.attrs, template.types), node.name)

    def _match_cast(self, scope: Scope, node: Node, step: Compute, taken: list[Any]) -> Any:
        binding = node.binding
        if not (len(node.inputs) == len(node.outputs) == 1):  # of a shape, or of a tuple
            return scope.bb.match_cast(scope.substitute(binding.value, iter(taken)), binding.ty)
        shape = local_dims(node.outputs[0].dims, step.outputs[0], self.mesh)
        return scope.bb.match_cast(taken[0], relax.TensorType(shape, node.outputs[0].dtype))

    def _template(self, node: Node, step: Compute, call: Any, splits: Mapping[str, Split]) -> _Template:
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
            replaced[i] = relax.ShapeExpr(local_dims(node.outputs[output].dims, step.outputs[output], self.mesh))
        if node.op in KERNEL_CALLS:
            replaced[0] = self._kernel(node, dict(splits))
        tensors = not replaced and len(call.args) == len(node.inputs) and all(isinstance(a.ty, relax.TensorType) for a in call.args)
        types = [self._local_type(node, step, t) for t in call.ty_args]
        return _Template(None, attrs, types, replaced, tensors)

    def _args(self, scope: Scope, node: Node, step: Compute, operands: Iterator[Any], replaced: Mapping[int, Any]) -> list[Any]:
        call, rule, splits = node.binding.value, node.rule, dict(step.splits)
        kernels: Mapping[str, Any] = {}
        if rule.kernels == "paged_kv_cache" and splits:
            counts = [self._product(rule, splits, factors) for factors in rule.scalar_args.values()]
            where = f"{node.function}: {node.name!r}"
            made = local_kernels(self.source, call, counts[0], counts[1], where, lookup=scope.bound.get, attrs=scope.source.attrs)
            kernels = {name: self.bb.add_func(func, name) for name, func in made.items()}
        return [
            replaced[i] if i in replaced else scope.substitute(arg, operands, kernels)
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
            return self.carried.global_var(var)
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

    def _local_type(self, node: Node, step: Compute, ty: Any) -> Any:
        outs = iter(zip(node.outputs, step.outputs, strict=True))

        def local(ty: Any) -> Any:
            if isinstance(ty, relax.TupleType):
                return relax.TupleType([local(f) for f in ty.fields[:]])
            if isinstance(ty, relax.TensorType):
                value, sharding = next(outs)
                return relax.TensorType(local_dims(value.dims, sharding, self.mesh), value.dtype)
            return ty

        return local(ty)

    def _carried_expr(self, scope: Scope, expr: Any, operands: Iterator[Any]) -> Any:
        """An expression with a body of its own, a local function, over the local variables."""
        free = relax.analysis.free_vars(expr)
        replaced = {var: scope.substitute(var, operands) for var in free}
        return tvm_ffi.structural_mutate(
            expr, [(tvm.ir.GlobalVar, lambda g, _: self.carried.global_var(g)), (tvm.ir.Var, lambda v, _: replaced.get(v, v))]
        )
