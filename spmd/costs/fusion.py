"""What is never written to memory, as whoever reads it makes it on the way: the model of what compilers fuse, in one place.

It says what `spmd.build` fuses, and any compiler of TVM:
- what the right operand of a product, or a table, is made of by moves and cheap arithmetic on single elements (a transpose, a cast, a
  dequantization) is made by the product or the look-up;
- arithmetic on single elements goes with such arithmetic, moves and sums that read it, where all who read it are in one kernel;
- a product, a mean, a softmax or a norm takes along the arithmetic on its result.

Nothing is fused over a conversion, over the end of a branch, or into what a function returns.
"""

from __future__ import annotations

from collections.abc import Callable

from spmd.ir.trees import leaves
from spmd.program.graph import PASSING, Function, Node, Value
from spmd.program.storage import VIEWS
from spmd.rules.kernel import KERNEL_CALLS

TAKE_ALONG = frozenset(
    {
        *("relax.matmul", "relax.nn.conv1d", "relax.nn.conv2d", "relax.nn.conv3d"),
        *("relax.mean", "relax.variance", "relax.std", "relax.nn.softmax", "relax.nn.log_softmax"),
        *("relax.nn.rms_norm", "relax.nn.layer_norm", "relax.nn.group_norm"),
    }
)
"""Operators that take arithmetic on their result along; one of them in a kernel."""
_MAKES = {"relax.matmul": 1, "relax.take": 0}
"""Operators that make one of their operands while they read it, and which."""
_SUMS = frozenset(f"relax.{name}" for name in ("sum", "max", "min", "prod"))
"""Reductions that take along what they read."""
_MOVES = frozenset(
    {
        *("relax.permute_dims", "relax.broadcast_to", "relax.split", "relax.concat", "relax.strided_slice"),
        *("relax.repeat", "relax.tile", "relax.flip", "relax.tril", "relax.triu"),
        *(VIEWS - {"join"} - PASSING),  # what a loop is passed, and gives, is written
    }
)
"""Operators that put single elements elsewhere."""
_COSTLY = frozenset(
    f"relax.{name}"
    for group in (
        ("exp", "log", "power", "erf", "sigmoid", "sin", "cos", "tan", "tanh"),
        ("asin", "acos", "atan", "sinh", "cosh", "asinh", "acosh", "atanh"),
        ("nn.gelu", "nn.gelu_tanh", "nn.silu", "nn.softplus"),
    )
    for name in group
)
"""Arithmetic that is too slow to be done again for each element that a product reads."""

AsKept = Callable[[Node, Value], bool]
"""Whether an operator takes, or makes, a value as it is kept, with no conversion in between."""


def fused(function: Function, as_kept: AsKept | None = None) -> frozenset[Value]:
    """The values of a function that are not written under a plan; without one, those of which that may be so."""
    if function.unwritten is None:
        function.unwritten = frozenset(_Fusion(function, _may_go(function)).run())
    free = function.unwritten
    if as_kept is None:
        return free
    used = ((node, v) for node in function.nodes for v in dict.fromkeys((*node.inputs, *node.outputs)) if v in free)
    converted = {v for node, v in used if not as_kept(node, v)}
    if not converted:
        return free
    return (
        free
        & _Fusion(function, [n for n in reversed(function.nodes) if free.issuperset(n.outputs) and converted.isdisjoint(n.outputs)]).run()
    )


def mask_goes_along(function: Function, reader: Node | None, value: Value, as_made: bool) -> bool:
    """Whether clearing the padding of a value for a reader, None for the return, is no kernel of its own: a sum takes it along, a product
    does with what it makes while it reads it, and so does what makes the value `as_made`, unless somebody else reads it.
    """
    if reader is not None and (reader.op in _SUMS or _makes_operand(reader, value)):
        return True
    maker, readers = function.makers.get(value), function.readers.get(value, [])
    ends = [] if function.result is None else leaves(function.result)
    alone = readers == [reader] and value not in ends if reader is not None else not readers and ends.count(value) == 1
    if maker is None or not as_made or not alone or maker.branch != (() if reader is None else reader.branch):
        return False
    return maker.op in TAKE_ALONG or is_single(maker)


