"""Operators that take a part of a dimension, add to it or reverse it: flip, slices, pads, triangles."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tvm import relax

from spmd.ir.expressions import static
from spmd.rules.element_routes import Moves, Run
from spmd.rules.model import Form, Rule, Size
from spmd.rules.registry import OpCall, rule

from .helpers import axis_of, letters

_LINEAR = ((0,),)
_SizeOf = Callable[[str], int]


@rule("relax.flip")
def flip(op: OpCall) -> Rule:
    """The elements of one axis in reverse; split along it, mirrored shards are exchanged."""
    shape = op.inputs[0]
    names = letters(len(shape))
    axis = axis_of(op.attrs.axis, len(shape))
    name, size = names[axis], shape[axis]
    text = f"{' '.join(names)} -> {' '.join(names)}"
    if size is None:
        return op.bind(text, whole=name, zero="all", linear=_LINEAR)
    moves = Moves(((size - 1, size, -1),), name, (name,), _rest(names, axis))
    return op.bind(text, forms={name: Form("move", moves)}, zero="all", linear=_LINEAR)


@dataclass(frozen=True)
class _Slice:
    """Part of a dimension as a piece of a concatenation: ``[x b y]``, or ``[x (b k) y]`` where only every k-th element is taken."""

    axis: int
    name: str
    before: int
    offset: int
    """Where in the piece it begins; less than `step`."""
    count: int
    step: int
    after: int

    @property
    def dim(self) -> str:
        """The text of the dimension."""
        at = self.axis
        piece = f"({self.name} k{at})" if self.step > 1 else self.name
        return f"[{f'x{at}' if self.before else ''} {piece} {f'y{at}' if self.after else ''}]"

    @property
    def sizes(self) -> dict[str, Size]:
        """The sizes of all factors that `dim` may hold."""
        at = self.axis
        return {f"x{at}": self.before, f"k{at}": self.step, f"y{at}": self.after, self.name: self.count}

    @property
    def others(self) -> frozenset[str]:
        """The factors of what is not taken."""
        at = self.axis
        some = {f"x{at}": self.before, f"k{at}": self.step > 1, f"y{at}": self.after}
        return frozenset(f for f, there in some.items() if there)

    @property
    def stride(self) -> frozenset[str]:
        """The minor factor, which stays whole."""
        return self.others & {f"k{self.axis}"}

    def local(self, size: _SizeOf) -> tuple[int, int]:
        """Begin and end of the local slice."""
        first = (size(f"x{self.axis}") if self.before else 0) + self.offset
        return first, first + (size(self.name) - 1) * self.step + 1


def _slice(axis: int, name: str, size: Size, begin: Any, count: Size, stride: Any) -> _Slice | tuple[int, int, int] | None:
    """The slice as a piece; the `Run` of places that it takes where it is none; None where sizes are symbolic."""
    first, step = static(begin), static(stride)
    if size is None or first is None or step is None or not count:
        return None
    first = first + size if first < 0 else first
    first = max(0, min(first, size if step > 0 else size - 1))
    # The piece is a whole number of strides long: it begins earlier where it would end outside.
    offset = max(first + count * step - size, 0)
    if step < 1 or offset > first:
        return first, count, step
    return _Slice(axis, name, first - offset, offset, count, step, size - (first - offset) - count * step)


@rule("relax.strided_slice")
def strided_slice(op: OpCall) -> Rule:
    """Pieces of a concatenation are sliced where they are; what is reversed or does not fit a piece is moved to where it belongs."""
    shape, result = op.inputs[0], op.outputs[0]
    names = letters(len(shape), skip="kxy")
    ins = list(names)
    axes, begins, ends = (_fields(op.call.args[i]) for i in (1, 2, 3))
    strides = _fields(op.call.args[4]) if len(op.call.args) > 4 else [1] * len(axes)
    sizes: dict[str, Size] = {}
    whole, unread = frozenset[str](), frozenset[str]()
    forms: dict[str, Form] = {}
    slices: dict[int, _Slice] = {}
    for at, (axis, begin, stride) in enumerate(zip((axis_of(static(a), len(shape)) for a in axes), begins, strides, strict=True)):
        name, rest = names[axis], f"{names[axis]}_all"
        found = _slice(axis, name, shape[axis], begin, result[axis], stride)
        if isinstance(found, _Slice):
            slices[at] = found
            ins[axis] = found.dim
            sizes |= found.sizes
            whole |= found.stride
            unread |= found.others
            continue
        ins[axis] = rest
        unread |= {rest}
        if found is None:
            whole |= {name, rest}
        else:
            moves = Moves((found,), rest, (name,), _rest(names, axis))
            forms |= {name: Form("move", moves, together=(rest,)), rest: Form("move", moves, together=(name,))}

    def local(size: _SizeOf) -> dict[int, Any]:
        new = {2: list(begins), 3: list(ends)}
        for at, part in slices.items():
            new[2][at], new[3][at] = map(relax.prim_value, part.local(size))
        return {i: relax.Tuple(values) for i, values in new.items()}

    return op.bind(
        f"{' '.join(ins)} -> {' '.join(names)}",
        sizes=sizes,
        whole=whole,
        unread=unread,
        forms=forms,
        zero="all",
        linear=_LINEAR,
        local_args=local,
        work="view",
    )


@rule("relax.slice_scatter")
def slice_scatter(op: OpCall) -> Rule:
    """The second input written into a slice of the first."""
    shape = op.inputs[0]
    names = letters(len(shape), skip="kxy")
    axis = axis_of(op.attrs.axis, len(shape))
    source, outer = list(names), list(names)
    begin, stride = op.call.args[2], op.call.args[4]
    found = _slice(axis, names[axis], shape[axis], begin, op.inputs[1][axis], stride)
    if not isinstance(found, _Slice):  # a stride that does not fit, or symbolic places
        outer[axis] = f"{names[axis]}_all"
        whole = frozenset((names[axis], outer[axis]))
        text = f"{' '.join(outer)}, {' '.join(source)} -> {' '.join(outer)}"
        return op.bind(text, whole=whole, reduce=None, zero="all", linear=((0, 1),))
    outer[axis] = found.dim
    return op.bind(
        f"{' '.join(outer)}, {' '.join(source)} -> {' '.join(outer)}",
        sizes=found.sizes,
        whole=found.stride,
        zero="all",
        linear=((0, 1),),
        local_args=lambda size: dict(zip((2, 3), map(relax.prim_value, found.local(size)), strict=True)),
    )


@rule("relax.nn.pad")
def pad(op: OpCall) -> Rule:
    """What is added is a piece of its own before or after; where it is made of the input's edges, these are sent to who holds it."""
    shape = op.inputs[0]
    names = letters(len(shape), skip="xy")
    widths = [int(w) for w in op.attrs.pad_width]
    mode = str(op.attrs.pad_mode)
    outs, whole = list(names), frozenset[str]()
    sizes: dict[str, Size] = {}
    forms: dict[str, Form] = {}
    for axis, (before, after) in enumerate(zip(widths[::2], widths[1::2], strict=True)):
        name, size = names[axis], shape[axis]
        pieces = tuple(f for f, width in ((f"x{axis}", before), (name, 1), (f"y{axis}", after)) if width)
        if pieces == (name,):
            continue
        if size is None or before < 0 or after < 0:
            outs[axis] = f"{name}_all"
            whole |= {name, outs[axis]}
            continue
        outs[axis] = f"[{' '.join(pieces)}]"
        sizes |= {f"x{axis}": before, f"y{axis}": after}
        if mode != "constant":
            moves = Moves(_edges(mode, size, before, after), name, pieces, _rest(names, axis))
            forms |= {f: Form("move", moves, together=tuple(p for p in pieces if p != f)) for f in pieces}

    def local(size: _SizeOf) -> dict[str, Any]:
        pieces = [f"{side}{axis}" for axis in range(len(shape)) for side in "xy"]
        width = [size(f) if f in sizes else w for f, w in zip(pieces, widths, strict=True)]
        return {"pad_width": width, "pad_value": op.attrs.pad_value, "pad_mode": mode}

    zeros = mode != "constant" or float(op.attrs.pad_value) == 0
    return op.bind(
        f"{' '.join(names)} -> {' '.join(outs)}",
        sizes=sizes,
        whole=whole,
        forms=forms,
        zero="all" if zeros else "",
        linear=_LINEAR if zeros else (),
        local_attrs=local,
    )


def _edges(mode: str, size: int, before: int, after: int) -> tuple[Run, ...]:
    """Which elements a padded dimension is made of."""
    middle = (0, size, 1)
    if mode == "reflect":
        return (before, before, -1), middle, (size - 2, after, -1)
    if mode == "replicate":
        return (0, before, 0), middle, (size - 1, after, 0)
    return (size - before, before, 1), middle, (0, after, 1)


@rule("relax.triu", "relax.tril")
def triangle(op: OpCall) -> Rule:
    """Which elements are kept depends on their place in the last two dimensions, which each worker knows of its own."""
    known = None not in op.inputs[0][-2:] and static(op.call.args[1]) is not None
    text = "...a b -> ...a b"
    if not known:
        return op.bind(text, whole="a b", zero="all", linear=_LINEAR)
    return op.bind(text, forms=dict.fromkeys("ab", Form("triangle")), zero="all", linear=_LINEAR)


def _rest(names: list[str], axis: int) -> str:
    """All factors but that of `axis`."""
    return " ".join(n for i, n in enumerate(names) if i != axis)


def _fields(arg: Any) -> list[Any]:
    return list(arg.fields) if isinstance(arg, relax.Tuple) else list(arg)
