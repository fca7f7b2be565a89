"""What commands print with --json: one object, whose shardings are written as they are told."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from spmd.explain import Difference, Plan
from spmd.explain.scaling import Scaling
from spmd.run.doctor import Finding
from spmd.verify import Proof


def text_of(told: Mapping[str, Any], wrote: Sequence[Any] = ()) -> str:
    """The object as text, with the files that were written, if any were."""
    files = {"wrote": [str(file) for file in wrote]} if wrote else {}
    return json.dumps({**told, **files}, indent=1)


def of_plan(plan: Plan) -> dict[str, Any]:
    """Where everything lives, by name, and of each function its collectives, in order, seconds and bytes."""
    functions: dict[str, Any] = {
        name: {
            "predicted_seconds": seconds,
            "collectives": [
                {"kind": one.kind, "axis": one.axis, "value": one.value, "bytes": one.bytes, "seconds": one.seconds}
                for one in plan.collectives
                if one.function == name
            ],
            "memory_bytes": asdict(plan.memory[name]) | {"peak": plan.memory[name].peak} if name in plan.memory else None,
        }
        for name, seconds in plan.predicted.items()
    }
    return {
        "mesh": dict(plan.mesh.axes),
        "profile": plan.profile,
        "weights": _texts(plan.params),
        "inputs": _texts(plan.inputs),
        "outputs": _texts(plan.outputs),
        "functions": functions,
        "made_again": dict(plan.again),
        "notes": list(plan.notes),
    }


def of_difference(difference: Difference) -> dict[str, Any]:
    """Pairs, of the first plan and the second, of what differs."""
    changed = {name: getattr(difference, name) for name in ("params", "inputs", "outputs", "values")}
    return {
        "same": not difference,
        "mesh": None if difference.mesh is None else [dict(mesh.axes) for mesh in difference.mesh],
        "profile": difference.profile,
        **{("weights" if name == "params" else name): _pairs(found) for name, found in changed.items()},
        "collectives": [
            {"function": function, "kind": kind, "axis": axis, "first": asdict(first), "second": asdict(second)}
            for (function, kind, axis), (first, second) in difference.collectives.items()
        ],
        "predicted_seconds": {name: list(pair) for name, pair in difference.predicted.items()},
    }


def of_scaling(scaling: Scaling) -> dict[str, Any]:
    """A point for each mesh; `problem` is why there is no plan, where there is none."""
    points = [
        {
            "mesh": dict(point.mesh.axes),
            "predicted_seconds": dict(point.predicted),
            "memory_bytes": point.memory,
            **({"problem": point.problem} if point.problem else {}),
        }
        for point in scaling.points
    ]
    changes = [{"mesh": dict(change.mesh.axes), "lines": list(change.lines)} for change in scaling.changes]
    return {"profile": scaling.profile, "points": points, "changes": changes}


def of_proof(proof: Proof) -> dict[str, Any]:
    """Whether all is proven, and what is not."""
    return {"proven": bool(proof), "functions": list(proof.functions), "undecided": list(proof.undecided)}


def of_findings(findings: Iterable[Finding]) -> dict[str, Any]:
    """What works here, by name."""
    return {one.name: {"works": one.works, "found": one.found, "way_out": one.way_out} for one in findings}


def _texts(shardings: Mapping[str, Any]) -> dict[str, str]:
    return {name: str(sharding) for name, sharding in shardings.items()}


def _pairs(changed: Mapping[str, Sequence[Any]]) -> dict[str, list[str | None]]:
    return {name: [None if one is None else str(one) for one in pair] for name, pair in changed.items()}