def _may_go(function: Function) -> list[Node]:
    """The operators whose results some operator reads in the same branch, and nobody else; the last first."""
    ends = set() if function.result is None else set(leaves(function.result))

    def stays_inside(node: Node) -> bool:
        readers = [r for v in node.outputs for r in function.readers.get(v, ())]
        return bool(readers) and all(v.is_tensor for v in node.outputs) and all(r.branch == node.branch for r in readers)

    return [node for node in reversed(function.nodes) if ends.isdisjoint(node.outputs) and stays_inside(node)]


class _Fusion:
    """Kernels found in the order in which compilers do: what products make, then arithmetic, then moves; each from the end to the start."""

    def __init__(self, function: Function, nodes: list[Node]) -> None:
        self._readers, self._nodes = function.readers, nodes
        self._made: set[Value] = set()
        """What products and look-ups make while they read it."""
        self._next: dict[Value, Node] = {}
        """What goes with who reads it, and an operator after it in its kernel."""
        self._anchored: set[Node] = set()
        """The last operators of kernels that hold one that takes along."""

    def run(self) -> set[Value]:
        """The values that are not written."""
        for node in self._nodes:
            if (
                is_single(node)
                and node.op not in _COSTLY
                and all(self._makes(r, v) for v in node.outputs for r in self._readers.get(v, ()))
            ):
                self._made.update(node.outputs)
        for kind in (
            lambda node: node.op in TAKE_ALONG or is_arithmetic(node),
            lambda node: is_single(node) and not is_arithmetic(node),
        ):
            for node in filter(kind, self._nodes):
                if self._made.isdisjoint(node.outputs):
                    self._take_along(node)
        return self._made | self._next.keys()

    def _makes(self, reader: Node, value: Value) -> bool:
        """Whether `reader` makes the value, or is itself what a product or a look-up makes."""
        return _makes_operand(reader, value) or (len(reader.outputs) == 1 and reader.outputs[0] in self._made)

    def _take_along(self, node: Node) -> None:
        """Put `node` into the kernel of those who read its result, where it is one and takes such an operator."""
        readers = [r for v in node.outputs for r in self._readers.get(v, ())]
        lasts = {self._last(r) for r in readers}
        if len(lasts) != 1 or any(not self._made.isdisjoint(r.outputs) for r in readers):
            return
        (last,) = lasts
        if node.op in TAKE_ALONG:
            if last in self._anchored or not all(map(is_arithmetic, (*readers, last))):
                return
            self._anchored.add(last)
        else:
            follows = all(is_single(r) or r.op in _SUMS for r in readers)
            closed = last in self._anchored or last.op in _SUMS
            if not follows or (closed and not is_arithmetic(node)):
                return
        self._next.update(dict.fromkeys(node.outputs, last))

    def _last(self, node: Node) -> Node:
        """The last operator of a kernel."""
        while node.outputs and node.outputs[0] in self._next:
            node = self._next[node.outputs[0]]
        return node


def _makes_operand(reader: Node, value: Value) -> bool:
    """Whether an operator can make the value while it reads it."""
    return reader.op in _MAKES and [i for i, v in enumerate(reader.inputs) if v is value] == [_MAKES[reader.op]]


def is_arithmetic(node: Node) -> bool:
    """Whether it computes each element of its result from those at the same place."""
    return node.rule.work == "pointwise" and len(node.outputs) == 1 and node.op not in KERNEL_CALLS


def is_single(node: Node) -> bool:
    """Whether each element of its result comes from single elements: arithmetic, moves, kernels that reduce nothing."""
    kernel = node.op == "relax.call_tir" and not node.no_rule and not node.rule.reduced and not node.rule.forms
    return kernel or is_arithmetic(node) or node.op in _MOVES
