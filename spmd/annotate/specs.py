"""Specs by name become hard constraints on the graph's values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, cast

from spmd.checks import told
from spmd.errors import ShardingError, nearest
from spmd.ir.trees import leaves, named_leaves
from spmd.placement.mesh import Mesh
from spmd.placement.sharding import Sharding
from spmd.placement.spec import Constraint, P, Remat, Same, Spec
from spmd.program.graph import Function, Graph, Node, Value

from .hint import HINT, read_hint

Specs = Mapping[str, Spec]
"""Pattern -> spec. A pattern (``*``, ``?``, ``[]`` as in file names) matches weights by name (``*.q_proj.weight``), inputs as
``function.input``, values inside as ``function.value``, and results as ``function.return`` or ``function.return[i]``; `same` is for
results alone. What is the name of something, to the letter, matches nothing else. Where weights are packed in a tuple, dots in their
names stand for underscores."""


def specs_of(where: str, given: Any) -> Specs | None:
    """Specs as they were given, as a check of arguments: a mapping from patterns to `P`."""
    if given is None:
        return None
    example = "Write specs={'*.weight': P('tp', None)}."
    if isinstance(given, str) or hasattr(given, "link_bandwidth"):
        example = f"A profile is named: write profile={getattr(given, 'name', given)!r}."
    if not isinstance(given, Mapping):
        raise ShardingError(where, f"it takes a mapping from names to P, and got {told(given)}", example)
    for pattern, spec in cast("Mapping[Any, Any]", given).items():
        if not isinstance(pattern, str):
            raise ShardingError(where, f"{told(pattern)} stands where the name of a value goes", example)
        if not isinstance(spec, P | Same | Remat):
            raise ShardingError(f"specs[{pattern!r}]", f"{spec!r} is no spmd.P", _instead_of_spec(spec))
    return cast("Specs", given)


def _instead_of_spec(given: Any) -> str:
    """What to write in the place of what is no `P`."""
    if given is None or isinstance(given, str) or (isinstance(given, tuple | list) and _is_plain(cast("Sequence[Any]", given))):
        entries = given if isinstance(given, tuple | list) else (given,)
        return f"Write P({', '.join(map(repr, cast('Sequence[Any]', entries)))})."
    if any("PartitionSpec" in str(getattr(kind, "__qualname__", "")) or kind.__module__.startswith("jax") for kind in type(given).__mro__):
        return "spmd.annotate.importers.from_jax reads those of JAX."
    return "Write P('tp', None)."


def _is_plain(entries: Sequence[Any]) -> bool:
    return all(entry is None or isinstance(entry, str) for entry in entries)


def annotate(graph: Graph, mesh: Mesh, specs: Specs | None) -> Graph:
    """Record on `graph` what `specs` ask for, then the defaults: what a function takes and returns is whole, unless it has no
    `num_input` attribute, when its arguments are free.

    Raises `ShardingError` for a spec that matches nothing, does not fit its value, or contradicts another.
    """
    names = _Names(graph)
    ends: dict[str, tuple[str, Spec, Constraint | Value]] = {}
    donated: dict[Value, str] = {}
    for pattern, spec in (specs_of("specs", specs) or {}).items():
        hits, ending = names.matching(pattern)
        if isinstance(spec, Same) and hits:
            what = f"{hits[0]!r} is no result, and only results can be placed as something else is"
            raise ShardingError(f"specs[{pattern!r}]", what, f"Write P(...) for it, or {spec} for a result of its function.")
        if isinstance(spec, Remat):
            _make_again(pattern, [names.values[name] for name in hits])
            continue
        for name in hits:
            assert isinstance(spec, P)
            value = names.values[name]
            asked = spec.constraint(value.shape, mesh, f"specs[{pattern!r}] on {name!r}", value.blocks)
            _want(value, asked, f"specs[{pattern!r}] asks for {spec}")
        for path in ending:
            asked = names.asked_of(path, spec, mesh, f"specs[{pattern!r}] on {path!r}")
            if path in ends and (ends[path][2] != asked or (isinstance(spec, Same) and spec != ends[path][1])):
                before = f"specs[{ends[path][0]!r}] asks for {ends[path][1]}"
                raise ShardingError(path, f"{before}, and specs[{pattern!r}] asks for {spec}", "Keep one of them.")
            ends[path] = (pattern, spec, asked)
    for f in graph.functions.values():
        free = f.num_input is None
        for value in (v for p in f.params for v in leaves(p)):
            if value.role == "input" and value.wanted is None and value.is_tensor and not free:
                value.wanted, value.reason = _whole(value), "inputs are whole unless specs say otherwise"
        for number, (path, value) in enumerate(f.results):
            if not value.is_tensor or f.is_loop:
                f.at_end.append((value, None, ""))
            elif path in ends:
                pattern, spec, asked = ends[path]
                f.at_end.append((value, asked, f"specs[{pattern!r}] asks for {spec if isinstance(asked, Value) else asked} at the end"))
                if isinstance(spec, Same) and spec.donate and isinstance(asked, Value):
                    _donate(f, number, value, asked, f"specs[{pattern!r}] on {path!r}", donated)
            else:
                f.at_end.append((value, _whole(value), "results are whole unless specs say otherwise"))
        for node in f.nodes:
            _hinted(node, mesh)
    return graph


def _make_again(pattern: str, values: Sequence[Value]) -> None:
    """Record that what operators make among these values is to be made again."""
    made = [value for value in values if value.role == "temporary"]
    if not made:
        what = f"{values[0].path!r} is made by no operator" if values else "it is a result, which is held to the end"
        raise ShardingError(f"specs[{pattern!r}]", f"{what}, and cannot be made again", "Name a value inside, as 'function.value'.")
    for value in made:
        value.remat = f"specs[{pattern!r}] asks for it"


def _donate(function: Function, number: int, result: Value, param: Value, where: str, donated: dict[Value, str]) -> None:
    """Record that a result takes the memory of a parameter; `donated` has those that are given away, and where that is asked."""
    own = leaves(tuple(function.params[: len(function.params) - function.constants]))
    if param not in own:
        way_out = f"Write {Same(param.path)}, without donate."
        raise ShardingError(where, f"{param.path!r} is no parameter of {function.name!r}, which cannot give its memory away", way_out)
    if result.dtype != param.dtype:
        what = f"it is {result.dtype}, and {param.path!r} is {param.dtype}: it cannot take that memory"
        raise ShardingError(where, what, f"Write {Same(param.path)}, without donate.")
    if param in function.donated.values():
        raise ShardingError(where, f"{param.path!r} is donated already, by {donated[param]}", "One result takes the memory of a parameter.")
    function.donated[number], donated[param], param.donated = param, where, True


def value_names(graph: Graph) -> dict[str, Value]:
    """Every tensor that a spec can name, by that name: weights, inputs and values inside."""
    return {v.path: v for v in graph.values if v.is_tensor and v.role != "constant"}


def result_names(graph: Graph) -> dict[str, Value]:
    """Every tensor that a function returns, by the name that specs have for it."""
    called = [f for f in graph.functions.values() if not f.is_loop]
    ends = [pair for f in called for pair in f.results]
    return {path: value for path, value in ends if value.is_tensor}


class _Names:
    """All that a pattern can mean."""

    def __init__(self, graph: Graph) -> None:
        self.values, self.results = value_names(graph), result_names(graph)
        _check_apart(graph)
        self.spelled: dict[str, list[str]] = {}
        """Weights by their names with underscores for dots, as TVM writes the names of packed ones."""
        for name in (n for n, v in self.values.items() if v.role == "weight"):
            self.spelled.setdefault(name.replace(".", "_"), []).append(name)

    def matching(self, pattern: str) -> tuple[list[str], list[str]]:
        """The names of values and of results."""
        hits, ending = _hits(pattern, self.values, pattern in self.results), _hits(pattern, self.results, pattern in self.values)
        if not hits and not ending:
            hits = [name for key in _hits(pattern.replace(".", "_"), self.spelled) for name in self.spelled[key]]
        if not hits and not ending:
            known = [*self.values, *self.results]
            inside = [n for n in known if n.rpartition(".")[2] == pattern.rpartition(".")[2]]  # right but for what stands before it
            raise ShardingError(f"specs[{pattern!r}]", "it matches no weight, input, value or result", nearest(pattern, inside or known))
        return hits, ending

    def asked_of(self, path: str, spec: Spec, mesh: Mesh, where: str) -> Constraint | Value:
        """What a spec asks of the result of this name."""
        value = self.results[path]
        if isinstance(spec, P):
            return spec.constraint(value.shape, mesh, where, value.blocks)
        assert isinstance(spec, Same)
        state = [name for name, v in self.values.items() if v.role in ("weight", "input")]
        if spec.name not in state:
            raise ShardingError(where, f"{spec} names no weight and no input", nearest(spec.name, state))
        other = self.values[spec.name]
        if value.shape != other.shape or list(map(str, value.dims)) != list(map(str, other.dims)):
            sizes = [" x ".join(map(str, v.dims)) or "a scalar" for v in (value, other)]
            raise ShardingError(where, f"it is {sizes[0]}, and {spec.name!r} is {sizes[1]}", "Name what the result replaces.")
        return other


def _check_apart(graph: Graph) -> None:
    """Raise `ShardingError` where two values, or a value and a result, have one name in specs and plans."""
    found: dict[str, str] = {}
    ends = [
        (path, f"the result of {f.name!r}")
        for f in graph.functions.values()
        if not f.is_loop
        for name in (f.name, f"{f.name}.return")  # as plans have it, and as specs do
        for path, _ in named_leaves(name, f.result if f.result is not None else ())
    ]
    for path, what in [*((v.path, _kind(v)) for v in graph.values), *ends]:
        if path in found and found[path] != what:
            raise ShardingError(f"{path!r}", f"{found[path]} and {what} have this one name", "Rename one of them.")
        found[path] = what


def _kind(value: Value) -> str:
    return f"weight {value.name!r}" if value.role == "weight" else f"{value.role} {value.name!r} of {value.function!r}"


def _hits(pattern: str, names: Mapping[str, object], exact: bool = False) -> list[str]:
    if pattern in names:
        return [pattern]
    return [n for n in names if fnmatchcase(n, pattern)] if not exact and any(c in pattern for c in "*?[") else []


def _hinted(node: Node, mesh: Mesh) -> None:
    if node.op == HINT:
        spec = read_hint(node.binding.value)
        (value,) = node.outputs
        if isinstance(spec, Remat):
            value.remat = "spmd.remat asks for it"
            return
        where = f"hint on {node.inputs[0].name!r} in {node.function!r}"
        _want(value, spec.constraint(value.shape, mesh, where, value.blocks), f"spmd.hint asks for {spec}")


def _want(value: Value, asked: Constraint, reason: str) -> None:
    if value.wanted is not None and value.wanted != asked:
        raise ShardingError(value.path, f"{value.reason}, and {reason}", "Keep one of them.")
    value.wanted, value.reason = asked, reason


def _whole(value: Value) -> Constraint:
    return Constraint.exactly(Sharding.replicated(len(value.shape)))
