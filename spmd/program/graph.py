"""The program as values and operators: what the planner decides on and what lowering follows."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple

from spmd.ir.trees import Tree, leaves, map_tree, named_leaves
from spmd.placement.spec import Constraint
from spmd.rules.model import Rule, Shape

PASSING = frozenset({"argument", "result", "give"})
"""Operators that make a value of one function one of another: see `Node`."""
Branch = tuple[tuple[str, bool], ...]
"""Where something runs: the Ifs around it by name, outermost first, and whether it is the branch for true."""


@dataclass(eq=False)
class Value:
    """One tensor of a function (or an opaque object, such as a KV cache)."""

    name: str
    function: str
    """The function that makes it; of a weight, the first that has it."""
    shape: Shape
    """Global sizes, None where symbolic. An object's pseudo-dimensions are known only to the rules that use it."""
    dims: tuple[Any, ...]
    """The shape with symbolic sizes as TVM expressions."""
    dtype: str
    """Empty for what is no tensor."""
    kind: str
    """"tensor", "object" (a KV cache) or "other" (a shape, a number: the same on every worker)."""
    role: str
    """"input", "weight", "constant", "temporary", or "carried": a parameter of a loop."""
    type_class: int
    """Values of one class have equal `dims` and dtypes."""
    wanted: Constraint | None = None
    """A hard constraint."""
    reason: str = ""
    """Where the constraint comes from."""
    packed: bool = False
    """Whether it is a field of a packed tuple, named by those who unpack it."""
    data: Any = None
    """The Relax expression of a constant."""
    blocks: tuple[int, ...] = ()
    """What each size can be divided by, where symbolic sizes were said to be divisible."""
    remat: str = ""
    """Why it is to be made again for who reads it late; empty where nobody asks for that."""
    donated: bool = False
    """Whether some function is given its memory for a result."""
    memory: int = 0
    """Values of one number lie in the same memory, which an operator writes in place; all others have 0."""

    @property
    def path(self) -> str:
        """Its name in plans and specs: of a weight its own, else ``function.name``."""
        return self.name if self.role == "weight" else f"{self.function}.{self.name}"

    @property
    def is_tensor(self) -> bool:
        """Whether it is a tensor, and not an object or a number."""
        return self.kind == "tensor"

    @property
    def may_gather(self) -> bool:
        """Whether nothing forbids that it is gathered on its way to who uses it."""
        return self.wanted is None or self.wanted.gather


class Access(NamedTuple):
    """What an operator reads from memory and writes to it, without what goes from one operator to another in registers."""

    reads: tuple[tuple[Value, ...], ...]
    """The tensors in memory that each input is made of, without those that an input before it has brought."""
    writes: tuple[bool, ...]
    """Whether each output is written."""
    launches: int
    """Kernels that begin with it: none where it is a view, or goes on in the kernel of another."""
    cache: Node | None = None
    """What makes the KV cache that it reads."""


@dataclass(eq=False)
class Node:
    """One operator call. An If is several: one named ``If`` takes the condition, before the nodes of its branches; one named
    ``join`` for each tensor that it gives, at the end of either branch, takes what that branch gives.

    So is the call of a loop: an ``argument`` for each tensor that it passes, which takes it and makes the parameter of the loop; the call
    itself, without operands; a ``result`` for each tensor that it gives, which takes what the loop returns. In the loop a ``give`` makes
    each tensor that is returned.
    """

    op: str
    name: str
    """The name of the variable that it is bound to."""
    function: str
    rule: Rule
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    binding: Any
    """The Relax binding that it came from."""
    call_class: int
    """Calls of one class differ in their operands only: not in operator, attributes, other arguments, shapes and dtypes."""
    no_rule: str = ""
    """Why it is replicated, when it has no rule."""
    branch: Branch = ()
    """The branches that it stands in."""
    called: Function | None = None
    """The loop that it calls."""
    joined: Tree[Value] | None = None
    """All that an If gives, at each of its nodes."""
    writes: tuple[int, ...] = ()
    """The inputs that it writes in place, by number."""
    stays: tuple[bool, ...] = ()
    """Whether each input, then each output, is taken, or made, as it is kept: what is written would be lost in a copy."""

    access: Access | None = None
    """What it reads and writes once it is fused, by the values of the first of its class; None: each operand, by a kernel of its own."""

    def staying(self, i: int, is_output: bool) -> bool:
        """Whether input (or output) number `i` is taken (or made) as it is kept."""
        return bool(self.stays) and self.stays[i + len(self.inputs) * is_output]


