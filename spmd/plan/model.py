"""The plan: where each tensor lives and why, which strategy each operator takes, and every collective that follows."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from spmd import checks
from spmd.checks import door, told
from spmd.errors import ShardingError
from spmd.explain import Difference, Report, difference, explanation, known_name, report, summary, write_page
from spmd.ir.lift import LIFT
from spmd.placement.mesh import Mesh
from spmd.placement.sharding import Sharding

from .decisions import Alternative, Alternatives, Choice, Collective, Leaf, LeafTree, Memory, Route, Signature, TensorInfo, output_shardings
from .serialize import dumps, loads

__all__ = [
    "Alternative",
    "Alternatives",
    "Choice",
    "Collective",
    "Leaf",
    "LeafTree",
    "Memory",
    "Plan",
    "Route",
    "Signature",
    "TensorInfo",
    "output_shardings",
]


def _named(where: str, given: Any) -> str:
    if not isinstance(given, str):
        way_out = "Plan.params, .inputs, .outputs and .values have them."
        raise ShardingError(where, f"it takes the name of a value, and got {told(given)}", way_out)
    return given


def _plan(where: str, given: Any) -> Any:
    return checks.instance(Plan)(where, given)


@dataclass
class Plan:
    """Every decision, as data. `save` writes it as JSON, `load` reads it."""

    mesh: Mesh
    params: dict[str, Sharding]
    """Weights by name."""
    inputs: dict[str, Sharding]
    """``"function.parameter"`` -> sharding."""
    outputs: dict[str, Sharding]
    """``"function"``, or ``"function[i]"`` for a tuple -> sharding."""
    values: dict[str, Sharding]
    """``"function.value"`` -> the sharding in which the value is kept."""
    functions: dict[str, Signature]
    choices: dict[str, list[Choice]]
    """Function -> the choice for each of its operators, in order."""
    collectives: list[Collective]
    reasons: dict[str, str]
    """Name of a value -> why it is where it is, for the values that the user or the library pinned."""
    predicted: dict[str, float]
    """Function -> predicted seconds at the planning sizes."""
    profile: str
    """The name of the profile, and of the class of the costs where it is a user's."""
    width: int
    """The elimination width; 2 or 3 for a language model."""
    notes: list[str] = field(default_factory=list[str])
    """What the reader must know: operators replicated for want of a rule, a search cut short."""
    divisible: dict[str, int] = field(default_factory=dict[str, int])
    """By what symbolic sizes were said to be divisible."""
    lift: int = LIFT
    """The bytes from which on constants are weights."""
    tensors: dict[str, TensorInfo] = field(default_factory=dict[str, TensorInfo])
    """Shape and type of every tensor of `params` and `values`, by the same names."""
    routes: list[Route] = field(default_factory=list[Route])
    """How values get from one sharding to another where that takes several moves."""
    memory: dict[str, Memory] = field(default_factory=dict[str, Memory])
    """Function -> what a worker holds while it runs."""
    searched: Alternatives | None = field(default=None, init=False, compare=False, repr=False)
    """The search that the plan came from, where it was made; it is not saved and not copied."""

    @door(name=checks.maybe(_named))
    def explain(self, name: str | None = None) -> str:
        """Where a value lives, why, and what the next best choice would have cost; with no name, the whole plan in a page of text.

        Raises `ShardingError` for a name that the plan does not have.
        """
        return summary(self) if name is None else explanation(self, name)

    @door(name=_named)
    def alternatives(self, name: str) -> list[Alternative]:
        """The other shardings that a value could have, the best first, each solved again with all else free.

        Raises `ShardingError` for a name that the plan does not have, and for a plan that was loaded: it is known where it was planned.
        """
        known_name(self, name)
        if self.searched is None:
            raise ShardingError(f"Plan.alternatives({name!r})", "it is known only where the plan was made", "Plan the module again.")
        return self.searched.of(name)

    def report(self) -> Report:
        """What moves, how long it takes and what each worker holds, by function; prints as tables."""
        return report(self)

    @door(other=_plan)
    def diff(self, other: Plan) -> Difference:
        """What is different in `other`: shardings, collectives, predicted times; prints as text, and is false where nothing is."""
        return difference(self, other)

    @door(path=checks.maybe(checks.path))
    def show(self, path: str | Path | None = None) -> Path:
        """Write the plan as one HTML page that needs nothing else, to `path` or a new temporary file, and say where it is."""
        return write_page(self, path)

    @property
    def constants(self) -> list[str]:
        """The names of weights that were constants of the program."""
        return list(dict.fromkeys(leaf.name for signature in self.functions.values() for leaf in signature.constants))

    @property
    def remarks(self) -> list[str]:
        """What the reader may want to know, and nobody needs to act on: sums over workers in less than 32 bits."""
        low: dict[str, list[Collective]] = {}
        for c in self.collectives:
            if c.is_low_precision:
                low.setdefault(c.dtype, []).append(c)
        return [
            f"{len(found)} sums over workers are made in {dtype}, first {found[0].value!r} of {found[0].function!r}"
            for dtype, found in low.items()
        ]

    def to_json(self) -> str:
        """The plan as JSON text; equal plans give equal text."""
        return dumps(self)

    @classmethod
    @door(text=checks.text)
    def from_json(cls, text: str) -> Plan:
        """Read back `to_json`."""
        made = loads(cls, text)
        for name, table in (("choices", made.choices), ("predicted", made.predicted)):
            if table.keys() != made.functions.keys():
                what = f"its {name} are of the functions {list(table)}, and it is for {list(made.functions)}"
                raise ShardingError("Plan.from_json", what, "Write the plan again with Plan.save.")
        return made

    @door(path=checks.path)
    def save(self, path: str | Path) -> None:
        """Write the plan to a file as JSON."""
        Path(path).write_text(self.to_json() + "\n")

    @classmethod
    @door(path=checks.path)
    def load(cls, path: str | Path) -> Plan:
        """Read a plan from a file."""
        return cls.from_json(checks.read("Plan.load", path))

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "searched": None}
