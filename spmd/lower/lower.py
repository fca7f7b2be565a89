"""All functions of a module lowered by a plan."""

from __future__ import annotations

import tvm

from ..builder import Builder
from ..graph import Graph
from ..plan import Plan
from .calls import CallLowering
from .function import FunctionLowering


def lower_graph(graph: Graph, plan: Plan) -> tvm.IRModule:
    """The per-worker module of `graph` under `plan`: ordinary Relax with local shapes and ``R.spmd.*`` collectives.

    The graph's module is not changed. The plan is one for it: see `check_plan`.
    """
    builder = Builder()
    calls = CallLowering(graph, builder, plan.mesh)
    for name, function in graph.functions.items():
        FunctionLowering(builder, function, graph.module[name], plan, calls).run()
    lowered = builder.finalize()
    return lowered.with_attrs(dict(graph.module.attrs.items())) if graph.module.attrs else lowered
