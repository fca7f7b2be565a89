"""One Relax function lowered: local shapes, conversions between what is held and what is taken, and the local calls."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import tvm
import tvm_ffi
from tvm import relax

from ..conversion import conversion
from ..errors import ShardingError
from ..graph import Function, Node, Tree, Value
from ..mesh import Mesh
from ..plan import Choice, Leaf, LeafTree, Plan
from ..sharding import Sharding
from .calls import CallLowering
from .reshard import adds_padding, emit_step, local_dims, mask_padding

_NAMES = (tvm.ir.Var, relax.TupleGetItem)
_LEAVES = (relax.TensorType, relax.AnyType)


@dataclass(frozen=True)
class Local:
    """What a worker holds of a value: the variable, its sharding, and whether its padding is known to be zero."""

    expr: Any
    sharding: Sharding
    zero: bool


class FunctionLowering:
    """Lowers one function into `builder`; `calls` makes the local call of each operator."""

    def __init__(self, builder: relax.BlockBuilder, function: Function, source: relax.Function, plan: Plan, calls: CallLowering) -> None:
        self.bb, self.function, self.source, self.plan, self.calls = builder, function, source, plan, calls
        self.mesh: Mesh = plan.mesh
        self.held: dict[tuple[Value, Sharding], Local] = {}
        self.kept: dict[Value, Sharding] = {}
        self.others: dict[Any, Any] = {}
        """Shapes and numbers: the original variable -> the local one."""
        self.dims: dict[Value, tuple[Any, ...]] = {}
        """The global shapes of parameters, in the terms of this function."""
        self.fields: dict[Value, tuple[Any, tuple[int, ...]]] = {}
        """Weights in a packed tuple that nothing has used yet."""
        self.bound = {b.var: b.value for block in source.body.blocks for b in block.bindings[:] if not isinstance(b.value, tvm.ir.Call)}
        """Tuples and other names for values, by variable."""

    def run(self) -> None:
        """Emit the function."""
        params = [self._param(p, tree) for p, tree in zip(self.source.params, self.function.params, strict=True)]
        attrs = {k: v for k, v in self.source.attrs.items() if k != "global_symbol"}
        pure = all(isinstance(b, relax.DataflowBlock) for b in self.source.body.blocks)
        with self.bb.function(self.function.name, params, attrs=attrs, pure=bool(self.source.is_pure)):
            if pure:
                with self.bb.dataflow():
                    result = self.bb.emit_output(self._body())
            else:
                result = self._body()
            self.bb.emit_func_output(result)

    def _body(self) -> Any:
        choices = self.plan.choices[self.function.name]
        for node, choice in zip(self.function.nodes, choices, strict=True):
            self._node(node, choice)

        def result(tree: Tree[Value], end: LeafTree, expr: Any) -> Any:
            if isinstance(tree, tuple) and isinstance(end, tuple):
                expr = self._unbound(expr)
                parts = expr.fields if isinstance(expr, relax.Tuple) else [relax.TupleGetItem(expr, i) for i in range(len(tree))]
                return relax.Tuple([result(t, e, p) for t, e, p in zip(tree, end, parts, strict=True)])
            assert isinstance(tree, Value) and isinstance(end, Leaf)
            if tree.kind == "other":
                return self._other(expr)
            held = self._take(tree, end.sharding if end.sharding is not None else self.kept[tree])
            if held.zero or not tree.is_tensor:
                return held.expr
            # A result that stays on the workers may come back as an argument, whose padding counts as zero.
            return mask_padding(self.emit, held.expr, self.dims.get(tree, tree.dims), held.sharding, self.mesh)

        made = self.function.result if self.function.result is not None else ()
        return result(made, self.plan.functions[self.function.name].outputs, self.source.body.body)

    def _unbound(self, expr: Any) -> Any:
        """What a variable is another name for, up to what the lowered function knows it by."""
        while isinstance(expr, tvm.ir.Var) and expr not in self.others and expr in self.bound:
            expr = self.bound[expr]
        return expr

    def _other(self, expr: Any) -> Any:
        """A shape or a number, in the lowered function."""
        expr = self._unbound(expr)
        if isinstance(expr, relax.TupleGetItem):
            whole = self._unbound(expr.tuple_value)
            if isinstance(whole, relax.Tuple):
                return self._other(whole.fields[expr.index])
            if whole in self.others:
                return relax.TupleGetItem(self.others[whole], expr.index)
            raise ShardingError(
                f"function {self.function.name!r}", "it takes a shape or a number out of a tuple", "Return it as a tensor, or alone."
            )
        return self.others.get(expr, expr) if isinstance(expr, tvm.ir.Var) else expr

    def emit(self, expr: Any) -> Any:
        """Bind an expression."""
        return self.bb.emit(expr)

    def _param(self, param: Any, tree: Tree[Value]) -> Any:
        def local(tree: Tree[Value], ty: Any) -> Any:
            if isinstance(tree, tuple):
                return relax.TupleType([local(t, f) for t, f in zip(tree, ty.fields, strict=True)])
            if tree.kind == "tensor" and tree.dims:
                # A weight's symbolic sizes are named by each function for itself.
                self.dims[tree] = tuple(ty.shape.values)
                return relax.TensorType(local_dims(self.dims[tree], self._kept(tree), self.mesh), tree.dtype)
            return ty

        made = relax.Var(param.name, local(tree, param.ty))
        self.others[param] = made

        def define(tree: Tree[Value], path: tuple[int, ...]) -> None:
            if isinstance(tree, tuple):
                for i, part in enumerate(tree):
                    define(part, (*path, i))
            elif tree.kind == "other":
                pass
            elif path:
                self.fields[tree] = (made, path)
                self.kept[tree] = self._kept(tree)
            else:
                self._hold(tree, Local(made, self._kept(tree), True))

        define(tree, ())
        return made

    def _kept(self, value: Value) -> Sharding:
        if value.role == "weight":
            return self.plan.params.get(value.name, Sharding(()))
        found = self.plan.values.get(f"{value.function}.{value.name}")
        return found if found is not None else Sharding.replicated(len(value.shape))

    def _hold(self, value: Value, local: Local) -> None:
        self.held[value, local.sharding] = local
        self.kept[value] = local.sharding

    def _take(self, value: Value, sharding: Sharding) -> Local:
        """The value in `sharding`, converted at most once in a function."""
        if value.kind == "object":
            return self.held[value, self.kept[value]]
        found = self.held.get((value, sharding))
        if found is None:
            found = self._convert(value, self._source(value), sharding)
            self.held[value, sharding] = found
        return found

    def _source(self, value: Value) -> Local:
        kept = self.kept.setdefault(value, self._kept(value))
        if (value, kept) not in self.held and value.role == "constant":
            self.held[value, kept] = Local(value.data, kept, True)
        if (value, kept) not in self.held:
            made, path = self.fields[value]
            for index in path:
                made = self.bb.emit(relax.TupleGetItem(made, index), value.name)
            self.held[value, kept] = Local(made, kept, True)
        return self.held[value, kept]

    def _convert(self, value: Value, local: Local, target: Sharding) -> Local:
        steps = conversion(local.sharding, target, self.mesh)
        if steps is None:
            raise ShardingError(
                f"{self.function.name}: {value.name!r}",
                f"there is no way from {local.sharding} to {target}",
                "Make a new plan with spmd.plan().",
            )
        expr, zero = local.expr, local.zero
        for step in steps:
            expr = emit_step(self.emit, expr, step, self.dims.get(value, value.dims), self.mesh, value.name)
            # What is gathered loses its padding; what is sliced or scattered gets zeros.
            zero = True if adds_padding(step, self.mesh) or not step.target.is_padded(self.mesh) else zero
        return Local(expr, target, zero)

    def _node(self, node: Node, choice: Choice) -> None:
        if (choice.op, choice.name) != (node.op, node.name):
            raise ShardingError(
                f"plan for {self.function.name!r}",
                f"it has {choice.op} {choice.name!r} where the module has {node.op} {node.name!r}",
                "Plan this module with spmd.plan().",
            )
        taken = [self._take(v, s) for v, s in zip(node.inputs, choice.inputs, strict=True)]
        result, zero = self.calls.emit(self, node, choice, taken)
        made = list(self._leaves(result, node.binding.var))
        for value, sharding, expr in zip(node.outputs, choice.outputs, made, strict=True):
            if value.kind == "object":
                self._hold(value, Local(expr, sharding, True))
                continue
            if choice.splits or not sharding.is_replicated:
                self._check(node, choice, value, sharding, expr)
            local = Local(expr, sharding, zero or not sharding.is_padded(self.mesh))
            kept = self._kept(value)
            # Whoever uses the value takes it as it is kept, which may be what the user asked for.
            self._hold(value, local if kept == sharding else self._convert(value, local, kept))

    def _leaves(self, expr: Any, var: Any) -> Iterator[Any]:
        def visit(expr: Any, ty: Any) -> Iterator[Any]:
            if isinstance(ty, relax.TupleType):
                for i, field in enumerate(ty.fields[:]):
                    yield from visit(self.bb.emit(relax.TupleGetItem(expr, i)), field)
            elif isinstance(ty, _LEAVES):
                yield expr
            else:
                self.others[var] = expr

        yield from visit(expr, var.ty)

    def _check(self, node: Node, choice: Choice, value: Value, sharding: Sharding, expr: Any) -> None:
        """The local call must have the local shape that the plan says: a wrong rule is found here, not in a wrong number."""
        key = (node.call_class, choice.splits, choice.inputs, sharding, node.outputs.index(value))
        if key in self.calls.checked:
            return
        self.calls.checked.add(key)
        wanted = local_dims(value.dims, sharding, self.mesh)
        shape = expr.ty.shape
        if shape is None or (wanted and not tvm_ffi.structural_equal(relax.ShapeExpr(wanted), shape)):
            raise ShardingError(
                f"{self.function.name}: {node.op} {node.name!r}",
                f"its local call gives {expr.ty}, and the rule says {wanted}",
                "The rule of this operator is wrong; replicate it by a rule that returns None.",
            )

    def substitute(self, expr: Any, taken: Iterator[Any], kernels: Mapping[str, Any] | None = None) -> Any:
        """An argument of the original call with the local tensors, in order, in the place of the global ones.

        `kernels` are GlobalVars of the lowered module by the name of the one that they replace.
        """
        if isinstance(expr, tvm.ir.Var):
            bound = self.bound.get(expr)
            if isinstance(bound, relax.Tuple):
                expr = bound
            elif isinstance(expr.ty, relax.TensorType):
                return next(taken)
        if isinstance(expr, relax.Tuple):
            return relax.Tuple([self.substitute(f, taken, kernels) for f in expr.fields[:]])
        if isinstance(expr, tvm.ir.GlobalVar):
            return kernels[expr.name_hint] if kernels and expr.name_hint in kernels else self.calls.global_var(expr)
        if isinstance(expr, tvm.ir.GenericConst) and isinstance(expr.ty, relax.TensorType):
            return next(taken)
        if not isinstance(expr, _NAMES):
            return expr

        def fill(ty: Any) -> Any:
            if isinstance(ty, relax.TupleType):
                return relax.Tuple([fill(f) for f in ty.fields])
            return next(taken) if isinstance(ty, _LEAVES) else self._other(expr)

        return fill(expr.ty)