@dataclass(eq=False)
class Function:
    """One Relax function: its parameters and result as trees of values, its operators in order."""

    name: str
    params: list[Tree[Value]]
    num_input: int | None
    constants: int = 0
    """How many of the last parameters were constants of the program, and are weights."""
    is_loop: bool = False
    """Whether it is a private function that calls itself: it takes and returns each value as that is kept."""
    nodes: list[Node] = field(default_factory=list[Node])
    result: Tree[Value] | None = None
    at_end: list[tuple[Value, Constraint | Value | None, str]] = field(default_factory=list[tuple[Value, "Constraint | Value | None", str]])
    """What the sharding of each leaf of the result must be where it is returned, and why: what a constraint allows, or how another
    value is kept; None for what is no tensor."""
    donated: dict[int, Value] = field(default_factory=dict[int, "Value"])
    """Leaf of the result, by number -> the parameter whose memory it takes."""
    unwritten: frozenset[Value] | None = field(default=None, init=False)
    """What need not be written to memory, once somebody has asked (`fusion.fused`)."""

    @property
    def returns(self) -> list[Value]:
        """The leaves of its result."""
        return leaves(self.result) if self.result is not None else []

    @property
    def results(self) -> list[tuple[str, Value]]:
        """The same by their names in specs, ``function.return[1]``."""
        return named_leaves(f"{self.name}.return", self.result) if self.result is not None else []

    @cached_property
    def named(self) -> dict[str, Value]:
        """Every value of the function, by its name in plans, as they are when somebody asks first."""
        given = [*leaves(tuple(self.params)), *(leaves(self.result) if self.result is not None else ())]
        return {v.path: v for v in (*given, *(v for node in self.nodes for v in (*node.inputs, *node.outputs)))}

    @cached_property
    def makers(self) -> dict[Value, Node]:
        """The operator that makes each value, the first of them where branches do."""
        found: dict[Value, Node] = {}
        for node in self.nodes:
            for value in node.outputs:
                found.setdefault(value, node)
        return found

    @cached_property
    def readers(self) -> dict[Value, list[Node]]:
        """The operators that take each value, as they are when somebody asks first."""
        found: dict[Value, list[Node]] = {}
        for node in self.nodes:
            for value in node.inputs:
                found.setdefault(value, []).append(node)
        return found


@dataclass(eq=False)
class Graph:
    """All functions of a module that are sharded together."""

    module: Any
    functions: dict[str, Function]
    values: list[Value]
    """Every value once; a weight shared by functions is one value."""


def with_value(graph: Graph, old: Value, new: Value) -> Graph:
    """The graph with one value in the place of another: its functions and operators are others, in the same order."""

    def put(tree: Tree[Value]) -> Tree[Value]:
        return map_tree(tree, lambda value: new if value is old else value)

    def node(one: Node) -> Node:
        joined = None if one.joined is None else put(one.joined)
        inputs, outputs = (tuple(new if v is old else v for v in values) for values in (one.inputs, one.outputs))
        return replace(one, inputs=inputs, outputs=outputs, joined=joined)

    def function(one: Function) -> Function:
        at_end = [(new if value is old else value, new if wanted is old else wanted, why) for value, wanted, why in one.at_end]
        result = None if one.result is None else put(one.result)
        donated = {i: new if value is old else value for i, value in one.donated.items()}
        nodes = list(map(node, one.nodes))
        return replace(one, params=list(map(put, one.params)), nodes=nodes, result=result, at_end=at_end, donated=donated)

    functions = {name: function(one) for name, one in graph.functions.items()}
    return Graph(graph.module, functions, [new if value is old else value for value in graph.values])
