"""One Relax function lowered: local parameter types, and the steps of the plan one after another."""

from __future__ import annotations

from collections import deque
from typing import Any

import tvm
import tvm_ffi
from tvm import relax

from spmd.errors import ShardingError
from spmd.ir.builder import Builder
from spmd.ir.per_worker import DONATED
from spmd.ir.trees import Tree, leaves, named_leaves, paths
from spmd.placement.sharding import Sharding
from spmd.plan.model import Plan
from spmd.plan.steps import Bundle, Compute, Mask, Reorder, Return, Step, Transfer, branch_of
from spmd.program.graph import PASSING, Branch, Function, Node, Value

from .branch import emit_if, is_dataflow
from .calls import CallLowering
from .kept import WAY_OUT, kept_by
from .moves import Moves
from .reshard import local_dims
from .scope import Scope


class FunctionLowering:
    """Lowers one function into `builder`; `calls` makes the local call of each operator. It decides nothing: each step says what to do."""

    def __init__(self, builder: Builder, function: Function, source: relax.Function, plan: Plan, calls: CallLowering) -> None:
        self.bb, self.function, self.source, self.plan, self.calls = builder, function, source, plan, calls
        self._passed: list[Any] = []
        """What is passed to a loop that is called next."""
        self.scope = Scope(builder, function.name, source, plan.mesh, calls.carried)
        self._values = function.named
        self._kept: dict[Value, Sharding] = {}
        self._moves = Moves(self.scope, self._values)
        self._nodes = deque(function.nodes)
        self._steps: deque[Step] = deque(plan.steps[function.name])
        self._masked: dict[int, Any] = {}
        """Operands of the next step, by number, that a mask has made."""

    def declare(self) -> None:
        """Tell what calls a loop, itself among it, what it takes and gives."""
        result = self.function.result
        if self.function.is_loop and result is not None:
            pairs = zip(self.source.params, self.function.params, strict=True)
            params = [relax.Var(param.name, self._local_type(tree, param.ty)) for param, tree in pairs]
            returned = self._local_type(result, self.source.ret_ty)
            self.bb.declare(self.function.name, relax.Function.create_empty(params, returned, bool(self.source.is_pure)))

    def run(self) -> None:
        """Emit the function."""
        params = [self._param(p, tree) for p, tree in zip(self.source.params, self.function.params, strict=True)]
        attrs = {k: v for k, v in self.source.attrs.items() if k != "global_symbol"} if self.source.attrs else {}
        attrs |= {DONATED: pairs} if (pairs := self._donated()) else {}
        with self.bb.function(self.function.name, params, attrs=attrs, pure=bool(self.source.is_pure)):
            if is_dataflow(self.source.body):
                with self.bb.dataflow():
                    result = self.bb.emit_output(self._body())
            else:
                result = self._body()
            self.bb.emit_func_output(result)

    def _donated(self) -> list[list[list[int]]]:
        """The ways to each result that takes the memory of a parameter, and to that."""
        signature = self.plan.signatures[self.function.name]
        names = [name for name, _ in named_leaves(f"{self.function.name}.return", signature.outputs)]
        results = dict(zip(names, paths(signature.outputs), strict=True))
        ways = zip(paths(signature.params), leaves(signature.params), strict=True)
        return [[list(results[leaf.donated]), list(way)] for way, leaf in ways if leaf.donated]

    def _param(self, param: Any, tree: Tree[Value]) -> Any:
        made = relax.Var(param.name, self._local_type(tree, param.ty))
        self.scope.others[param] = made
        self._define(tree, made, ())
        return made

    def _local_type(self, tree: Tree[Value], ty: Any) -> Any:
        if isinstance(tree, tuple):
            return relax.TupleType([self._local_type(t, f) for t, f in zip(tree, ty.fields, strict=True)])
        if tree.kind == "tensor" and tree.dims:
            if None in tree.shape:
                self.scope.name_dims(tree, tuple(ty.shape.values[:]))
            return relax.TensorType(local_dims(self.scope.dims(tree), kept_by(self.plan, tree), self.plan.mesh), tree.dtype)
        return ty

    def _define(self, tree: Tree[Value], made: Any, path: tuple[int, ...]) -> None:
        """`tree` is the field at `path` of the parameter `made`."""
        if isinstance(tree, tuple):
            for i, part in enumerate(tree):
                self._define(part, made, (*path, i))
        elif tree.kind == "other":
            pass
        elif path:
            self.scope.hold_field(tree, kept_by(self.plan, tree), made, path)
        else:
            self.scope.hold(tree, kept_by(self.plan, tree), made)

    def _body(self) -> Any:
        self._run(())
        last = self._steps.popleft() if self._steps else None
        if not isinstance(last, Return) or self._steps:
            raise ShardingError(f"plan for {self.function.name!r}", "its steps do not end in what it returns", WAY_OUT)
        made = self.function.result
        assert made is not None
        ends = iter(enumerate(zip(last.operands, last.shardings, strict=True)))

        def end(value: Value) -> Any:
            i, (name, sharding) = next(ends)
            if name != value.path:
                raise ShardingError(f"plan for {self.function.name!r}", f"its steps return {name!r} for {value.path!r}", WAY_OUT)
            return self._operand(i, value, sharding)

        return self.scope.result(made, self.source.body.body, end)

    def _run(self, branch: Branch) -> None:
        """Write the steps of one branch (at first: of the function), which are the next ones."""
        while self._steps and branch_of(self._steps[0]) == branch and not isinstance(self._steps[0], Return):
            step = self._steps.popleft()
            if isinstance(step, Compute):
                self._compute(step)
            elif isinstance(step, Mask):
                self._masked[step.operand] = self._moves.masked(step)
            elif isinstance(step, Transfer | Bundle | Reorder):
                self._moves.emit(step)

    def _compute(self, step: Compute) -> None:
        node = self._nodes.popleft()
        taken = [self._operand(i, v, s) for i, (v, s) in enumerate(zip(node.inputs, step.inputs, strict=True))]
        self._masked.clear()
        if node.op == "argument":
            self._passed += taken
        elif node.called is not None:
            self._loop(node, node.called)
        elif node.op in PASSING:
            self.scope.hold(node.outputs[0], step.outputs[0], taken[0])
        elif node.joined is None:
            self._call(node, step, taken)
        elif node.outputs:  # what a branch gives goes on as it is
            self.scope.hold(node.outputs[0], step.outputs[0], taken[0])
        else:
            emit_if(self.scope, node, taken, {v: self._kept_as(v) for v in leaves(node.joined)}, self._run)

    def _loop(self, node: Node, called: Function) -> None:
        """Call a loop with what was passed."""
        call, operands = node.binding.value, iter(self._passed)
        args = [self.scope.substitute(arg, operands) for arg in call.args[:]]
        result = self.bb.emit(tvm.ir.Call(self.bb.declared[called.name], args, call.attrs, []), node.name)
        self._passed = []
        for value, expr in zip(called.returns, self.scope.parts(result, node.binding.var), strict=True):
            self.scope.hold(value, self._kept_as(value), expr)

    def _operand(self, i: int, value: Value, sharding: Sharding) -> Any:
        return self._masked[i] if i in self._masked else self.scope.held(value, sharding)

    def _kept_as(self, value: Value) -> Sharding:
        if value not in self._kept:
            self._kept[value] = kept_by(self.plan, value)
        return self._kept[value]

    def _call(self, node: Node, step: Compute, taken: list[Any]) -> None:
        operands = zip(node.stays, (*node.inputs, *node.outputs), (*step.inputs, *step.outputs), strict=False)
        for value, sharding in ((v, s) for stays, v, s in operands if stays and s != self._kept_as(v)):
            where = f"{self.function.name}: {node.op} {node.name!r}"
            what = f"{value.name!r} is written in place as {sharding}, and kept as {self._kept_as(value)}"
            raise ShardingError(where, what, WAY_OUT)
        result = self.calls.emit(self.scope, node, step, taken)
        made = list(self.scope.parts(result, node.binding.var))
        for i, (value, sharding, expr) in enumerate(zip(node.outputs, step.outputs, made, strict=True)):
            if value.is_tensor:
                expr = self._moves.cast(expr, value, sharding)
                if step.splits or not sharding.is_replicated:
                    self._check(node, step, i, expr)
            self.scope.hold(value, sharding, expr)

    def _check(self, node: Node, step: Compute, i: int, expr: Any) -> None:
        """Result number `i` of the local call must have the shape that the plan says: a wrong rule is found here, not in a wrong number."""
        key = (node.call_class, self.calls.number(step), i)
        if key in self.calls.checked:
            return
        self.calls.checked.add(key)
        wanted = local_dims(node.outputs[i].dims, step.outputs[i], self.plan.mesh)
        shape = expr.ty.shape
        if shape is None or (wanted and not tvm_ffi.structural_equal(relax.ShapeExpr(wanted), shape)):
            raise ShardingError(
                f"{self.function.name}: {node.op} {node.name!r}",
                f"its local call gives {expr.ty}, and the rule says {wanted}",
                "The rule of this operator is wrong; replicate it by a rule that returns None.",
            )
