"""From a Relax module to a `Graph`: every tensor a value, every call a node with its rule."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import tvm
from tvm import relax

from spmd.errors import ShardingError
from spmd.ir.lift import constants_of
from spmd.ir.per_worker import WORKERS, already, is_collective
from spmd.ir.trees import Tree, leaves, map_tree
from spmd.rules.families.call_tir import Readings, kernel_rule
from spmd.rules.kernel import KERNEL_CALLS
from spmd.rules.model import Rule
from spmd.rules.registry import OpCall, check_rule, rule_of

from .divisible import Divisible, in_blocks
from .graph import Branch, Function, Graph, Node, Value
from .liveness import drop_dead
from .loops import loops
from .opaque import check_body, check_opaque, why_opaque
from .opcalls import join_rule, op_name, pass_rule, rule_key, tensor_args, whole_rule
from .states import fit_states, state_sizes
from .storage import mark_written
from .values import Values


def build_graph(mod: tvm.IRModule, divisible: Divisible | None = None) -> Graph:
    """The graph of all public Relax functions of `mod`, and of the loops that they call; `divisible` says by what symbolic sizes can be
    divided, by name.

    Raises `ShardingError` for what cannot be represented.
    """
    builder = _Builder(mod, divisible or {})
    public = [
        (gv.name_hint, f) for gv, f in mod.functions.items() if isinstance(f, relax.Function) and f.attrs and "global_symbol" in f.attrs
    ]
    if not public:
        raise ShardingError(
            "module", "it has no public Relax function", "Give a function a global_symbol (TVMScript does unless private=True)."
        )
    builder.public = {name for name, _ in public}
    found = loops(mod, builder.public)
    check_opaque(mod, builder.public | found.keys())
    builder.loops = {name: builder.loop(name, f) for name, f in found.items()}
    functions = {name: builder.function(name, f) for name, f in sorted(public, key=lambda item: item[0])}
    functions |= {name: builder.looped(made, found[name]) for name, made in builder.loops.items()}
    values = builder.finish(functions)
    mark_written(functions, mod, lambda: builder.number(None))
    return Graph(mod, functions, values)


class _Builder:
    def __init__(self, mod: tvm.IRModule, divisible: Divisible) -> None:
        self.mod, self.divisible = mod, divisible
        self.public: set[str] = set()
        self.loops: dict[str, Function] = {}
        self.kernels = {gv.name_hint for gv, f in mod.functions.items() if isinstance(f, tvm.tirx.PrimFunc)}
        self.values = Values(divisible)
        self.branching: dict[str, Counter[str]] = {}
        """The names of the Ifs of each function."""
        self.rules: dict[tuple[object, ...], tuple[Rule, str, int]] = {}
        """The rule of each class of calls, why it is none where there is none, and the number of the class."""
        self.readings: Readings = {}
        self.classes: dict[tuple[object, ...], int] = {}
        self.branch: Branch = ()
        """Where the walk is."""

    def function(self, name: str, func: relax.Function) -> Function:
        num_input = int(func.attrs["num_input"]) if "num_input" in func.attrs else None
        # Keyed by hash, the identity of a variable: TVM makes a new Python object each time that one is looked at.
        env: dict[int, Tree[Value]] = {}
        params: list[Tree[Value]] = []
        constants = len(constants_of(func))
        inputs = len(func.params) - constants if num_input is None else min(num_input, len(func.params) - constants)
        seen: Counter[str] = Counter()
        for i, param in enumerate(func.params):
            weight = i >= inputs
            tree = self.values.param(param, name, weight, seen[param.name])
            seen[param.name] += weight
            env[hash(param)] = tree
            params.append(tree)
        if WORKERS in func.attrs:
            raise ShardingError(f"function {name!r}", *already(f"it was sharded over {func.attrs[WORKERS]} workers"))
        made = Function(name, params, num_input, constants)
        made.result = self._body(func.body, made, env, "result")
        drop_dead(made)
        return made

    def loop(self, name: str, func: relax.Function) -> Function:
        """A loop without its operators: what it takes, and what it returns."""
        made = Function(name, [self.values.carried(param, name) for param in func.params], None, is_loop=True)
        made.result = self.values.results("return", func.ret_ty, name)
        return made

    def looped(self, made: Function, func: relax.Function) -> Function:
        """The same with its operators."""
        env = {hash(param): tree for param, tree in zip(func.params, made.params, strict=True)}
        last = func.body.blocks[-1].bindings[-1] if func.body.blocks else None
        given, result = self._body(func.body, made, env, "result"), made.result
        assert result is not None
        for value, end in zip(leaves(given), leaves(result), strict=True):
            made.nodes.append(self._passing("give", last, made, value, end, (False, True)))
        drop_dead(made)
        return made

    def _loop_call(self, binding: Any, name: str, inputs: Sequence[Value], outputs: Sequence[Value], made: Function) -> None:
        """The nodes of a call of a loop: what it passes becomes the loop's parameters, what the loop returns the results."""
        called = self.loops[name]
        assert called.result is not None
        for value, param in zip(inputs, leaves(tuple(called.params)), strict=True):
            # Weights of all layers are not gathered: each turn takes what it needs of them.
            stays = value.role == "weight" and None not in value.shape
            made.nodes.append(self._passing("argument", binding, made, value, param, (stays, True)))
        number = self.number(("call", name))
        call = Node(name, str(binding.var.name), made.name, whole_rule([], []), (), (), binding, number, "", self.branch, called)
        made.nodes.append(call)
        for returned, value in zip(leaves(called.result), outputs, strict=True):
            made.nodes.append(self._passing("result", binding, made, returned, value, (True, False)))

    def _passing(self, op: str, binding: Any, made: Function, value: Value, into: Value, stays: tuple[bool, bool]) -> Node:
        """A node that makes of a value one of another function."""
        number = self.number((op, value.type_class, into.type_class, stays))
        return Node(op, into.name, made.name, pass_rule(into.shape), (value,), (into,), binding, number, "", self.branch, stays=stays)

    def _body(self, body: relax.SeqExpr, made: Function, env: dict[int, Tree[Value]], name: str) -> Tree[Value]:
        """Add the nodes of `body`, and give what it gives."""
        # A slice of a container is a list, and much faster to walk than the container: here and in what follows.
        for block in body.blocks:
            for binding in block.bindings[:]:
                env[hash(binding.var)] = self._binding(binding, made, env)
        return self.values.numbered(self._tree_of(body.body, made, env), body.body.ty, made.name, name)

    def finish(self, functions: Mapping[str, Function]) -> list[Value]:
        """Tie opaque states that must be sharded alike, and list every value that is left."""
        for f in functions.values():
            f.params = [map_tree(p, self.values.root) for p in f.params]
            f.result = map_tree(f.result, self.values.root) if f.result is not None else None
            for node in f.nodes:
                node.inputs = tuple(map(self.values.root, node.inputs))
                node.outputs = tuple(map(self.values.root, node.outputs))
                node.joined = map_tree(node.joined, self.values.root) if node.joined is not None else None
        sizes = state_sizes([n for f in functions.values() for n in f.nodes], self.values.root)
        for node in (n for f in functions.values() for n in f.nodes if any(v.kind == "object" for v in (*n.inputs, *n.outputs))):
            rule = fit_states(node, sizes)
            if rule is not node.rule:
                node.rule, node.call_class = rule, self.number(None)
        return self.values.finish()

    def _binding(self, binding: Any, made: Function, env: dict[int, Tree[Value]]) -> Tree[Value]:
        value = binding.value
        if not isinstance(value, tvm.ir.Call):
            if isinstance(value, relax.If):
                return self._if(binding, made, env)
            if isinstance(binding, relax.VarBinding) and not isinstance(value, relax.Function):
                return self._alias(binding.var.name, value, made, env)
        if isinstance(value, relax.Function):
            check_body(value, f"function {binding.var.name!r} in {made.name!r}", "functions inside of others run whole on every worker")
        args = tensor_args(value)
        inputs = [v for arg in args for v in leaves(self._tree_of(arg, made, env)) if v.kind != "other"]
        var = binding.var
        name = str(var.name)  # a plain one: a string of TVM's holds on to an object
        tree = self.values.results(name, var.ty, made.name)
        outputs = tuple([v for v in leaves(tree) if v.kind != "other"])
        if isinstance(value, tvm.ir.Call) and isinstance(value.op, tvm.ir.GlobalVar) and value.op.name_hint in self.loops:
            self._loop_call(binding, value.op.name_hint, inputs, outputs, made)
            return tree
        node = self._node(binding, name, args, made, tuple(inputs), outputs)
        made.nodes.append(node)
        for specs, operands in ((node.rule.inputs, node.inputs), (node.rule.outputs, node.outputs)):
            for spec, operand in zip(specs, operands, strict=True):
                size = node.rule.sizes[spec[0][0][0]] if operand.kind == "object" and spec else None
                if size is not None:
                    self.values.tie_state(operand, size)
        return tree

    def _alias(self, name: str, value: Any, made: Function, env: dict[int, Tree[Value]]) -> Tree[Value]:
        """What is only bound to another name, or put into a tuple."""
        tree = self.values.numbered(self._tree_of(value, made, env), value.ty, made.name, name)
        if isinstance(tree, Value) and tree.role == "weight":
            self._rename(tree, name)
        return tree

    def _if(self, binding: Any, made: Function, env: dict[int, Tree[Value]]) -> Tree[Value]:
        """The nodes of an If, of its branches, and of what both give."""
        call, outside = binding.value, self.branch
        seen = self.branching.setdefault(made.name, Counter())
        seen[binding.var.name] += 1
        name = binding.var.name if seen[binding.var.name] == 1 else f"{binding.var.name}#{seen[binding.var.name]}"
        condition = [v for v in leaves(self._tree_of(call.cond, made, env)) if v.kind != "other"]
        joined = self.values.results(binding.var.name, binding.var.ty, made.name)
        # Every worker must take the same branch, so each has the whole condition.
        rule = replace(whole_rule([v.shape for v in condition], []), work="view")
        number = self.number(("If", *(v.shape for v in condition)))
        made.nodes.append(Node("If", name, made.name, rule, tuple(condition), (), binding, number, "", outside, joined=joined))
        for taken, body in ((True, call.true_branch), (False, call.false_branch)):
            self.branch = (*outside, (name, taken))
            given = self._body(body, made, env, name)
            for value, into in _pairs(given, joined):
                if into.kind == "object":
                    self.values.tie(into, value)
                elif into.is_tensor:
                    made.nodes.append(self._join(binding, made, value, into, joined))
        self.branch = outside
        return joined

    def _join(self, binding: Any, made: Function, value: Value, into: Value, joined: Tree[Value]) -> Node:
        unknown = next((v for v in (value, into) if v in self.values.unknown), None)
        if unknown is None:
            rule = in_blocks(join_rule(into.shape), (into.dims, into.dims), self.divisible)
            why, number = "", self.number(("join", into.type_class))
        else:
            rule, why = whole_rule([value.shape], [into.shape]), f"the shape of {unknown.name!r} is known only when it runs"
            number = self.number(None)
        return Node("join", into.name, made.name, rule, (value,), (into,), binding, number, why, self.branch, joined=joined)

    def number(self, key: tuple[object, ...] | None) -> int:
        """The number of a class of calls; None is like no other."""
        return self.classes.setdefault((key,) if key is not None else (len(self.classes), "alone"), len(self.classes))

    @staticmethod
    def _rename(weight: Value, name: str) -> None:
        """A field of a packed tuple is named by the shortest of the names that functions give it."""
        if "[" in weight.name or (weight.packed and (len(name), name) < (len(weight.name), weight.name)):
            weight.name, weight.packed = name, True

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
            return self.values.constant(expr, made.name)
        if isinstance(expr, tvm.ir.Call):
            raise ShardingError(
                f"{made.name}: {expr}", "a call stands inside another expression", "Run relax.transform.Normalize() on the module first."
            )
        return ()

    def _node(
        self, binding: Any, var: str, args: Sequence[Any], made: Function, inputs: tuple[Value, ...], outputs: tuple[Value, ...]
    ) -> Node:
        call = binding.value
        name = "match_cast" if isinstance(binding, relax.MatchCast) else op_name(call, args)
        key = rule_key(name, call, args, inputs, outputs)
        known = self.rules.get(key) if key is not None else None
        if known is None:
            if is_collective(name):
                raise ShardingError(f"{made.name}: {var!r}", *already(f"it has the collective {name.removeprefix('relax.')}"))
            rule, why = self._rule(name, call, inputs, outputs)
            if rule is None and name in self.public and isinstance(call, tvm.ir.Call) and isinstance(call.op, tvm.ir.GlobalVar):
                raise ShardingError(
                    f"{made.name}: {var!r}", f"it calls the public function {name!r}", "Make the callee private, or inline it."
                )
            known = (rule or whole_rule([v.shape for v in inputs], [v.shape for v in outputs]), why, self.number(key))
            if key is not None:
                self.rules[key] = known
        rule, why, number = known
        return Node(name, var, made.name, rule, inputs, outputs, binding, number, why, self.branch)

    def _rule(self, name: str, call: Any, inputs: tuple[Value, ...], outputs: tuple[Value, ...]) -> tuple[Rule | None, str]:
        """The rule of a call, or why it has none."""
        unknown = next((v for v in (*inputs, *outputs) if v in self.values.unknown), None)
        if unknown is not None and name != "match_cast":
            return None, f"the shape of {unknown.name!r} is known only when it runs"
        kernel = self.mod[call.args[0]] if name in KERNEL_CALLS and call.args[0].name_hint in self.kernels else None
        op = OpCall(
            name,
            call,
            tuple([v.shape for v in inputs]),
            tuple([v.shape for v in outputs]),
            tuple([v.dims for v in inputs]),
            tuple([v.dims for v in outputs]),
            kernel,
            tuple([v.kind == "object" for v in inputs]),
            tuple([v.kind == "object" for v in outputs]),
        )
        found = kernel_rule(op, self.readings) if name in KERNEL_CALLS else rule_of(op)
        if found is None or isinstance(found, str):
            opaque = why_opaque(self.mod, name) if isinstance(call, tvm.ir.Call) and isinstance(call.op, tvm.ir.GlobalVar) else ""
            return None, found or opaque or f"{name} has no rule"
        if name not in KERNEL_CALLS:
            check_rule(name, found, *([(v.name, v.shape if v.is_tensor else None) for v in values] for values in (inputs, outputs)))
            found = in_blocks(found, (*op.input_dims, *op.output_dims), self.divisible)
        return found, ""


def _pairs(given: Tree[Value], joined: Tree[Value]) -> Iterator[tuple[Value, Value]]:
    """What a branch gives, and what it is after the If; shapes and numbers that are written out are left out."""
    if isinstance(given, tuple) and isinstance(joined, tuple):
        for value, into in zip(given, joined, strict=True):
            yield from _pairs(value, into)
    elif isinstance(given, Value) and isinstance(joined, Value):
        yield given, joined
