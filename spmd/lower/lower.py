"""All functions of a module lowered by a plan."""

from __future__ import annotations

from itertools import chain

import tvm

from spmd.ir.builder import Builder
from spmd.ir.per_worker import WORKERS, sign_of
from spmd.ir.trees import leaves
from spmd.plan.model import Plan
from spmd.plan.steps import Bundle, Compute, Transfer, computes
from spmd.program.graph import Graph

from .calls import CallLowering
from .function import FunctionLowering


def lower_graph(graph: Graph, plan: Plan) -> tvm.IRModule:
    """The per-worker module of `graph` under `plan`: ordinary Relax with local shapes and ``R.spmd.*`` collectives.

    The graph's module is not changed. The plan is one for it: see `check_plan`.
    """
    builder = Builder()
    calls = CallLowering(graph, builder, plan.mesh)
    functions = [FunctionLowering(builder, function, graph.module[name], plan, calls) for name, function in graph.functions.items()]
    for function in functions:
        function.declare()
    for function in functions:
        function.run()
    lowered = builder.finalize()
    for var in [lowered.get_global_var(name) for name in graph.functions if not _sends(plan, name) and _is_split(plan, name)]:
        if not sign_of(lowered[var]):
            lowered.update_func(var, lowered[var].with_attr(WORKERS, plan.mesh.size))
    return lowered.with_attrs(dict(graph.module.attrs.items())) if graph.module.attrs else lowered


def _sends(plan: Plan, function: str) -> bool:
    """Whether a function has collectives: they say themselves that it is one worker's."""
    return any(isinstance(step, Transfer | Bundle) or (isinstance(step, Compute) and step.exchanges) for step in plan.steps[function])


def _is_split(plan: Plan, function: str) -> bool:
    """Whether a worker holds less of anything in a function than there is."""
    signature = plan.signatures[function]
    ends = [leaf.sharding for leaf in leaves((*signature.params, signature.outputs)) if leaf.sharding is not None]
    within = (s for step in computes(plan.steps[function]) for s in (*step.inputs, *step.outputs))
    return any(not s.is_replicated for s in chain(ends, within))
