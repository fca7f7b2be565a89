"""What a plan is made of: signatures, collectives, memory, and what else a value could have been."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Protocol

from spmd.ir.trees import named_leaves
from spmd.placement.sharding import Sharding


def branch_text(branch: tuple[str, bool]) -> str:
    """One branch of an If in words."""
    name, taken = branch
    return f"the {'true' if taken else 'false'} branch of {name!r}"


@dataclass(frozen=True)
class Leaf:
    """One tensor (or other object) of a function's signature."""

    name: str
    shape: tuple[int | str, ...] | None
    """The global shape, a str where a size is symbolic; None for what is no tensor and the same on every worker."""
    dtype: str
    sharding: Sharding | None
    written: bool = False
    """Whether it lies in memory that some function of the module writes in place: each worker has its own."""
    donated: str = ""
    """Of a parameter that is donated, the result that takes its memory, as specs name it."""
    shared: bool = False
    """Of a result, whether it may lie in a constant of the program."""


LeafTree = Leaf | tuple["LeafTree", ...]


def output_shardings(name: str, tree: LeafTree) -> list[tuple[str, Sharding]]:
    """The results of the function `name` as `Plan.outputs` has them."""
    return [(path, leaf.sharding) for path, leaf in named_leaves(name, tree) if leaf.sharding is not None]


@dataclass(frozen=True)
class Signature:
    """The parameters and the result of a function as trees of leaves; parameters from `num_input` on are weights."""

    params: tuple[LeafTree, ...]
    outputs: LeafTree
    num_input: int | None
    names: tuple[str, ...] = ()
    """The names of the parameters, by which a call may give its arguments."""
    constants: tuple[Leaf, ...] = ()
    """Weights that were constants of the program: the function of a worker takes them after `params`, and no caller gives them."""
    sizes: tuple[str, ...] = ()
    """Symbolic sizes that no shard tells a worker: its function takes them as one shape, between `params` and `constants`, if there are
    any, and no caller gives them."""


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
    """The dtype of what it sends."""
    reduce: str = ""
    """The kind of partial that it reduces; empty inside an operator, which knows for itself."""
    branch: tuple[tuple[str, bool], ...] = ()
    """The Ifs that it stands in, by name, outermost first, and whether in the branch for true: it runs when they all go that way."""
    seconds: float = 0.0
    """Its predicted time."""
    op: str = ""
    """The operator that makes the value, takes it or sends it itself; empty where a function returns it."""
    at: int = -1
    """The place of that operator in `Plan.choices` of its function; -1 where a function returns the value."""
    span: str = ""
    """Where that operator stands in the source of the module, ``file:line``; empty where the module does not know."""
    source: Sharding | None = None
    """How the value is before; None inside an operator."""
    target: Sharding | None = None
    """How it is wanted; several collectives may share one way from `source` to `target`."""
    bundle: int = 0
    """Those of a function with the same number go in one call, of which the first has the latency; 0 is alone."""

    @property
    def is_low_precision(self) -> bool:
        """Whether it adds up floats of less than 32 bits."""
        adds = self.kind in ("all_reduce", "reduce_scatter") and self.reduce not in ("max", "min")
        bits = re.match(r"b?float(\d+)", self.dtype)
        return adds and bits is not None and int(bits[1]) < 32

    def __str__(self) -> str:
        held = f"{self.bytes} bytes" + (f" of {self.dtype}" if self.is_low_precision else "")
        where = ", ".join([self.function, *map(branch_text, self.branch)])
        more = (f", in bundle {self.bundle}" if self.bundle else "") + (f", {self.span}" if self.span else "")
        return f"{self.kind} over {self.axis}, {held}, in {where}: {self.reason} ({self.seconds * 1e6:.1f} us predicted{more})"


@dataclass(frozen=True)
class TensorInfo:
    """What is held somewhere: the global shape (a str where a size is symbolic), the sizes that it was planned for, the type."""

    shape: tuple[int | str, ...]
    sizes: tuple[int, ...]
    dtype: str

    @property
    def wrong(self) -> str:
        """What cannot be."""
        return "" if len(self.shape) == len(self.sizes) else "it has a size for each dimension"


@dataclass(frozen=True)
class Memory:
    """Bytes that a worker holds while a function runs, at the planning sizes."""

    weights: int
    """The bytes of the weights of all functions, as they stay where they are."""
    cache: int
    """KV caches, likewise; of those whose size is known."""
    activations: int
    """The function's other arguments and its temporaries when they are the most, each from when it is made until it is last read."""
    unknown: tuple[str, ...] = ()
    """Caches and other objects that are not counted, as nothing says how large they are."""
    assumed: tuple[str, ...] = ()
    """Symbolic sizes of weights that nobody gave, so that these are counted at the default."""

    @property
    def peak(self) -> int:
        """All of it together."""
        return self.weights + self.cache + self.activations


@dataclass(frozen=True)
class Alternative:
    """Another sharding that a value could have, and what the best plan with it would cost."""

    sharding: Sharding
    seconds: float
    """How much more than the plan, over all functions; infinite where nothing obeys all that is asked."""
    operators: float = 0.0
    """The part of it that operators take; memory traffic and arithmetic, and the collectives inside them."""
    conversions: float = 0.0
    """The part of it that goes from one sharding to another."""
    most: str = ""
    """The operator whose time changes most, conversions around it among it, and by how much."""
    most_seconds: float = 0.0
    is_bound: bool = False
    """Whether `seconds` is only known to be the least that it can be."""
    memory: int = 0
    """Bytes that the fastest plan with it needs on a worker; 0 where that was not worked out."""
    fits: bool = True
    """Whether that is within the memory that there is."""
    gap: float = 0.0
    """How far from the best plan with it this may be; 0 where it is the best."""


class Alternatives(Protocol):
    """Who made a plan and can tell what else it could have been."""

    def of(self, name: str) -> list[Alternative]:
        """The other shardings of the value of that name, the best first."""
        ...

    def lifted(self, name: str) -> Alternative | None:
        """What a value would be without the constraint on it; None where there is none."""
        ...
