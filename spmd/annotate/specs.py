"""Specs by name become hard constraints on the graph's values."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase

from ..errors import ShardingError, nearest
from ..graph import Graph, Node, Tree, Value, leaves
from ..mesh import Mesh
from ..sharding import P, Sharding
from .hint import HINT, read_hint

Specs = Mapping[str, P]
"""Pattern -> spec. A pattern (``*``, ``?``, ``[]`` as in file names) matches weights by name (``*.q_proj.weight``), inputs as
``function.input``, values inside as ``function.value``, and results as ``function.return`` or ``function.return[i]``."""


def annotate(graph: Graph, mesh: Mesh, specs: Specs | None) -> Graph:
    """Record on `graph` what `specs` ask for, then the defaults: what a function takes and returns is whole, unless it has no
    `num_input` attribute, when its arguments are free.

    Raises `ShardingError` for a spec that matches nothing, does not fit its value, or contradicts another.
    """
    specs = dict(specs or {})
    names: dict[str, Value] = {_name(v): v for v in graph.values if v.is_tensor and v.role != "constant"}
    results: dict[str, Value] = {}
    for f in graph.functions.values():
        for path, value in _results(f"{f.name}.return", f.result if f.result is not None else ()):
            if value.is_tensor:
                results[path] = value
    ends: dict[str, tuple[str, Sharding]] = {}
    for pattern, spec in specs.items():
        if not isinstance(spec, P):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ShardingError(f"specs[{pattern!r}]", f"{spec!r} is no spmd.P", "Write P('tp', None).")
        hits = [n for n in names if n == pattern or fnmatchcase(n, pattern)]
        ending = [n for n in results if n == pattern or fnmatchcase(n, pattern)]
        if not hits and not ending:
            raise ShardingError(f"specs[{pattern!r}]", "it matches no weight, input, value or result", nearest(pattern, [*names, *results]))
        for name in hits:
            value = names[name]
            _want(value, spec.sharding(value.shape, mesh, f"specs[{pattern!r}] on {name!r}"), f"specs[{pattern!r}] asks for {spec}")
        for path in ending:
            value = results[path]
            sharding = spec.sharding(value.shape, mesh, f"specs[{pattern!r}] on {path!r}")
            if path in ends and ends[path][1] != sharding:
                raise ShardingError(
                    path, f"specs[{ends[path][0]!r}] asks for {ends[path][1]}, specs[{pattern!r}] for {sharding}", "Keep one of them."
                )
            ends[path] = (pattern, sharding)
    for f in graph.functions.values():
        free = f.num_input is None
        for value in (v for p in f.params for v in leaves(p)):
            if value.role == "input" and value.wanted is None and value.is_tensor and not free:
                value.wanted, value.reason = Sharding.replicated(len(value.shape)), "inputs are whole unless specs say otherwise"
        for path, value in _results(f"{f.name}.return", f.result if f.result is not None else ()):
            if not value.is_tensor:
                f.at_end.append((value, None, ""))
            elif path in ends:
                f.at_end.append((value, ends[path][1], f"specs[{ends[path][0]!r}] asks for {ends[path][1]} at the end"))
            else:
                f.at_end.append((value, Sharding.replicated(len(value.shape)), "results are whole unless specs say otherwise"))
        for node in f.nodes:
            _hinted(node, mesh)
    return graph


def _hinted(node: Node, mesh: Mesh) -> None:
    if node.op == HINT:
        spec = read_hint(node.binding.value)
        (value,) = node.outputs
        where = f"hint on {node.inputs[0].name!r} in {node.function!r}"
        _want(value, spec.sharding(value.shape, mesh, where), f"spmd.hint asks for {spec}")


def _want(value: Value, sharding: Sharding, reason: str) -> None:
    if value.wanted is not None and value.wanted != sharding:
        raise ShardingError(_name(value), f"{value.reason}, and {reason}", "Keep one of them.")
    value.wanted, value.reason = sharding, reason


def _name(value: Value) -> str:
    return value.name if value.role == "weight" else f"{value.function}.{value.name}"


def _results(path: str, tree: Tree[Value]) -> list[tuple[str, Value]]:
    if isinstance(tree, tuple):
        return [pair for i, part in enumerate(tree) for pair in _results(f"{path}[{i}]", part)]
    return [(path, tree)]
