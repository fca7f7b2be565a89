"""Each operator of a module in a function of its own, as the oracle takes them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import tvm
from tvm import relax

from spmd.costs.planning_sizes import symbols_of
from spmd.ir.builder import Builder
from spmd.ir.inline import inlined
from spmd.program.build import build_graph
from spmd.program.graph import Graph, Node

_SIZE = 6
"""What a symbolic size is where an operator alone does not tell it by what it takes: most meshes divide it."""
_NO_OPERATORS = ("match_cast", "If", "join", "relax.spmd.hint")


def operators_alone(mod: tvm.IRModule) -> tuple[tvm.IRModule, dict[str, str]]:
    """`mod` with a function ``main_lv3`` for each operator of a function that has several, of equal calls the first; functions of one
    operator stay as they are. Also, by function and operator, why some cannot be tried: they take what is no tensor.
    """
    mod = inlined(mod)
    graph = build_graph(mod)
    if all(len(f.nodes) == 1 for f in graph.functions.values()):
        return mod, {}
    if any(len(f.nodes) > 1 for f in graph.functions.values()) and symbols_of(mod):
        mod = _sized(mod, {name for name, f in graph.functions.items() if len(f.nodes) > 1})
        graph = build_graph(mod)
    builder, untried = Builder(), dict[str, str]()
    kernels = {var: f for var, f in mod.functions_items() if not isinstance(f, relax.Function)}
    for node in _distinct(graph):
        name = re.sub(r"\W", "_", f"{node.function}_{node.name}")
        if (why := _untold(node)) is not None:
            untried[f"{node.op} {node.name!r} in {node.function!r}"] = why
        else:
            _emit(builder, name, node)
    alone = dict(builder.finalize().functions_items())
    single = {mod.get_global_var(n): mod[n] for n, f in graph.functions.items() if len(f.nodes) == 1}
    return tvm.IRModule({**kernels, **single, **alone}, attrs=mod.attrs), untried


def _distinct(graph: Graph) -> Iterable[Node]:
    """One operator of each class, of functions with several."""
    found: dict[int, Node] = {}
    for function in graph.functions.values():
        if len(function.nodes) > 1:
            for node in function.nodes:
                if node.op not in _NO_OPERATORS:
                    found.setdefault(node.call_class, node)
    return found.values()


def _untold(node: Node) -> str | None:
    """Why an operator cannot be tried alone; None where it can."""
    call = node.binding.value
    if not isinstance(call, tvm.ir.Call) or isinstance(call.op, tvm.ir.GlobalVar | tvm.ir.Var):
        return "it is a call of a function"
    if any(not v.is_tensor for v in (*node.inputs, *node.outputs)):
        return "it takes or gives what is no tensor"
    return None


def _sized(mod: tvm.IRModule, names: set[str]) -> tvm.IRModule:
    """`mod` with a number for each symbolic size of these functions."""
    made = tvm.IRModule(dict(mod.functions_items()), attrs=mod.attrs, global_infos=mod.global_infos)
    for name in names:
        function = mod[name]
        symbols = relax.analysis.defined_symbolic_vars(function)
        made.update_func(made.get_global_var(name), function.bind_symbolic_vars(dict.fromkeys(symbols, _SIZE)))
    return made


def _emit(builder: relax.BlockBuilder, name: str, node: Node) -> None:
    """A function of the operator alone, with a parameter for each tensor (or tuple of them) that it takes."""
    call, params = node.binding.value, dict[int, Any]()

    def own(expr: Any) -> Any:
        if isinstance(expr, relax.Tuple):
            return relax.Tuple([own(field) for field in expr.fields])
        if not isinstance(expr, tvm.ir.Expr) or not isinstance(expr.ty, relax.TensorType | relax.TupleType):
            return expr
        key = hash(expr)  # the address in C++: Python has a new object each time that it is asked for
        if key not in params:
            params[key] = relax.Var(f"x{len(params)}", expr.ty)
        return params[key]

    made = tvm.ir.Call(call.op, [own(arg) for arg in call.args], call.attrs, call.ty_args)
    with builder.function(name, list(params.values())):
        with builder.dataflow():
            result = builder.emit_output(made)
        builder.emit_func_output(result)
