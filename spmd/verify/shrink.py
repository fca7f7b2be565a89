"""A pair of programs at smaller sizes, for what is too large to be evaluated.

Every dimension of every value is a variable. Within one call equal sizes are one variable; reshapes, concatenations, kernels, collectives
and placements say how variables hang together, and a small solution replaces the numbers. TVM's own type inference says of every call
whether it gives what the smaller program says.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import tvm
import tvm_ffi
from tvm import relax, s_tir, tirx

from spmd.placement.mesh import Mesh

from .expressions import is_float
from .signature import Place, Segment, Signature, Split
from .sizes import KEPT, Sizes

LARGE = 1 << 27
"""Multiplications from which on programs are shrunk."""
TOO_LARGE = 1 << 36
"""Multiplications from which on nothing is evaluated."""
_UNTOLD = 3
_NO_PLACE = 16
"""Up to this number kernels count bits and the like."""
_REDUCTIONS = ("relax.mean", "relax.sum", "relax.variance")
_ATTENTION = "vm.builtin.attention_kv_cache_attention_with_fused_qkv"


class NotShrunk(Exception):
    """No smaller sizes are known for these programs: the text says what is in the way."""


def work(mod: tvm.IRModule) -> int:
    """About how many multiplications a module takes, and numbers that it is given, with a few for each size that is not known."""
    total = 0
    for func in mod.functions.values():
        if isinstance(func, relax.Function):
            calls: list[Any] = []
            tvm_ffi.structural_walk(func.body, ((tvm.ir.Call,), calls.append))
            total += sum(map(_call_work, calls)) + sum(_elements(func.params))
    return total


def _call_work(call: Any) -> int:
    counts = _elements((call, *call.args))
    is_product = isinstance(call.op, tvm.ir.Op) and call.op.name == "relax.matmul" and len(counts) == 3
    return math.isqrt(math.prod(counts)) if is_product else max(counts, default=0)


def _elements(values: Iterable[Any]) -> list[int]:
    """Of how many elements each tensor is."""
    shapes = [ty.shape for v in values for ty in _flat(getattr(v, "ty", None)) if isinstance(ty, relax.TensorType)]
    return [math.prod(_number(s) or _UNTOLD for s in shape.values) for shape in shapes if isinstance(shape, relax.ShapeExpr)]


def shrunk(
    mod: tvm.IRModule, local: tvm.IRModule, signatures: Mapping[str, Signature], mesh: Mesh
) -> tuple[tvm.IRModule, tvm.IRModule, dict[str, Signature]]:
    """The two modules and their placements at smaller sizes, or `NotShrunk`."""
    sizes = Sizes()
    one, many = _Program(mod, sizes, mesh), _Program(local, sizes, mesh)
    made = {name: _signature(one, many, name, s, mesh) for name, s in signatures.items()}
    value = sizes.solved()
    if value is None:
        raise NotShrunk("no smaller sizes do what these do")
    return one.resized(value), many.resized(value), {name: make(value) for name, make in made.items()}


def _number(size: Any) -> int:
    """What a size is; 0 for one that is not known."""
    return int(size) if isinstance(size, tirx.IntImm) else 0


def _flat(ty: Any) -> list[Any]:
    return [part for inner in ty.fields for part in _flat(inner)] if isinstance(ty, relax.TupleType) else [ty]


Dims = list[int]
"""The variables of a tensor's sizes, `_OPEN` for one that is not known."""
_OPEN = -1


