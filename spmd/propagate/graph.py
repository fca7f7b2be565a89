"""From a Relax module to a `Graph`: every tensor a value, every call a node with its rule."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import tvm
import tvm_ffi
from tvm import relax

from ..errors import ShardingError
from ..expression import Dim, Rule, Shape, Size, Spec
from ..graph import Function, Graph, Node, Tree, Value, leaves, map_tree
from ..kernel import KERNEL_CALLS
from ..sharding import Sharding
from .rules import OpCall, Readings, kernel_rule, rule_of, static

_PACKED = ("relax.call_dps_packed", "relax.call_pure_packed", "relax.call_inplace_packed")


def build_graph(mod: tvm.IRModule) -> Graph:
    """The graph of all public Relax functions of `mod`. Raises `ShardingError` for what cannot be represented."""
    builder = _Builder(mod)
    public = [
        (gv.name_hint, f) for gv, f in mod.functions.items() if isinstance(f, relax.Function) and f.attrs and "global_symbol" in f.attrs
    ]
    if not public:
        raise ShardingError(
            "module", "it has no public Relax function", "Give a function a global_symbol (TVMScript does unless private=True)."
        )
    builder.public = {name for name, _ in public}
    functions = {name: builder.function(name, f) for name, f in sorted(public, key=lambda item: item[0])}
    return Graph(mod, functions, builder.finish(functions))


class _Builder:
    def __init__(self, mod: tvm.IRModule) -> None:
        self.mod = mod
        self.public: set[str] = set()
        self.kernels = {gv.name_hint for gv, f in mod.functions.items() if isinstance(f, tvm.tirx.PrimFunc)}
        self.values: list[Value] = []
        self.weights: dict[tuple[Any, ...], Value] = {}
        self.states: dict[tuple[str, Size], Value] = {}
        self.names: dict[str, dict[str, int]] = {}
        self.rules: dict[tuple[object, ...] | None, Rule | str | None] = {}
        self.readings: Readings = {}
        self.classes: dict[tuple[object, ...], int] = {}
        self.tied: dict[Value, Value] = {}
        self.unknown: set[Value] = set()
        """Temporaries whose shape is known only when the program runs."""

    def function(self, name: str, func: relax.Function) -> Function:
        num_input = int(func.attrs["num_input"]) if "num_input" in func.attrs else None
        # Keyed by hash, the identity of a variable: TVM makes a new Python object each time that one is looked at.
        env: dict[int, Tree[Value]] = {}
        params: list[Tree[Value]] = []
        seen: Counter[str] = Counter()
        for i, param in enumerate(func.params):
            weight = num_input is not None and i >= num_input
            tree = self._param(param, name, weight, seen[param.name])
            seen[param.name] += weight
            env[hash(param)] = tree
            params.append(tree)
        made = Function(name, params, num_input)
        body = func.body
        if not isinstance(body, relax.SeqExpr):
            raise ShardingError(f"function {name!r}", "its body is not normalized", "Run relax.transform.Normalize() on the module first.")
        # A slice of a container is a list, and much faster to walk than the container: here and in what follows.
        for block in body.blocks:
            for binding in block.bindings[:]:
                env[hash(binding.var)] = self._binding(binding, made, env)
        made.result = self._numbered(self._tree_of(body.body, made, env), body.body.ty, made, "result")
        return made

    def _drop_dead(self, function: Function) -> None:
        """Take out operators that nothing uses. Calls of packed functions stay: what they do is not known."""
        live = set(leaves(function.result)) if function.result is not None else set()
        kept: list[Node] = []
        for node in reversed(function.nodes):
            call = node.binding.value
            pure = isinstance(call, tvm.ir.Call) and isinstance(call.op, tvm.ir.Op) and not call.op.name.startswith("relax.call_")
            if pure and call.op.get_attr("FPurity") and not any(v in live for v in node.outputs):
                continue
            live.update(node.inputs)
            kept.append(node)
        function.nodes = kept[::-1]

    def finish(self, functions: Mapping[str, Function]) -> list[Value]:
        """Tie opaque states that must be sharded alike, and list every value that is left."""
        for f in functions.values():
            f.params = [map_tree(p, self._root) for p in f.params]
            f.result = map_tree(f.result, self._root) if f.result is not None else None
            for node in f.nodes:
                node.inputs = tuple(map(self._root, node.inputs))
                node.outputs = tuple(map(self._root, node.outputs))
        named: Counter[str] = Counter()
        for weight in (v for v in self.values if v.role == "weight"):
            named[weight.name] += 1
            if named[weight.name] > 1:  # another shape in another function, or another place in a packed tuple
                weight.name = f"{weight.name}#{named[weight.name]}"
        return [v for v in self.values if self._root(v) is v]

    def _root(self, value: Value) -> Value:
        while value in self.tied:
            value = self.tied[value]
        return value

    def _new(self, name: str, function: str, ty: Any, role: str) -> Value:
        tensor = isinstance(ty, relax.TensorType)
        kind = "tensor" if tensor else "object" if isinstance(ty, relax.AnyType) else "other"
        taken = self.names.setdefault(function, {})
        taken[name] = taken.get(name, 0) + 1
        name = name if taken[name] == 1 else f"{name}#{taken[name]}"
        dims: tuple[Any, ...] = ()
        unknown = tensor and ty.ndim != 0 and not isinstance(ty.shape, relax.ShapeExpr)
        if unknown and role == "temporary" and ty.ndim > 0:
            dims = tuple(tvm.tirx.Var(f"{name}_{i}", "int64") for i in range(ty.ndim))
        elif tensor and ty.ndim != 0:
            if unknown:
                raise ShardingError(f"{function}: value {name!r}", f"its shape is not known ({ty})", "Give it a shape with R.match_cast.")
            dims = tuple(d if (n := static(d)) is None else n for d in ty.shape.values[:])
        dtype = str(ty.dtype) if tensor else ""
        value = Value(name, function, tuple(d if isinstance(d, int) else None for d in dims), dims, dtype, kind, role)
        self.values.append(value)
        if unknown:
            self.unknown.add(value)
        return value

    def _param(self, param: Any, function: str, weight: bool, before: int) -> Tree[Value]:
        """The values of a parameter; `before` weights of its function have the same name."""

        def make(ty: Any, name: str, key: tuple[Any, ...]) -> Tree[Value]:
            if isinstance(ty, relax.TupleType):
                return tuple(make(f, f"{name}[{i}]", (*key, i)) for i, f in enumerate(ty.fields[:]))
            if weight:
                value = self._new(name, function, ty, "weight")
                shared = self.weights.setdefault((*key, value.shape, value.dtype), value)
                if shared is not value:
                    self.values.pop()
                return shared
            return self._new(name, function, ty, "input")

        return make(param.ty, param.name, (param.name, before))

    def _binding(self, binding: Any, made: Function, env: dict[int, Tree[Value]]) -> Tree[Value]:
        value = binding.value
        if isinstance(binding, relax.VarBinding) and not isinstance(value, tvm.ir.Call | relax.If | relax.Function):
            tree = self._numbered(self._tree_of(value, made, env), value.ty, made, binding.var.name)
            if isinstance(tree, Value) and tree.role == "weight":
                self._rename(tree, binding.var.name)
            return tree
        inputs = [leaf for arg in _tensor_args(value) for leaf in leaves(self._tree_of(arg, made, env))]
        inputs = [v for v in inputs if v.kind != "other"]
        tree = self._results(binding.var, made.name)
        node = self._node(binding, made, tuple(inputs), tuple(v for v in leaves(tree) if v.kind != "other"))
        made.nodes.append(node)
        for spec, operand in [*zip(node.rule.inputs, node.inputs, strict=True), *zip(node.rule.outputs, node.outputs, strict=True)]:
            if operand.kind == "object" and spec:
                self._tie(operand, node.rule.sizes[spec[0][0][0]])
        return tree

    def _numbered(self, tree: Tree[Value], ty: Any, made: Function, name: str) -> Tree[Value]:
        """`tree` with a value for each shape and number that is written out, which a function may return."""
        if isinstance(ty, relax.TupleType) and isinstance(tree, tuple):
            return tuple(self._numbered(t, f, made, f"{name}[{i}]") for i, (t, f) in enumerate(zip(tree, ty.fields, strict=True)))
        return self._new(name, made.name, ty, "temporary") if tree == () and isinstance(ty, relax.ShapeType | tvm.ir.PrimType) else tree

    @staticmethod
    def _rename(weight: Value, name: str) -> None:
        """A field of a packed tuple is named by the shortest of the names that functions give it."""
        if "[" in weight.name or (weight.packed and (len(name), name) < (len(weight.name), weight.name)):
            weight.name, weight.packed = name, True

    def _results(self, var: Any, function: str) -> Tree[Value]:
        def make(ty: Any, name: str) -> Any:
            if isinstance(ty, relax.TupleType):
                return tuple(make(f, f"{name}[{i}]") for i, f in enumerate(ty.fields[:]))
            return self._new(name, function, ty, "temporary")

        return make(var.ty, var.name)

    def _tie(self, state: Value, size: Size) -> None:
        first = self.states.setdefault(("state", size), state)
        if self._root(first) is not self._root(state):
            self.tied[self._root(state)] = self._root(first)

    def _tree_of(self, expr: Any, made: Function, env: dict[int, Tree[Value]]) -> Tree[Value]:
        """The values behind an argument; shapes and scalars have none."""
        if isinstance(expr, tvm.ir.Var):
            return env.get(hash(expr), ())
        if isinstance(expr, relax.Tuple):
            return tuple(self._tree_of(f, made, env) for f in expr.fields[:])
        if isinstance(expr, relax.TupleGetItem):
            tree = self._tree_of(expr.tuple_value, made, env)
            assert isinstance(tree, tuple)
            return tree[expr.index]
        if isinstance(expr, tvm.ir.GenericConst) and isinstance(expr.ty, relax.TensorType):
            value = self._new("constant", made.name, expr.ty, "constant")
            value.data, value.wanted, value.reason = expr, Sharding.replicated(len(value.shape)), "constants are whole"
            return value
        if isinstance(expr, tvm.ir.Call):
            raise ShardingError(
                f"{made.name}: {expr}", "a call stands inside another expression", "Run relax.transform.Normalize() on the module first."
            )
        return ()

    def _rule_key(self, op: OpCall, dtypes: tuple[str, ...]) -> tuple[object, ...] | None:
        """Calls with equal keys have equal rules; None where a rule may look at more than these."""
        call = op.call
        if not isinstance(call, tvm.ir.Call) or not isinstance(call.op, tvm.ir.Op) or call.op.name in _PACKED:
            return None
        attrs = None if call.attrs is None else tvm_ffi.StructuralKey(call.attrs)
        args = tuple(map(_argument_key, call.args[:]))
        return (op.name, attrs, args, dtypes, tuple(map(_dims_key, op.input_dims)), tuple(map(_dims_key, op.output_dims)))

    def _node(self, binding: Any, made: Function, inputs: tuple[Value, ...], outputs: tuple[Value, ...]) -> Node:
        call, kernel, why = binding.value, None, ""
        name = _op_name(call)
        if isinstance(binding, relax.MatchCast):
            name = "match_cast"
        if name in KERNEL_CALLS and call.args[0].name_hint in self.kernels:
            kernel = self.mod[call.args[0]]
        op = OpCall(
            name,
            call,
            tuple(v.shape for v in inputs),
            tuple(v.shape for v in outputs),
            tuple(v.dims for v in inputs),
            tuple(v.dims for v in outputs),
            kernel,
        )
        key = self._rule_key(op, tuple(v.dtype for v in (*inputs, *outputs)))
        found: Rule | str | None
        unknown = next((v for v in (*inputs, *outputs) if v in self.unknown), None)
        if unknown is not None and name != "match_cast":
            found = f"the shape of {unknown.name!r} is known only when it runs"
        elif key in self.rules:
            found = self.rules[key]
        else:
            found = kernel_rule(op, self.readings) if name in KERNEL_CALLS else rule_of(op)
            if key is not None:
                self.rules[key] = found
        if isinstance(found, str):
            found, why = None, found
        if found is None:
            why = why or f"{name} has no rule"
            if isinstance(call, tvm.ir.Call) and isinstance(call.op, tvm.ir.GlobalVar) and call.op.name_hint in self.public:
                raise ShardingError(
                    f"{made.name}: {binding.var.name!r}",
                    f"it calls the public function {call.op.name_hint!r}",
                    "Make the callee private, or inline it.",
                )
            found = _whole_rule(op)
        number = self.classes.setdefault((key,) if key is not None else (len(self.classes), "alone"), len(self.classes))
        return Node(name, binding.var.name, made.name, found, inputs, outputs, binding, number, why)


def _argument_key(arg: Any) -> object:
    """What a rule can see of an argument: of tensors nothing, as their shapes are there already."""
    if isinstance(arg, relax.Tuple):
        return tuple(map(_argument_key, arg.fields[:]))
    if isinstance(arg, tvm.ir.Var | relax.TupleGetItem | tvm.ir.GenericConst):
        return "" if isinstance(arg.ty, relax.TensorType | relax.TupleType) else hash(arg)
    return arg.name_hint if isinstance(arg, tvm.ir.GlobalVar) else tvm_ffi.StructuralKey(arg)


def _dims_key(dims: tuple[Any, ...]) -> tuple[object, ...]:
    return tuple(d if isinstance(d, int) else hash(d) if isinstance(d, tvm.ir.Var) else tvm_ffi.StructuralKey(d) for d in dims)


def _op_name(call: Any) -> str:
    if not isinstance(call, tvm.ir.Call):
        return type(call).__name__
    op = call.op
    if isinstance(op, tvm.ir.Op):
        return str(call.args[0].global_symbol) if op.name in _PACKED and isinstance(call.args[0], relax.ExternFunc) else op.name
    return op.name_hint if isinstance(op, tvm.ir.GlobalVar) else str(op)


def _tensor_args(value: Any) -> Iterable[Any]:
    if isinstance(value, tvm.ir.Call):
        return value.args[:]
    if isinstance(value, tvm.ir.Var | relax.Tuple | relax.TupleGetItem):
        return [value]
    return relax.analysis.free_vars(value)


def _whole_rule(op: OpCall) -> Rule:
    """Every dimension of every tensor whole."""
    sizes: dict[str, Size] = {}

    def spec(shape: Shape) -> Spec:
        dims: list[Dim] = []
        for size in shape:
            name = f"w{len(sizes)}"
            sizes[name] = size
            dims.append(((name,),))
        return tuple(dims)

    return Rule(tuple(map(spec, op.inputs)), tuple(map(spec, op.outputs)), sizes, whole=frozenset(sizes), reduce=None)
