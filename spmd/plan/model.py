"""The plan: where each tensor lives and why, which strategy each operator takes, and every collective that follows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

from spmd import checks
from spmd.checks import door
from spmd.errors import ShardingError
from spmd.ir.lift import LIFT
from spmd.placement.mesh import Mesh
from spmd.placement.sharding import Sharding

from .collectives import collectives
from .decisions import Alternatives, Collective, Memory, Signature, TensorInfo
from .serialize import dumps, loads
from .steps import Compute, Step, computes, moves

_PlanT = TypeVar("_PlanT", bound="Plan")


@dataclass
class Plan:
    """Every decision, as data. `save` writes it as JSON, `load` reads it; `spmd.explain` says it in words."""

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
    """What can be called, and how."""
    steps: dict[str, list[Step]]
    """Function, or loop -> all that each worker does in it, in order."""
    reasons: dict[str, str]
    """Name of a value -> why it is where it is, for the values that the user or the library pinned."""
    predicted: dict[str, float]
    """Function -> predicted seconds at the planning sizes, without the loops that it calls; loop -> those of all its turns."""
    profile: str
    """The name of the profile, and of the class of the costs where it is a user's."""
    width: int
    """The elimination width; 2 or 3 for a language model."""
    loops: dict[str, Signature] = field(default_factory=dict[str, Signature])
    """The private functions that call themselves, and are planned as loops."""
    notes: list[str] = field(default_factory=list[str])
    """What the reader must know: operators replicated for want of a rule, a search cut short."""
    again: dict[str, str] = field(default_factory=dict[str, str])
    """Value that is made again -> the first value that is made from what is made again, or after it: an operator's, from which on who reads
    the one reads the other. See `spmd.remat`."""
    divisible: dict[str, int] = field(default_factory=dict[str, int])
    """What symbolic sizes were said to be divisible by."""
    lift: int = LIFT
    """The bytes from which on constants are weights."""
    tensors: dict[str, TensorInfo] = field(default_factory=dict[str, TensorInfo])
    """Shape and type of every tensor of `params` and `values`, by the same names."""
    memory: dict[str, Memory] = field(default_factory=dict[str, Memory])
    """Function -> what a worker holds while it runs."""
    cost: float = 0.0
    """Seconds that the search made as few as it could: all operators and conversions, one for each use and each branch of an If. Clearing
    padding is not in it.
    """
    bound: float = 0.0
    """Seconds that no plan over the same candidates, in which the same is made again, costs less than."""
    searched: Alternatives | None = field(default=None, init=False, compare=False, repr=False)
    """The search that the plan came from, where it was made; it is not saved and not copied."""

    @property
    def signatures(self) -> dict[str, Signature]:
        """Those of functions, and of loops."""
        return {**self.functions, **self.loops}

    @property
    def choices(self) -> Mapping[str, tuple[Compute, ...]]:
        """Function -> what was decided for each of its operators, in order."""
        return MappingProxyType({name: tuple(computes(steps)) for name, steps in self.steps.items()})

    @property
    def collectives(self) -> list[Collective]:
        """Every collective, those inside operators too, in the order in which each function runs them."""
        found: list[Collective] = []
        for function, steps in self.steps.items():

            def look_up(value: str, prefix: str = f"{function}.") -> tuple[str, str, Sharding]:
                dtype = self.tensors[value].dtype if value in self.tensors else ""
                if value in self.params:
                    return value, dtype, self.params[value]
                return value.removeprefix(prefix), dtype, self.values[value]

            found += collectives(function, steps, look_up)
        return found

    @property
    def gap(self) -> float:
        """How far from the optimum it can be at most, as a part of its cost; 0 where it is the optimum."""
        return (self.cost - self.bound) / self.cost if self.bound < self.cost else 0.0

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
    def from_json(cls: type[_PlanT], text: str) -> _PlanT:
        """Read back `to_json`."""
        made = loads(cls, text)
        for name, table in (("steps", made.steps), ("predicted", made.predicted)):
            if table.keys() != made.signatures.keys():
                what = f"its {name} are of the functions {list(table)}, and it is for {list(made.signatures)}"
                raise ShardingError("Plan.from_json", what, "Write the plan again with Plan.save.")
        for name, steps in made.steps.items():
            last = len(computes(steps)) - 1
            if any(move.cause.at > last for move in moves(steps)):
                what = f"function {name!r} moves a value for an operator that it does not have"
                raise ShardingError("Plan.from_json", what, "Write the plan again with Plan.save.")
        return made

    @door(path=checks.path)
    def save(self, path: str | Path) -> None:
        """Write the plan to a file as JSON."""
        Path(path).write_text(self.to_json() + "\n")

    @classmethod
    @door(path=checks.path)
    def load(cls: type[_PlanT], path: str | Path) -> _PlanT:
        """Read a plan from a file."""
        return cls.from_json(checks.read("Plan.load", path))

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "searched": None}
