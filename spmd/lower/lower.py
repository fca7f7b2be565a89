"""All functions of a module lowered by a plan."""

from __future__ import annotations

import tvm
from tvm import relax

from ..errors import ShardingError
from ..graph import Graph
from ..plan import Plan
from .calls import CallLowering
from .function import FunctionLowering


def lower_graph(graph: Graph, plan: Plan) -> tvm.IRModule:
    """The per-worker module of `graph` under `plan`: ordinary Relax with local shapes and ``R.spmd.*`` collectives.

    The graph's module is not changed. Raises `ShardingError` when the plan was made for another module.
    """
    if list(plan.functions) != list(graph.functions):
        raise ShardingError(
            "plan",
            f"it is for the functions {list(plan.functions)}, the module has {list(graph.functions)}",
            "Plan this module with spmd.plan().",
        )
    builder = relax.BlockBuilder()
    calls = CallLowering(graph, builder, plan.mesh)
    for name, function in graph.functions.items():
        if len(plan.choices[name]) != len(function.nodes):
            raise ShardingError(
                f"plan for {name!r}",
                f"it has {len(plan.choices[name])} operators, the module has {len(function.nodes)}",
                "Plan this module with spmd.plan().",
            )
        FunctionLowering(builder, function, graph.module[name], plan, calls).run()
    lowered = builder.finalize()
    return lowered.with_attrs(dict(graph.module.attrs.items())) if graph.module.attrs else lowered
