"""One Relax function lowered: local shapes, conversions between what is held and what is taken, and the local calls."""

from __future__ import annotations

from collections import deque
from collections.abc import MutableMapping
from dataclasses import dataclass
from typing import Any

import tvm_ffi
from tvm import relax

from spmd.errors import ShardingError
from spmd.ir.trees import Tree, leaves
from spmd.placement.mesh import Mesh
from spmd.placement.sharding import Sharding
from spmd.plan.decisions import Choice
from spmd.plan.model import Plan
from spmd.program.graph import Branch, Function, Node, Value

from .branch import Steps, emit_if, is_dataflow
from .bundles import Way, bundles_of
from .calls import CallLowering
from .kept import kept_by
from .reshard import Sending, brings_zeros, emit_step, emit_together, local_dims, mask_padding
from .routes import Routes
from .translation import Translation


@dataclass(frozen=True)
class Local:
    """What a worker holds of a value: the variable, its sharding, and whether its padding is known to be zero."""

    expr: Any
    sharding: Sharding
    zero: bool


class FunctionLowering(Translation):
    """Lowers one function into `builder`; `calls` makes the local call of each operator."""

    def __init__(self, builder: relax.BlockBuilder, function: Function, source: relax.Function, plan: Plan, calls: CallLowering) -> None:
        super().__init__(builder, function.name, source, calls)
        self.function, self.source, self.plan = function, source, plan
        self.mesh: Mesh = plan.mesh
        self.held: MutableMapping[tuple[Value, Sharding], Local] = {}
        self.kept: MutableMapping[Value, Sharding] = {}
        self.dims: dict[Value, tuple[Any, ...]] = {}
        """The global shapes of parameters with symbolic sizes, in the terms of this function."""
        self.fields: dict[Value, tuple[Any, tuple[int, ...]]] = {}
        """Weights in a packed tuple that nothing has used yet."""
        self.delayed: dict[Value, Local] = {}
        """Values as they were made, which a bundle will convert to how they are kept."""
        self.bundles = bundles_of(plan, function)
        self.routes = Routes(plan, function.name)

    def run(self) -> None:
        """Emit the function."""
        params = [self._param(p, tree) for p, tree in zip(self.source.params, self.function.params, strict=True)]
        attrs = {k: v for k, v in self.source.attrs.items() if k != "global_symbol"}
        with self.bb.function(self.function.name, params, attrs=attrs, pure=bool(self.source.is_pure)):
            if is_dataflow(self.source.body):
                with self.bb.dataflow():
                    result = self.bb.emit_output(self._body())
            else:
                result = self._body()
            self.bb.emit_func_output(result)

    def _body(self) -> Any:
        steps: Steps = deque(zip(self.function.nodes, self.plan.choices[self.function.name], strict=True))
        self.run_branch(steps, ())
        made, outputs = self.function.result, self.plan.functions[self.function.name].outputs
        assert made is not None
        ends = iter([end for value, end in zip(leaves(made), leaves(outputs), strict=True) if value.kind != "other"])

        def end(value: Value) -> Any:
            wanted = next(ends).sharding
            held = self.take(value, wanted if wanted is not None else self.kept[value])
            if held.zero or not value.is_tensor:
                return held.expr
            # A result that stays on the workers may come back as an argument, whose padding counts as zero.
            return mask_padding(self.emit, held.expr, self.dims.get(value, value.dims), held.sharding, self.mesh)

        return self.result(made, self.source.body.body, end)

    def run_branch(self, steps: Steps, branch: Branch) -> None:
        """Emit the operators of one branch (at first: of the function), which are the next of `steps`."""
        while steps and steps[0][0].branch == branch:
            node, choice = steps.popleft()
            if node.joined is None:
                self._node(node, choice)
            elif node.outputs:  # what a branch gives goes on as it is
                self._make(node.outputs[0], self.take(node.inputs[0], choice.inputs[0]))
            else:
                emit_if(self, node, choice, steps)

    def _param(self, param: Any, tree: Tree[Value]) -> Any:
        made = relax.Var(param.name, self._local_type(tree, param.ty))
        self.others[param] = made
        self._define(tree, made, ())
        return made

    def _local_type(self, tree: Tree[Value], ty: Any) -> Any:
        if isinstance(tree, tuple):
            return relax.TupleType([self._local_type(t, f) for t, f in zip(tree, ty.fields, strict=True)])
        if tree.kind == "tensor" and tree.dims:
            if None in tree.shape:  # A weight's symbolic sizes are named by each function for itself.
                self.dims[tree] = tuple(ty.shape.values[:])
            return relax.TensorType(local_dims(self.dims.get(tree, tree.dims), self._kept(tree), self.mesh), tree.dtype)
        return ty

    def _define(self, tree: Tree[Value], made: Any, path: tuple[int, ...]) -> None:
        """`tree` is the field at `path` of the parameter `made`."""
        if isinstance(tree, tuple):
            for i, part in enumerate(tree):
                self._define(part, made, (*path, i))
        elif tree.kind == "other":
            pass
        elif path:
            self.fields[tree] = (made, path)
            self.kept[tree] = self._kept(tree)
        else:
            self.hold(tree, Local(made, self._kept(tree), True))

    def _kept(self, value: Value) -> Sharding:
        return kept_by(self.plan, value)

    def hold(self, value: Value, local: Local) -> None:
        """Keep the value as `local`."""
        self.held[value, local.sharding] = local
        self.kept[value] = local.sharding

    def take(self, value: Value, sharding: Sharding) -> Local:
        """The value in `sharding`, converted at most once in a function, or in each branch that needs it; each time if it is written."""
        if value.kind == "object":
            return self.as_kept(value)
        if value.memory:
            return self._convert(value, self.as_kept(value), sharding)
        found = self.held.get((value, sharding))
        if found is None:
            kept = self.as_kept(value)
            if (value.name, kept.sharding, sharding) in self.bundles:
                self._convert_bundle((value.name, kept.sharding, sharding))
            else:
                self.held[value, sharding] = self._convert(value, kept, sharding)
            found = self.held[value, sharding]
        return found

    def as_kept(self, value: Value) -> Local:
        """The value in the sharding in which it is kept."""
        kept = self.kept.setdefault(value, self._kept(value))
        if value in self.delayed:
            self._convert_bundle((value.name, self.delayed[value].sharding, kept))
        if (value, kept) not in self.held and value.role == "constant":
            self.held[value, kept] = Local(value.data, kept, True)
        if (value, kept) not in self.held:
            made, path = self.fields[value]
            name = value.name.replace("[", "_").replace("]", "")  # as it may stand in the source of kernels
            for index in path:
                made = self.bb.emit(relax.TupleGetItem(made, index), name)
            self.held[value, kept] = Local(made, kept, True)
        return self.held[value, kept]

    def _convert(self, value: Value, local: Local, target: Sharding) -> Local:
        return emit_together(self.emit, [self._converting(value, local, target)])[0]

    def _converting(self, value: Value, local: Local, target: Sharding) -> Sending[Local]:
        expr, zero = local.expr, local.zero
        for step in self.routes.steps(value, local.sharding, target):
            dims = self.dims.get(value, value.dims)
            moved = yield from emit_step(self.emit, expr, step, dims, self.mesh, value.name)
            expr = self._cast(moved, value, step.source, step.target)
            zero = zero or brings_zeros(step, self.mesh)
        return Local(expr, target, zero)

    def _convert_bundle(self, first: Way) -> None:
        """Convert all that goes with the first that is needed, in one call."""
        members = self.bundles[first]
        sources: list[Local] = []
        for way, value in members:
            local = self.delayed.pop(value, None)
            if local is None and (value, way[1]) not in self.held and value not in self.fields and value.role != "constant":
                what = f"it goes in a bundle with {first[0]!r}, and is not there when that is needed"
                raise ShardingError(f"{self.function.name}: {value.name!r}", what, "Plan this module with spmd.plan().")
            sources.append(local or self.as_kept(value))
        conversions = [self._converting(value, local, way[2]) for (way, value), local in zip(members, sources, strict=True)]
        for (_, value), made in zip(members, emit_together(self.emit, conversions), strict=True):
            self.held[value, made.sharding] = made

    def _cast(self, expr: Any, value: Value, *shardings: Sharding) -> Any:
        """What is split in blocks of an unknown size comes out as some multiple of them, ``n // 4 * 4``: say that it is ``n``.

        By a reshape, a view: the word was checked when the arguments came, and TVM follows a match_cast of n to a term in n for ever.
        """
        if not any(sharding.is_symbolic for sharding in shardings):
            return expr
        shape = local_dims(self.dims.get(value, value.dims), shardings[-1], self.mesh)
        if expr.ty.shape is not None and tvm_ffi.structural_equal(relax.ShapeExpr(shape), expr.ty.shape):
            return expr
        return self.bb.emit(relax.op.reshape(expr, relax.ShapeExpr(shape)))

    def _node(self, node: Node, choice: Choice) -> None:
        operands = zip(node.stays, (*node.inputs, *node.outputs), (*choice.inputs, *choice.outputs), strict=False)
        for value, sharding in ((v, s) for stays, v, s in operands if stays and s != self._kept(v)):
            where = f"{self.function.name}: {node.op} {node.name!r}"
            what = f"{value.name!r} is written in place as {sharding}, and kept as {self._kept(value)}"
            raise ShardingError(where, what, "Make a new plan with spmd.plan().")
        taken = [self.take(v, s) for v, s in zip(node.inputs, choice.inputs, strict=True)]
        result, zero = self.calls.emit(self, node, choice, taken)
        made = list(self.parts(result, node.binding.var))
        for value, sharding, expr in zip(node.outputs, choice.outputs, made, strict=True):
            if value.kind == "object":
                self.hold(value, Local(expr, sharding, True))
                continue
            expr = self._cast(expr, value, sharding)
            if choice.splits or not sharding.is_replicated:
                self._check(node, choice, value, sharding, expr)
            self._make(value, Local(expr, sharding, zero or not sharding.is_padded(self.mesh)))

    def _make(self, value: Value, local: Local) -> None:
        """Whoever uses the value takes it as it is kept, which may be what the user asked for."""
        kept = self._kept(value)
        if (value.name, local.sharding, kept) in self.bundles:
            self.delayed[value], self.kept[value] = local, kept
        else:
            self.hold(value, local if kept == local.sharding else self._convert(value, local, kept))

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
