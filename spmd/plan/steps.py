"""The decided program of a function as data: a list of typed steps over *value @ sharding*, in the order in which each worker takes them.

`Compute` runs an operator. `Transfer` sends, and takes a value from one sharding to another; `Bundle` does so for several values in one
call. `Reorder` and `Mask` touch local memory alone. `Return` ends the list. Whoever asks what a plan does, when, how long it takes and
what it holds reads this list, and lowering writes it down as Relax.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from spmd.placement.sharding import Sharding, Split
from spmd.transfers.conversion import Move

Branch = tuple[tuple[str, bool], ...]
"""Where a step stands: the Ifs around it by name, outermost first, and whether in the branch for true."""

TAKEN, MADE, RETURNED = "taken", "made", "returned"
"""Why a value is converted: an operator takes it otherwise than it is kept, makes it otherwise, or the function returns it otherwise."""


@dataclass(frozen=True)
class Exchange:
    """A collective inside an operator, to which each worker brings `bytes`."""

    kind: str
    axis: str
    bytes: int
    dtype: str
    seconds: float = 0.0


@dataclass(frozen=True)
class Compute:
    """One operator under its strategy: how its factors are split, and the sharding of each of its tensors."""

    op: str
    name: str
    """That of the variable that it is bound to."""
    splits: tuple[tuple[str, Split], ...]
    inputs: tuple[Sharding, ...]
    outputs: tuple[Sharding, ...]
    partial_through: tuple[int, ...] = ()
    """Inputs taken as partial sums, to be reduced later."""
    replicated_because: str = ""
    """Why the operator has no rule, where it has none."""
    operands: tuple[str, ...] = ()
    """The values that it takes, as `Plan.tensors` names them."""
    results: tuple[str, ...] = ()
    """The values that it makes."""
    seconds: float = 0.0
    """Its predicted time, that of its exchanges among it."""
    exchanges: tuple[Exchange, ...] = ()
    branch: Branch = ()
    span: str = ""
    """Where it stands in the source of the module, ``file:line``, where it sends or a value is converted around it and the module knows."""

    @property
    def split_text(self) -> str:
        """How its factors are split, in words."""
        through = ["partial sums in, partial sum out"] if self.partial_through else []
        return ", ".join(through + [f"{factor} over {split}" for factor, split in self.splits]) or "replicate"


@dataclass(frozen=True)
class Cause:
    """Why a value is converted: `role` is "taken" or "made" by the operator number `at` of the function, or "returned"."""

    role: str
    at: int = -1
    why: str = ""
    """What asks for the sharding of a result."""

    @property
    def wrong(self) -> str:
        """What cannot be."""
        if self.role not in (TAKEN, MADE, RETURNED):
            return f"it is {TAKEN}, {MADE} or {RETURNED}"
        return "" if (self.at >= 0) == (self.role != RETURNED) else "an operator takes or makes it, a function returns it"


@dataclass(frozen=True)
class Transfer:
    """One collective that takes a value from ``move.source`` to ``move.target``."""

    value: str
    """The name that `Plan.tensors` has for it."""
    move: Move
    cause: Cause
    branch: Branch = ()
    bytes: int = 0
    """Bytes of the tensor that each worker brings, at the planning sizes."""
    seconds: float = 0.0


@dataclass(frozen=True)
class Reorder:
    """A move in the memory of each worker, a part of ``move``.

    `kind` is "slice" (each worker keeps its part of what it holds whole), or what stands around a collective or a slice where shards
    are padded or made of segments: "pack" puts a dimension into the order of the shards, with their padding, and "unpack" puts it back
    into its own order, without padding.
    """

    kind: str
    value: str
    move: Move
    cause: Cause
    branch: Branch = ()
    seconds: float = 0.0

    @property
    def wrong(self) -> str:
        """What cannot be."""
        return "" if self.kind in ("slice", "pack", "unpack") else "it is a slice, a pack or an unpack"


@dataclass(frozen=True)
class Mask:
    """Operand number `operand` of the next operator (or of the return) with what changes no `reduce` wherever it holds padding.

    It is arithmetic on single elements. Where it goes with who reads or makes the value, it has no bytes and takes no time of its own.
    """

    value: str
    sharding: Sharding
    operand: int
    reduce: str = "sum"
    branch: Branch = ()
    bytes: int = 0
    """Bytes of the copy that each worker writes."""
    seconds: float = 0.0


@dataclass(frozen=True)
class Bundle:
    """Transfers that are alike but for what they move, in one call: the first of them has its latency."""

    transfers: tuple[Transfer, ...]

    @property
    def wrong(self) -> str:
        """What cannot be."""
        return "" if self.transfers else "it moves nothing"


@dataclass(frozen=True)
class Return:
    """What the function returns, tensors and objects in order."""

    operands: tuple[str, ...]
    shardings: tuple[Sharding, ...]


Step = Compute | Transfer | Reorder | Mask | Bundle | Return


def branch_of(step: Step) -> Branch:
    """Where a step stands; a bundle and the return are in no branch."""
    return () if isinstance(step, Bundle | Return) else step.branch


def computes(steps: Iterable[Step]) -> list[Compute]:
    """The operators among the steps, in order."""
    return [step for step in steps if isinstance(step, Compute)]


def seconds(step: Step) -> float:
    """The predicted time of a step."""
    if isinstance(step, Bundle):
        return sum(transfer.seconds for transfer in step.transfers)
    return 0.0 if isinstance(step, Return) else step.seconds


def moves(steps: Iterable[Step]) -> Iterator[Transfer | Reorder]:
    """All that takes values from one sharding to another, those in bundles one by one."""
    for step in steps:
        if isinstance(step, Bundle):
            yield from step.transfers
        elif isinstance(step, Transfer | Reorder):
            yield step


def conversions(steps: Iterable[Step]) -> list[list[Transfer | Reorder]]:
    """The moves that together take one value from one sharding to another, each list in order."""
    found: list[list[Transfer | Reorder]] = []
    begun: dict[tuple[str, Branch, Cause], list[list[Transfer | Reorder]]] = {}
    for step in moves(steps):
        alike = begun.setdefault((step.value, step.branch, step.cause), [])
        for one in alike:
            if step.move == one[-1].move or step.move.source == one[-1].move.target:
                one.append(step)
                break
        else:
            alike.append([step])
            found.append(alike[-1])
    return found
