"""The plan: where each tensor lives and why, which strategy each operator takes, and every collective that follows."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from .errors import ShardingError, nearest
from .mesh import Mesh
from .serialize import dumps, loads
from .sharding import Sharding, Split


@dataclass(frozen=True)
class Leaf:
    """One tensor (or other object) of a function's signature."""

    name: str
    shape: tuple[int | str, ...] | None
    """The global shape, a str where a size is symbolic; None for what is no tensor and the same on every worker."""
    dtype: str
    sharding: Sharding | None


LeafTree = Leaf | tuple["LeafTree", ...]


def _way(branch: tuple[str, bool]) -> str:
    name, taken = branch
    return f"the {'true' if taken else 'false'} branch of {name!r}"


@dataclass(frozen=True)
class Signature:
    """The parameters and the result of a function as trees of leaves; parameters from `num_input` on are weights."""

    params: tuple[LeafTree, ...]
    outputs: LeafTree
    num_input: int | None


@dataclass(frozen=True)
class Collective:
    """One collective of the lowered program."""

    kind: str
    axis: str
    bytes: int
    """Bytes of the tensor that each worker brings, at the planning sizes."""
    function: str
    value: str
    """The name of the value that it moves."""
    reason: str
    """Who makes the value how, and who wants it how."""
    dtype: str = ""
    """Of what it sends."""
    reduce: str = ""
    """The kind of partial that it reduces; empty inside an operator, which knows for itself."""
    branch: tuple[tuple[str, bool], ...] = ()
    """The Ifs that it stands in, by name, outermost first, and whether in the branch for true: it runs when they all go that way."""

    @property
    def is_low_precision(self) -> bool:
        """Whether it adds up floats of less than 32 bits."""
        adds = self.kind in ("all_reduce", "reduce_scatter") and self.reduce not in ("max", "min")
        bits = re.match(r"b?float(\d+)", self.dtype)
        return adds and bits is not None and int(bits[1]) < 32

    def __str__(self) -> str:
        held = f"{self.bytes} bytes" + (f" of {self.dtype}" if self.is_low_precision else "")
        where = ", ".join([self.function, *map(_way, self.branch)])
        return f"{self.kind} over {self.axis}, {held}, in {where}: {self.reason}"


@dataclass(frozen=True)
class Choice:
    """What the planner decided for one operator: how its factors are split, and the sharding of each of its tensors."""

    op: str
    name: str
    splits: tuple[tuple[str, Split], ...]
    inputs: tuple[Sharding, ...]
    outputs: tuple[Sharding, ...]
    partial_through: tuple[int, ...] = ()
    """Inputs taken as partial sums, to be reduced later."""
    replicated_because: str = ""
    """Why the operator has no rule, where it has none."""


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
    width: int
    """The elimination width; 2 or 3 for a language model."""
    notes: list[str] = field(default_factory=list[str])
    """What the reader must know: operators replicated for want of a rule, a search cut short."""

    def explain(self, name: str | None = None) -> str:
        """Why a value lives where it does, or, with no name, the whole plan in a page of text."""
        if name is None:
            return self._summary()
        known = {**self.values, **self.params, **self.inputs, **self.outputs}
        if name not in known:
            raise ShardingError("Plan.explain", f"there is no value {name!r}", nearest(name, known))
        lines = [f"{name}: {known[name]}"]
        if name in self.reasons:
            lines.append(f"  because {self.reasons[name]}")
        lines += [f"  {c}" for c in self.collectives if name in (c.value, f"{c.function}.{c.value}")]
        return "\n".join(lines)

    def _summary(self) -> str:
        lines = [f"{self.mesh}, profile {self.profile}, elimination width {self.width}"]
        width = max((len(n) for n in self.params), default=0)
        lines += [f"  {name:{width}}  {sharding}" for name, sharding in self.params.items()]
        for function in self.functions:
            inside: dict[tuple[tuple[str, bool], ...], list[Collective]] = {(): []}
            for c in self.collectives:
                if c.function == function:
                    inside.setdefault(c.branch, []).append(c)
            lines.append(f"{function}: {_counted(inside.pop(()))}, {self.predicted[function] * 1e6:.1f} us predicted")
            lines += [f"  in {', '.join(map(_way, branch))}: {_counted(found)}" for branch, found in inside.items()]
        return "\n".join([*lines, *(f"note: {n}" for n in self.notes), *(f"remark: {r}" for r in self.remarks)])

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
    def from_json(cls, text: str) -> Plan:
        """Read back `to_json`."""
        return loads(cls, text)

    def save(self, path: str | Path) -> None:
        """Write the plan to a file as JSON."""
        Path(path).write_text(self.to_json() + "\n")

    @classmethod
    def load(cls, path: str | Path) -> Plan:
        """Read a plan from a file."""
        return cls.from_json(Path(path).read_text())


def _counted(collectives: list[Collective]) -> str:
    counts = Counter(c.kind for c in collectives)
    what = ", ".join(f"{n} {kind}" for kind, n in sorted(counts.items())) or "no collectives"
    return f"{what}, {sum(c.bytes for c in collectives)} bytes"