class _Program:
    """One module: the variables of its sizes, what they must fulfil, and the module with other numbers."""

    def __init__(self, mod: tvm.IRModule, sizes: Sizes, mesh: Mesh) -> None:
        self.mod, self.sizes, self._kernels, self._kinds = mod, sizes, dict[Any, Any](), dict[Any, Any]()
        self._workers = sorted({mesh.size, *mesh.axes.values()} - {1})
        for func in mod.functions.values():
            if isinstance(func, relax.Function):
                for param in func.params:
                    self._kinds[param] = ("param", re.sub(r"\d+", "*", param.name), tvm_ffi.structural_hash(param.ty))
                for binding in self._bindings(func):
                    self._kinds[binding.var] = self._kind(binding)
                    self._binding(binding)

    def _kind(self, binding: Any) -> Any:
        """What equal calls have in common, whose sizes are the same variables: those of equal layers."""
        value = binding.value
        operands = value.args if isinstance(value, tvm.ir.Call) else [value]
        name = str(value.op) if isinstance(value, tvm.ir.Call) else type(value).__name__
        types = (binding.var.ty, *(arg.ty for arg in operands if isinstance(arg, tvm.ir.Var | relax.Tuple | relax.ShapeExpr)))
        return (name, *map(tvm_ffi.structural_hash, types))

    def _bindings(self, func: Any) -> list[Any]:
        return [binding for block in func.body.blocks for binding in block.bindings]

    def dims(self, value: Any) -> list[Dims]:
        """The variables of each tensor in a value."""
        if isinstance(value, relax.Tuple):
            return [part for field in value.fields for part in self.dims(field)]
        if isinstance(value, relax.ShapeExpr):
            return [self._variables(value, value.values)]
        found: list[Dims] = []
        for i, ty in enumerate(_flat(getattr(value, "ty", None))):
            sizes = ty.shape.values if isinstance(ty, relax.TensorType) and isinstance(ty.shape, relax.ShapeExpr) else ()
            found.append(self._variables((self._kinds.get(value, value), i), sizes))
        if isinstance(value, tvm.ir.GenericConst):
            self._check_places(value)
            for n in found[0]:
                self.sizes.fixed(n)
        return found

    def _check_places(self, e: Any) -> None:
        """Integers of a constant may be places, which would be others at smaller sizes; up to the number of workers they are not."""
        is_integer = isinstance(e.value, tvm.runtime.Tensor) and not is_float(str(e.value.dtype))
        if is_integer and np.abs(e.value.numpy().astype("int64")).max(initial=0) > max(KEPT, *self._workers, 0):
            raise NotShrunk("a constant has integers that may be places")

    def _variables(self, place: Any, sizes: Any) -> Dims:
        known = [_number(s) if isinstance(s, tirx.IntImm) else None for s in sizes]
        return [_OPEN if n is None else self.sizes.at((id(self), place, d), n) for d, n in enumerate(known)]

    def _binding(self, binding: Any) -> None:
        value, out = binding.value, self.dims(binding.var)
        if isinstance(value, relax.TupleGetItem):
            parts = [_flat(ty) for ty in value.tuple_value.ty.fields]
            first = sum(map(len, parts[: value.index]))
            given = self.dims(value.tuple_value)[first : first + len(parts[value.index])]
        elif isinstance(value, tvm.ir.Call | tvm.ir.Var | relax.Tuple | tvm.ir.GenericConst) and not isinstance(binding, relax.MatchCast):
            operands = value.args if isinstance(value, tvm.ir.Call) else [value]
            given = [dims for arg in operands for dims in self.dims(arg)]
        else:
            raise NotShrunk(f"{binding.var.name!r} is no call")
        self.sizes.same(n for dims in (*given, *out) for n in dims if n != _OPEN)
        if isinstance(value, tvm.ir.Call):
            self._call(value.op.name if isinstance(value.op, tvm.ir.Op) else "", value, given, out)

    def _call(self, name: str, call: Any, given: list[Dims], out: list[Dims]) -> None:
        sizes = self.sizes
        if name == "relax.concat":
            sizes.total(out[0][int(call.attrs.axis)], [dims[int(call.attrs.axis)] for dims in given])
        elif name == "relax.split":
            axis = int(call.attrs.axis)
            parts = [dims[axis] for dims in out]
            sizes.total(given[0][axis], parts)
            for i in range(1, len(parts)):
                self._stays(given[0][axis], parts[:i])
        elif name == "relax.strided_slice":
            self._slice(call, given[0], out[0])
        elif name.startswith("relax.spmd.") and given:
            for before, after in zip(given, out, strict=True):
                for a, b in zip(before, after, strict=True):
                    if a != b:
                        more, less = (a, b) if sizes.numbers[a] > sizes.numbers[b] else (b, a)
                        sizes.product([more], [less], int(call.attrs["workers"]))
        elif name == "relax.call_dps_packed" and str(call.args[0].global_symbol) == _ATTENTION:
            query, every = out[0][1], self.dims(call.args[1].fields[3])[0][1]
            each = (sizes.numbers[every] - sizes.numbers[query]) // 2
            heads = sizes.at(("heads", each), each)
            sizes.total(every, (query, heads, heads))
            sizes.product([query], [heads, sizes.at(("group", query, each), sizes.numbers[query] // each)])
        elif name == "relax.call_tir":
            self._kernel(self.mod[call.args[0]], [n for dims in (*given, *out) for n in dims if n != _OPEN])
        elif name in ("relax.reshape", "relax.flatten", "relax.memory.view"):
            sizes.product([n for n in given[0] if n != _OPEN], [n for n in out[0] if n != _OPEN])
        elif name in _REDUCTIONS:
            sizes.product([self._count(call)], self._reduced(call))

    def _slice(self, call: Any, given: Dims, out: Dims) -> None:
        axes, first, last = ([int(i) for i in arg.fields] for arg in call.args[1:4])
        for axis, a, b in zip(axes, first, last, strict=True):
            begin, end = self._marks(call, given[axis], axis, a, b)
            self.sizes.total(end, (begin, out[axis]))
            self._stays(given[axis], [begin])
            self._stays(given[axis], [end])

    def _stays(self, whole: int, parts: list[int]) -> None:
        """Where some parts of a dimension end is in the same worker's share as before, of those that may share it: what is left out
        would be that of other workers.
        """
        sizes = self.sizes
        if _OPEN in (whole, *parts):
            return
        number, end = sizes.numbers[whole], sum(sizes.numbers[n] for n in parts)

        def test(n: int, *each: int) -> bool:
            shared = [w for w in self._workers if n >= w and (n % w == 0) == (number % w == 0)]
            return all(_place_of(sum(each), n, w) == _place_of(end, number, w) for w in shared)

        sizes.fulfil(("stays", number, end), (whole, *parts), test, is_equality=False)

    def _marks(self, call: Any, dim: int, axis: int, first: int, last: int) -> tuple[int, int]:
        """The variables of where a slice begins and ends."""
        size = self.sizes.numbers[dim] if dim != _OPEN else last
        if dim == _OPEN or len(call.args) > 4 or not 0 <= first <= last:
            raise NotShrunk("a slice is taken by steps, or of a size that is not known")
        begin, end = self.sizes.at((call, "begin", axis), first), dim if last >= size else self.sizes.at((call, "end", axis), last)
        return begin, end

    def _reduced(self, call: Any) -> Dims:
        dims, axes = self.dims(call.args[0])[0], call.attrs.axis
        return [n for n in ([dims[int(a)] for a in axes] if axes is not None else dims) if n != _OPEN]

    def _count(self, call: Any) -> int:
        """Of how many elements a reduction is made: some programs divide by it."""
        number = math.prod(self.sizes.numbers[n] for n in self._reduced(call))
        return self.sizes.at(("count", number), number)

    def _kernel(self, func: Any, used: Dims) -> None:
        """Numbers that a kernel computes with stay; of two sizes of which one is so many times the other it stays so. Any other large one
        may be a place.
        """
        parts: list[Any] = []
        numbers: list[Any] = []
        tvm_ffi.structural_walk(func.body, ((tirx.BufferStore, tirx.IfThenElse, s_tir.SBlockRealize), parts.append))
        for part in parts:
            stored = (part.value, *part.indices) if isinstance(part, tirx.BufferStore) else ()
            for e in stored or (getattr(part, "condition", getattr(part, "predicate", None)),):
                tvm_ffi.structural_walk(e, ((tirx.IntImm,), numbers.append))
        by_number = {self.sizes.numbers[n]: n for n in used}
        own = {abs(int(n)) for n in numbers} - by_number.keys() - {0, 1}
        pairs = [(a, b) for a in by_number for b in by_number if b and a % b == 0 and a // b in own]
        for a, b in pairs:
            self.sizes.product([by_number[a]], [by_number[b]], a // b)
        if strange := own - {a // b for a, b in pairs} - set(range(max(_NO_PLACE, *self._workers, 0) + 1)):
            raise NotShrunk(f"a kernel computes with {min(strange)}, which may be a place")

    def resized(self, value: Mapping[int, int]) -> tvm.IRModule:
        """The module with these numbers for its variables. Raises `NotShrunk` where it is no program."""
        builder = relax.BlockBuilder()
        self._value, self._builder = value, builder
        for var, func in self.mod.functions.items():
            if isinstance(func, tirx.PrimFunc):
                builder.add_func(func, var.name_hint)
        for var, func in self.mod.functions.items():
            if isinstance(func, relax.Function):
                self._function(var.name_hint, func)
        return builder.get()

    def _new(self, n: int) -> int:
        return self._value[self.sizes.root(n)]

    def _type(self, value: Any) -> Any:
        """The type of a variable with the new sizes."""
        every = iter(self.dims(value))

        def made(ty: Any) -> Any:
            if isinstance(ty, relax.TupleType):
                return relax.TupleType([made(inner) for inner in ty.fields])
            dims = next(every)
            if not isinstance(ty, relax.TensorType) or not isinstance(ty.shape, relax.ShapeExpr):
                return ty
            return relax.TensorType([s if n == _OPEN else self._new(n) for s, n in zip(ty.shape.values, dims, strict=True)], ty.dtype)

        return made(value.ty)

    def _function(self, name: str, func: Any) -> None:
        params = [relax.Var(p.name, self._type(p)) for p in func.params]
        new: dict[Any, Any] = dict(zip(func.params, params, strict=True))
        with self._builder.function(name, params, attrs={key: func.attrs[key] for key in func.attrs.keys()}):  # noqa: SIM118
            for binding in self._bindings(func):
                made = self._builder.normalize(self._value_of(binding.value, new, binding.var))
                if not tvm_ffi.structural_equal(made.ty, self._type(binding.var)):
                    raise NotShrunk(f"{binding.var.name!r} is {made.ty}, and not {self._type(binding.var)}")
                new[binding.var] = self._builder.emit(made, binding.var.name)
            self._builder.emit_func_output(self._value_of(func.body.body, new, None))

    def _value_of(self, e: Any, new: Mapping[Any, Any], var: Any) -> Any:
        if isinstance(e, tvm.ir.Var):
            return new.get(e, e)
        if isinstance(e, relax.Tuple):
            return relax.Tuple([self._value_of(field, new, None) for field in e.fields])
        if isinstance(e, relax.TupleGetItem):
            return relax.TupleGetItem(self._value_of(e.tuple_value, new, None), e.index)
        if isinstance(e, relax.ShapeExpr):
            return relax.ShapeExpr([s if n == _OPEN else self._new(n) for s, n in zip(e.values, self.dims(e)[0], strict=True)])
        if isinstance(e, tvm.ir.GenericConst):
            return self._scalar(e)
        return self._call_of(e, [self._value_of(arg, new, None) for arg in e.args], var) if isinstance(e, tvm.ir.Call) else e

    def _call_of(self, e: Any, args: list[Any], var: Any) -> Any:
        name = e.op.name if isinstance(e.op, tvm.ir.Op) else ""
        if name == "relax.split" and not isinstance(e.attrs.indices_or_sections, int | tirx.IntImm):
            axis = int(e.attrs.axis)
            lengths = [self._new(dims[axis]) for dims in self.dims(var)]
            return relax.op.split(args[0], [sum(lengths[:i]) for i in range(1, len(lengths))], axis)
        if name == "relax.strided_slice":
            axes, first, last = ([int(i) for i in arg.fields] for arg in e.args[1:4])
            marks = [self._marks(e, self.dims(e.args[0])[0][axis], axis, a, b) for axis, a, b in zip(axes, first, last, strict=True)]
            return relax.op.strided_slice(args[0], axes, [self._new(a) for a, _ in marks], [self._new(b) for _, b in marks])
        if name == "relax.call_tir":
            args[0] = self._resized_kernel(e.args[0], [dims for arg in (*e.args, var) for dims in self.dims(arg)])
        types = [self._type(var)] if e.ty_args else []
        return relax.Call(e.op, args, e.attrs, types)

    def _resized_kernel(self, var: Any, dims: list[Dims]) -> Any:
        """A kernel with other sizes wherever these numbers are."""
        sizes = {self.sizes.numbers[n]: self._new(n) for one in dims for n in one if n != _OPEN}
        key = (var.name_hint, tuple(sorted(sizes.items())))
        if key not in self._kernels:
            graph = json.loads(tvm.ir.save_json(self.mod[var]))
            nodes = graph["nodes"]
            for node in list(nodes):
                if node["type"] == "ir.IntImm" and (n := nodes[node["data"]["value"]]["data"]) in sizes and n > KEPT:
                    node["data"]["value"] = len(nodes)
                    nodes.append({"type": "int", "data": sizes[n]})
            self._kernels[key] = self._builder.add_func(tvm.ir.load_json(json.dumps(graph)), var.name_hint)
        return self._kernels[key]

    def _scalar(self, e: Any) -> Any:
        """A constant; one that says of how many elements a reduction is made, says it of the smaller one."""
        if not isinstance(e.value, tvm.runtime.Tensor) or e.value.shape:
            return e
        value = float(e.value.numpy())
        for number, put in ((value, lambda n: n), (1 / value if value else 0.0, lambda n: 1 / n)):
            count = self.sizes.known(("count", round(number)))
            if count is not None and abs(number - round(number)) < 1e-3 * number:
                return relax.const(put(self._new(count)), str(e.value.dtype))
        return e


def _signature(one: _Program, many: _Program, name: str, signature: Signature, mesh: Mesh) -> Callable[[Mapping[int, int]], Signature]:
    """What makes the signature at smaller sizes, once they are known. Shares of workers are shares, and what is padded stays so."""
    func, local = one.mod[name], many.mod[name]
    if signature.constants or signature.sizes:
        raise NotShrunk(f"{name!r} is given constants or sizes")

    def tree(place: Any, whole: list[Dims], held: list[Dims]) -> Callable[[Mapping[int, int]], Any]:
        if isinstance(place, tuple):
            parts = [tree(inner, whole, held) for inner in place]
            return lambda value: tuple(part(value) for part in parts)
        dims, inside = whole.pop(0), held.pop(0)
        if place is None or not any(place.dims):
            one.sizes.equal(dims, inside)
            return lambda value: place
        splits = [_split(one.sizes, s, n, m, mesh) for s, n, m in zip(place.dims, dims, inside, strict=True)]
        return lambda value: Place(tuple(split(value) for split in splits), place.partial)

    sources = signature.of(func.params)
    params = [tree(place, one.dims(p), many.dims(q)) for place, p, q in zip(signature.params, sources, local.params, strict=True)]
    outputs = tree(signature.outputs, one.dims(func.body.body), many.dims(local.body.body)) if not signature.is_open else lambda value: None
    return lambda value: replace(signature, params=tuple(make(value) for make in params), outputs=outputs(value))


def _split(sizes: Sizes, split: Any, whole: int, held: int, mesh: Mesh) -> Callable[[Mapping[int, int]], Any]:
    if split is None or whole == _OPEN:
        if whole != _OPEN:
            sizes.equal([whole], [held])
        return lambda value: split
    if any(getattr(split, kind, False) for kind in ("symbolic", "repeated", "uneven")):
        raise NotShrunk("a known size is placed as an unknown one is")
    workers = mesh.axis_size(*split.axes)
    pieces = [whole] if len(split.segments) == 1 else [sizes.every(s.size) for s in split.segments]
    units = [sizes.every(s.unit) for s in split.segments]
    count = len(pieces)
    before = [(s.size % (s.unit * workers) == 0) for s in split.segments]
    sizes.total(whole, pieces)
    sizes.fulfil(("share", workers), (held, *pieces, *units), lambda all, *each: all == _share(each[:count], each[count:], workers))
    sizes.fulfil(
        ("padded", workers, tuple(before)),
        (*pieces, *units),
        lambda *each: [n % (unit * workers) == 0 for n, unit in zip(each[:count], each[count:], strict=True)] == before,
        is_equality=False,
    )

    def made(value: Mapping[int, int]) -> Split:
        new = [Segment(value[sizes.root(n)], value[sizes.root(u)]) for n, u in zip(pieces, units, strict=True)]
        return Split(split.axes, tuple(new))

    return made


def _place_of(at: int, size: int, workers: int) -> tuple[int, bool]:
    """In whose share of a dimension a place is, and whether it begins there."""
    share = -(-size // workers)
    return at // share, at % share == 0


def _share(pieces: Sequence[int], units: Sequence[int], workers: int) -> int:
    """How much a worker holds of pieces that are dealt out in units."""
    return sum(-(-n // (unit * workers)) * unit for n, unit in zip(pieces, units, strict=True))
