"""One HTML page for a plan, that needs nothing else: no network, no server. Its data is a table of indices, as models are large."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Hashable
from html import escape
from pathlib import Path
from typing import Any

from spmd.placement.sharding import Sharding
from spmd.plan.decisions import Collective, branch_text
from spmd.plan.model import Plan

from .modules import Group, Operator, module_tree
from .report import residents
from .tables import folded, item_bytes, shape_text

_FILES = Path(__file__).parent
_SCRIPTS = ("pictures", "scene", "layout", "view", "graph", "tree", "search")


def write_page(plan: Plan, path: str | Path | None = None) -> Path:
    """Write the page of a plan to `path`, or to a new temporary file, and say where it is."""
    if path is None:
        with tempfile.NamedTemporaryFile(prefix="spmd-plan-", suffix=".html", delete=False) as made:
            path = made.name
    Path(path).write_text(page_text(plan), encoding="utf-8")
    return Path(path)


def page_text(plan: Plan) -> str:
    """The page as text."""
    # "<" ends a script wherever it stands in "</script>"; in JSON it may be written so.
    data = json.dumps(page_data(plan), separators=(",", ":")).replace("<", "\\u003c")
    parts = {"style": "page.css", "script": "page.js", **{name: f"{name}.js" for name in _SCRIPTS}}
    page = (_FILES / "page.html").read_text(encoding="utf-8").replace("{{title}}", escape(f"{plan.mesh}, profile {plan.profile}"))
    for name, file in parts.items():
        page = page.replace(f"/*{name}*/", (_FILES / file).read_text(encoding="utf-8"))
    return page.replace("{{data}}", data)


def page_data(plan: Plan) -> dict[str, Any]:
    """What the page draws."""
    return _Data(plan).made


class _Data:
    """Shardings, tensors and operators as rows, which name each other by their index."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.shardings: dict[Sharding, int] = {}
        self.ops: dict[str, int] = {}
        kept = {**plan.values, **plan.params}
        self.tensors = {name: i for i, name in enumerate(kept)}
        self.constants = {leaf.name for signature in plan.signatures.values() for leaf in signature.constants}
        tensors = [self._tensor(name, sharding) for name, sharding in kept.items()]
        functions = [self._function(name) for name in plan.signatures]
        like = {(folded(name), str(sharding)): self.tensors[name] for name, sharding in reversed(plan.params.items())}
        held = [[r.name, r.count, f"{r.dtype} {shape_text(r.shape)}", r.local, r.whole, like[r.name, r.sharding]] for r in residents(plan)]
        self.made: dict[str, Any] = {
            "mesh": str(plan.mesh),
            "axes": plan.mesh.axes,
            "workers": plan.mesh.size,
            "profile": plan.profile,
            "notes": plan.notes,
            "remarks": plan.remarks,
            "tensors": tensors,
            "functions": functions,
            "weights": held,
            "memory": _fullest(plan),
            "uncounted": sorted({name for held in plan.memory.values() for name in held.unknown}),
            "assumed": sorted({name for held in plan.memory.values() for name in held.assumed}),
            "shardings": [self._sharding(s) for s in self.shardings],
            "ops": list(self.ops),
        }

    def _tensor(self, name: str, sharding: Sharding) -> list[Any]:
        """Name, role, sharding, type and shape, the shape and bytes of a worker, all its bytes, the sizes, why."""
        plan, info = self.plan, self.plan.tensors.get(name)
        role = "constant" if name in self.constants else "weight" if name in plan.params else "input" if name in plan.inputs else "value"
        if info is None:
            return [name, role, self._index(sharding), "object", "", 0, 0, [], plan.reasons.get(name, "")]
        local, item = sharding.local_shape(info.sizes, plan.mesh), item_bytes(info.dtype)
        shape = f"{info.dtype} {shape_text(info.shape)}"
        held, whole = math.prod(local) * item, math.prod(info.sizes) * item
        return [name, role, self._index(sharding), shape, shape_text(local), held, whole, info.sizes, plan.reasons.get(name, "")]

    def _function(self, name: str) -> dict[str, Any]:
        plan = self.plan
        sent = [c for c in plan.collectives if c.function == name]
        around: dict[int, list[Collective]] = {}
        for c in sent:
            around.setdefault(c.at, []).append(c)
        rows: list[list[Any]] = []
        kinds: list[Hashable] = []
        choices = plan.choices[name]
        operators = [Operator(c.name, c.operands, c.results) for c in choices]
        for at, c in enumerate(choices):
            inputs, outputs = [self._index(s) for s in c.inputs], [self._index(s) for s in c.outputs]
            op = self.ops.setdefault(c.op, len(self.ops))
            operands, results = [self.tensors.get(v, -1) for v in c.operands], [self.tensors.get(v, -1) for v in c.results]
            splits = ", ".join(f"{factor} over {split.axis}" for factor, split in c.splits)
            rows.append([op, c.name, operands, inputs, results, outputs, round(c.seconds * 1e6, 3), splits, c.replicated_because])
            shapes = tuple(plan.tensors[v].shape if v in plan.tensors else () for v in (*c.operands, *c.results))
            moved = tuple((x.kind, x.axis, x.bytes, f"{name}.{x.value}" in c.results) for x in around.get(at, ()))
            kinds.append((op, tuple(inputs), tuple(outputs), shapes, splits, moved))
        leaves = [self._named(name, leaf.name) for leaf in _leaves(plan.signatures[name].outputs)]
        returned = [self.tensors[v] for v in leaves if v in self.tensors]
        return {
            "name": name,
            "us": plan.predicted[name] * 1e6,
            "sent": sum(c.seconds for c in sent) * 1e6,
            "ops": rows,
            "collectives": [self._collective(c) for c in sent],
            "tree": _tree(module_tree(operators, plan.params.keys() - self.constants, kinds)),
            "returns": returned,
        }

    def _collective(self, c: Collective) -> list[Any]:
        """Kind, axis, bytes, time, the tensor, the operator (-1: a return), why, where in the source, the branches or the bundle."""
        tensor = self.tensors.get(self._named(c.function, c.value), -1)
        within = ", ".join(map(branch_text, c.branch)) or (f"bundle {c.bundle}" if c.bundle else "")
        return [c.kind, c.axis, c.bytes, round(c.seconds * 1e6, 3), tensor, c.at, c.reason, c.span, within]

    def _named(self, function: str, value: str) -> str:
        return value if value in self.plan.params else f"{function}.{value}"

    def _index(self, sharding: Sharding) -> int:
        return self.shardings.setdefault(sharding, len(self.shardings))

    def _sharding(self, sharding: Sharding) -> list[Any]:
        """The text, of each dimension its axes and what each worker along them holds of each segment, what is partial."""
        mesh = self.plan.mesh
        dims = [
            None if d is None else [list(d.axes), mesh.axis_size(*d.axes), [[s.size, s.local(mesh.axis_size(*d.axes))] for s in d.segments]]
            for d in sharding.dims
        ]
        return [str(sharding), dims, [f"{kind}@{axis}" for axis, kind in sharding.partial]]


def _tree(item: Group | int) -> Any:
    """An operator as its number; a group as its name, where it begins, its operators, the names of the equal ones, what is in it."""
    return item if isinstance(item, int) else [item.name, item.start, item.size, item.names, [_tree(child) for child in item.children]]


def _fullest(plan: Plan) -> dict[str, int]:
    """What a worker holds besides weights in the function that needs most."""
    name = max(plan.memory, key=lambda n: plan.memory[n].peak, default=None)
    if name is None:
        return {}
    held = plan.memory[name]
    return {"cache": held.cache, f"activations of {name}": held.activations}


def _leaves(tree: Any) -> list[Any]:
    return [leaf for part in tree for leaf in _leaves(part)] if isinstance(tree, tuple) else [tree]
