"""Running a Relax module on values of all workers at once, each binding on every worker before the next.

So collectives find what each worker brings, and one that some workers do not reach is seen.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tvm
import tvm_ffi
from tvm import relax, tirx

from spmd.placement.mesh import Mesh

from . import collectives
from .expressions import empty, is_float, size_of, storage, variables
from .field import of_float, of_floats
from .kernel import Kernel
from .opaque import Opaque
from .operators import ALONE, SAME
from .undecided import Undecided
from .values import Sizes, Tensor, Unknown, Wrong, first_unknown

Column = list[Any]
"""A value of each worker, by place among those that run."""
Decide = Callable[[list[bool]], "bool | None"]
_DEEPEST = 48
"""Functions that call each other to this depth are not followed: Python has its limit, too."""
_OWN = ("relax.spmd.", "relax.ccl.")
_ASKED = "relax.inspect.tensor_"
"""Operators that ask about a tensor, which is compact here."""


@dataclass
class Step:
    """A binding that ran: for errors that look for the first wrong value."""

    function: str
    name: str
    operator: str
    values: Column


@dataclass
class Frame:
    """A function at work: the workers that run it, by rank, and its variables."""

    function: str
    ranks: list[int]
    variables: dict[Any, Column] = field(default_factory=dict[Any, Column])

    def among(self, places: list[int]) -> Frame:
        """The same for some of the workers."""
        columns = {name: [column[i] for i in places] for name, column in self.variables.items()}
        return Frame(self.function, [self.ranks[i] for i in places], columns)


class Program:
    """A module and the workers that run it. `decide` may say which way an If goes, when it is told where each worker would."""

    def __init__(self, mod: tvm.IRModule, mesh: Mesh, opaque: Opaque, decide: Decide = lambda conditions: None) -> None:
        self.mesh, self.opaque, self.decide = mesh, opaque, decide
        self.mod = _with_loops(mod)
        self.steps: list[Step] | None = None
        self.inside: list[Tensor] = []
        """What kernels kept for themselves, where `steps` are recorded."""
        self.outside = 0
        """How many elements were read or written outside of memory."""
        self._kernels: dict[Any, Kernel] = {}
        self._constants: dict[Any, Tensor] = {}
        self._last: dict[Any, dict[Any, list[Any]]] = {}
        self._at = ""
        self._running: list[str] = []
        """The functions that are at work, one called by the other."""
        self.shares = not any(_writes_in_place(f) for f in self.mod.functions.values())
        """Whether workers that compute the same may have one tensor of it."""

    def run(self, name: str, args: Sequence[Column]) -> Column:
        """What a function gives on each worker. Raises `Wrong` where workers would wait for each other, with the value in its text."""
        try:
            self._running.clear()
            return self._function(self.mod[name], name, list(range(self.mesh.size)), args)
        except Wrong as wrong:
            raise Wrong(f"{self._at}: {wrong}" if self._at else str(wrong)) from wrong
        except (ArithmeticError, LookupError, TypeError, ValueError) as error:  # shapes that do not fit, as NumPy says it
            raise Wrong(f"{self._at}: {error}") from error

    def _function(self, func: Any, name: str, ranks: list[int], args: Sequence[Column]) -> Column:
        frame = Frame(name, ranks)
        if len(func.params) != len(args):
            raise Wrong(f"{name!r} takes {len(func.params)} arguments, and is given {len(args)}")
        for param, column in zip(func.params, args, strict=True):
            frame.variables[param] = column
            self._bind_sizes(param.ty, column, frame)
        self._running.append(name)
        if len(self._running) > _DEEPEST:
            self._running.clear()
            raise Undecided(f"a loop of {name!r} that does not end in {_DEEPEST} turns")
        found = self._expression(func.body, frame)
        self._running.pop()
        return found

    def _bind_sizes(self, ty: Any, column: Column, frame: Frame) -> None:
        """Give the symbols in a type the sizes that values have."""
        if isinstance(ty, relax.TupleType):
            for i, inner in enumerate(ty.fields):
                if not any(isinstance(value, Unknown) for value in column):
                    self._bind_sizes(inner, [value[i] for value in column], frame)
            return
        named: Any = ()
        if isinstance(ty, relax.TensorType) and isinstance(ty.shape, relax.ShapeExpr):
            named, column = ty.shape.values, [np.shape(v.data) if isinstance(v, Tensor) else v for v in column]
        elif isinstance(ty, relax.ShapeType) and ty.values is not None:
            named = ty.values
        elif isinstance(ty, tvm.ir.PrimType) and isinstance(getattr(ty, "value", None), tvm.ir.Var):
            named, column = [ty.value], [(value,) for value in column]
        if any(isinstance(value, Unknown) for value in column):
            return
        for i, size in enumerate(named):
            if isinstance(size, tvm.ir.Var) and size not in frame.variables:
                frame.variables[size] = [int(sizes[i]) for sizes in column]

    def _expression(self, e: Any, frame: Frame) -> Column:
        if isinstance(e, relax.SeqExpr):
            last = self._last_uses(e) if self.steps is None else {}
            for block in e.blocks:
                for binding in block.bindings:
                    self._binding(binding, frame)
                    for variable in last.get(binding.var, ()):
                        frame.variables.pop(variable, None)
            return self._expression(e.body, frame)
        if isinstance(e, relax.If):
            return self._branch(e, frame)
        if isinstance(e, tvm.ir.Call):
            return self._call(e, frame)
        if isinstance(e, relax.TupleGetItem):
            return [v if isinstance(v, Unknown) else v[e.index] for v in self._expression(e.tuple_value, frame)]
        return self._leaf(e, frame)

    def _last_uses(self, e: Any) -> dict[Any, list[Any]]:
        """Which variables nobody needs after a binding of a sequence, of those that it binds."""
        if e not in self._last:
            bindings = [binding for block in e.blocks for binding in block.bindings]
            own, last = {binding.var for binding in bindings}, dict[Any, Any]()
            for at, part in (*((binding.var, binding.value) for binding in bindings), (None, e.body)):
                used: list[Any] = []
                tvm_ffi.structural_walk(part, ((relax.Var,), used.append))
                last.update((variable, at) for variable in used)
            found = self._last[e] = dict[Any, list[Any]]()
            for variable, at in last.items():
                if variable in own and at is not None:
                    found.setdefault(at, []).append(variable)
        return self._last[e]

    def _leaf(self, e: Any, frame: Frame) -> Column:
        if isinstance(e, tvm.ir.Var) and e in frame.variables:
            return frame.variables[e]
        if isinstance(e, relax.Tuple):
            columns = [self._expression(part, frame) for part in e.fields]
            return [tuple(column[i] for column in columns) for i in range(len(frame.ranks))]
        if isinstance(e, relax.ShapeExpr):
            columns = [self._size(size, frame) for size in e.values]
            return [Sizes(column[i] for column in columns) for i in range(len(frame.ranks))]
        if isinstance(e, tvm.ir.StringImm):
            return [str(e.value)] * len(frame.ranks)
        if isinstance(e, tvm.ir.GenericConst):
            constant = self._constant(e)
            return [constant if self.shares else _copied(constant) for _ in frame.ranks]
        if isinstance(e, tvm.ir.GlobalVar | relax.ExternFunc):
            return [e] * len(frame.ranks)
        return self._size(e, frame)

    def _constant(self, e: Any) -> Any:
        if not isinstance(e.value, tvm.runtime.Tensor):
            return str(e.value)
        if e not in self._constants:
            dtype = str(e.value.dtype)
            array = e.value.numpy()
            self._constants[e] = Tensor(of_floats(array, dtype) if is_float(dtype) else array.astype(storage(dtype)), dtype)
        return self._constants[e]

    def _size(self, e: Any, frame: Frame) -> Column:
        """A number: a size, or an argument that is no tensor."""
        if isinstance(e, int):
            return [e] * len(frame.ranks)
        if isinstance(e, tirx.FloatImm | tirx.IntImm):
            return [e.value] * len(frame.ranks)
        try:
            known = {v: frame.variables[v] for v in variables(e)}
        except KeyError:
            return [Unknown(f"the size {e}, of which nothing is known")] * len(frame.ranks)
        return [size_of(e, {v: column[i] for v, column in known.items()}) for i in range(len(frame.ranks))]

    def _binding(self, binding: Any, frame: Frame) -> None:
        self._at = f"{frame.function}, {binding.var.name!r}"
        values = self._expression(binding.value, frame)
        frame.variables[binding.var] = values
        self._bind_sizes(binding.ty if isinstance(binding, relax.MatchCast) else binding.var.ty, values, frame)
        if self.steps is not None and len(frame.ranks) == self.mesh.size and isinstance(binding.value, tvm.ir.Call):
            self.steps.append(Step(frame.function, binding.var.name, _operator(binding.value), values))

    def _branch(self, e: Any, frame: Frame) -> Column:
        """Where workers go different ways, each way is gone by those that take it: a collective there would lack the others."""
        conditions = self._expression(e.cond, frame)
        if unknown := first_unknown(conditions):
            return [unknown] * len(frame.ranks)
        ways = [bool(np.asarray(c.data if isinstance(c, Tensor) else c).reshape(())) for c in conditions]
        forced = self.decide(ways) if len(set(ways)) == 1 else None
        if self._running.count(frame.function) > 1:  # a loop that is told which way to go never ends
            forced = None
        ways = ways if forced is None else [forced] * len(ways)
        found: Column = [None] * len(ways)
        for way in sorted(set(ways), reverse=True):
            places = [i for i, w in enumerate(ways) if w == way]
            inner = frame.among(places)
            for i, value in zip(places, self._expression(e.true_branch if way else e.false_branch, inner), strict=True):
                found[i] = value
        return found

    def _call(self, e: Any, frame: Frame) -> Column:
        name = e.op.name if isinstance(e.op, tvm.ir.Op) else ""
        if name == "relax.spmd.axis_index":
            axis = (str(e.attrs["axis"]),)
            self._check_axis(axis[0], e)
            return [Tensor(np.asarray(self.mesh.index(rank, axis)), "int64") for rank in frame.ranks]
        if name.startswith(_OWN) and name not in SAME:
            return self._collective(e, name, self._expression(e.args[0], frame), frame)
        if isinstance(e.op, tvm.ir.GlobalVar):
            if not isinstance(self.mod[e.op], relax.Function):
                return [Unknown(f"the call of {e.op.name_hint!r}, which is no function of Relax")] * len(frame.ranks)
            columns = [self._expression(arg, frame) for arg in e.args]
            return self._function(self.mod[e.op], e.op.name_hint, frame.ranks, columns)
        columns = [self._expression(arg, frame) for arg in e.args]
        types = [self._out_types(ty, frame) for ty in e.ty_args] or [self._out_types(e.ty, frame)]
        done: dict[Any, Any] = {}
        found: Column = []
        for i, rank in enumerate(frame.ranks):
            args, out = [column[i] for column in columns], types[0][i]
            key = (tuple(map(_identity, args)), str(out)) if self.shares and _is_pure(name) else i
            if key not in done:
                done[key] = self._operator(e, name, args, out, rank)
            found.append(done[key])
        return found

    def _operator(self, e: Any, name: str, args: list[Any], out: Any, rank: int) -> Any:
        """One operator on one worker."""
        if unknown := first_unknown((*args, out)):
            return unknown
        try:
            if name in ("relax.call_tir", "relax.call_tir_inplace"):
                return self._kernel(e, args, out)
            if name in SAME:
                return args[0]
            if name in ALONE:
                return ALONE[name](args[0], e.attrs)
            if name.startswith(_ASKED):
                return _asked(name.removeprefix(_ASKED), args)
            if name == "relax.memory.view" and out.dtype == args[0].dtype and np.prod(out.shape) == args[0].data.size:
                return Tensor(args[0].data.reshape(out.shape), out.dtype)
            if name in ("relax.shape_of", "relax.tensor_to_shape"):
                return Sizes(int(n) for n in (args[0].data if name == "relax.tensor_to_shape" else args[0].data.shape))
            called, given, in_place = _called(e, name, args)
            return self.opaque.call(called, given, in_place, out, rank)
        except Undecided as undecided:
            return Unknown(f"{undecided} in {self._at}")

    def _kernel(self, e: Any, args: list[Any], out: Any) -> Any:
        func, given = args[0], list(args[1])
        if func not in self._kernels:
            self._kernels[func] = Kernel(self.mod[func], real=not given)
        outs: list[Any] = list(out) if isinstance(out, tuple) else [out]  # pyright: ignore[reportUnknownArgumentType]
        places = [int(i) for i in e.attrs.inplace_indices] if "inplace" in e.op.name else [-1] * len(outs)
        results = [given[p] if p >= 0 else Tensor(empty(o.shape, o.dtype), o.dtype) for p, o in zip(places, outs, strict=True)]
        scalars = list(args[2]) if len(args) > 2 else []
        values = [*given, *(r for r, p in zip(results, places, strict=True) if p < 0), *scalars]
        if given:
            outside, memory = self._kernels[func]([_memory(value) for value in values])
        else:
            outside, memory = self._constants_of(self._kernels[func], results, scalars)
        self.outside += outside
        if self.steps is not None:
            self.inside += [Tensor(array, "float32") for array in memory if isinstance(array, np.ndarray) and array.dtype == np.int64]
        return tuple(results) if isinstance(out, tuple) else results[0]

    def _constants_of(self, kernel: Kernel, results: list[Tensor], scalars: list[Any]) -> tuple[int, list[Any]]:
        """Run a kernel that is given nothing: on floats, which are numbers of the field afterwards."""
        plain = [np.full(r.data.shape, np.nan) if is_float(r.dtype) else r.data for r in results]
        outside, _ = kernel([*plain, *scalars])
        for result, array in zip(results, plain, strict=True):
            result.data[...] = of_floats(array, result.dtype) if is_float(result.dtype) else array
        return outside, []

    def _out_types(self, ty: Any, frame: Frame) -> Column:
        """The sizes and type of a result on each worker."""
        if isinstance(ty, relax.TupleType):
            columns = [self._out_types(inner, frame) for inner in ty.fields]
            return [tuple(column[i] for column in columns) for i in range(len(frame.ranks))]
        if not isinstance(ty, relax.TensorType) or not isinstance(ty.shape, relax.ShapeExpr):
            return [None] * len(frame.ranks)
        columns = [self._size(size, frame) for size in ty.shape.values]
        shapes = [tuple(column[i] for column in columns) for i in range(len(frame.ranks))]
        return [first_unknown(shape) or Out(shape, str(ty.dtype)) for shape in shapes]

    def _check_axis(self, axis: str, e: Any) -> None:
        if not all(map(self.mesh.has, axis.split("+"))) or self.mesh.axis_size(axis) != int(e.attrs["workers"]):
            raise Wrong(f"it is over axis {axis!r} of {e.attrs['workers']} workers, and these are {self.mesh}")

    def _collective(self, e: Any, name: str, column: Column, frame: Frame) -> Column:
        """Every worker of a group brings its value; a tuple is a bundle of several."""
        short = name.split(".")[-1]
        if name.startswith("relax.spmd."):
            axis, step = str(e.attrs["axis"]), collectives.DIALECT[short]
            self._check_axis(axis, e)
            groups = self.mesh.groups(axis)
        else:
            step, groups = collectives.CCL[short], [list(range(self.mesh.size))]
            if not bool(getattr(e.attrs, "in_group", True)) and short in ("allreduce", "allgather"):
                raise Wrong(f"R.ccl.{short} over all groups of workers, of which there is one here: write in_group=True")
        found: Column = [None] * len(column)
        place = {rank: i for i, rank in enumerate(frame.ranks)}
        for group in groups:
            here = [place[rank] for rank in group if rank in place]
            if here and len(here) < len(group):
                come, lack = [r for r in group if r in place], [r for r in group if r not in place]
                raise Wrong(f"workers {come} wait in {short}, and workers {lack} never come")
            for i, value in zip(here, _met([column[i] for i in here], step, e.attrs, group), strict=False):
                found[i] = value if self.shares else _copied(value)
        return found


@dataclass(frozen=True)
class Out:
    """Shape and type of a result."""

    shape: tuple[int, ...]
    dtype: str


def _met(brought: list[Any], step: Any, attrs: Any, group: list[int]) -> Column:
    if not brought:
        return []
    if unknown := first_unknown(brought):
        return [unknown] * len(brought)
    if isinstance(brought[0], tuple):
        parts = [_met(list(part), step, attrs, group) for part in zip(*brought, strict=True)]
        return [tuple(part[i] for part in parts) for i in range(len(brought))]
    shapes = [value.data.shape for value in brought]
    if len(set(shapes)) > 1:
        raise Wrong(f"workers {group} bring different shapes, {shapes}")
    return step(brought, attrs)


def _with_loops(mod: tvm.IRModule) -> tvm.IRModule:
    """Operators as calls of PrimFuncs, where TVM makes them; collectives stay what they are."""
    skipped = [name for name in tvm.ir.Op.list_op_names() if name.startswith((*_OWN, _ASKED))]
    try:
        return relax.transform.LegalizeOps(None, skipped)(mod)
    except Exception as error:
        raise Undecided(f"TVM makes no loops of an operator: {str(error).strip().splitlines()[-1]}") from error


def _writes_in_place(func: Any) -> bool:
    found: list[Any] = []

    def visit(call: Any) -> None:
        name = call.op.name if isinstance(call.op, tvm.ir.Op) else ""
        if "inplace" in name or isinstance(call.op, relax.ExternFunc):
            found.append(call)

    if isinstance(func, relax.Function):
        tvm_ffi.structural_walk(func.body, ((tvm.ir.Call,), visit))
    return bool(found)


def _asked(what: str, args: list[Any]) -> Any:
    """What an operator tells of a tensor: a number."""
    shape, kind = args[0].data.shape, tvm.DataType(args[0].dtype)
    at = int(args[1]) if len(args) > 1 else 0
    told = {
        "ndim": len(shape), "dtype_bits": kind.bits, "dtype_code": int(kind.type_code), "dtype_lanes": kind.lanes, "byte_offset": 0,
        "elem_offset": 0, "shape_i": shape[at] if shape else 0, "stride_i": int(np.prod(shape[at + 1 :])),
    }  # fmt: skip
    if what not in told:
        raise Undecided(f"what {what!r} of a tensor is")
    return told[what]


def _copied(value: Any) -> Any:
    if isinstance(value, tuple) and not isinstance(value, Sizes):
        return tuple(map(_copied, value))
    return Tensor(value.data.copy(), value.dtype) if isinstance(value, Tensor) else value


def _memory(value: Any) -> Any:
    if isinstance(value, float):
        return np.asarray(of_float(value))
    return value.data if isinstance(value, Tensor) else np.int64(value) if isinstance(value, int) else value


def _identity(value: Any) -> Any:
    """A key that is the same for the same value, as workers hold it."""
    if isinstance(value, tuple):
        return tuple(map(_identity, value))
    return value if isinstance(value, int | float | str) else id(value)


def _is_pure(name: str) -> bool:
    """Whether workers that give the same get the same."""
    return name == "relax.call_tir" or name in ALONE or name in SAME


def _called(e: Any, name: str, args: list[Any]) -> tuple[str, list[Any], list[int] | None]:
    """The name of a packed function or an operator without loops, what it is given, and what it writes of that, None where nobody says."""
    if isinstance(e.op, relax.ExternFunc):
        return str(e.op.global_symbol), args, None
    if name in ("relax.call_dps_packed", "relax.call_pure_packed", "relax.call_inplace_packed") and isinstance(args[0], relax.ExternFunc):
        given = list(args[1]) if name == "relax.call_dps_packed" else args[1:]
        written = [int(i) for i in e.attrs.inplace_indices] if name == "relax.call_inplace_packed" else []
        return str(args[0].global_symbol), given, written
    return f"{name} {e.attrs}" if e.attrs is not None else name, args, []


def _operator(e: Any) -> str:
    """What an error calls a call."""
    if isinstance(e.op, tvm.ir.GlobalVar | relax.ExternFunc):
        return str(getattr(e.op, "name_hint", None) or e.op.global_symbol)
    first: Any = e.args[0] if e.args else None
    if isinstance(first, tvm.ir.GlobalVar):
        return first.name_hint
    return str(first.global_symbol) if isinstance(first, relax.ExternFunc) else f"R.{e.op.name.removeprefix('relax.')}"
