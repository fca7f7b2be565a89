"""Large constants of a program put among its parameters: weights with names, that are placed, cut and loaded like any other.

What was lifted stays with its function, as the attribute ``spmd.constants``: the data of its last parameters, in order. A private
function that is not inlined (it calls itself) is handed its constants by whoever calls it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tvm
import tvm_ffi
from numpy.typing import NDArray
from tvm import relax

from spmd.ir.trees import Tree

from .inline import called, is_foreign, is_public

LIFT = 1024
"""Bytes from which on a constant is a weight. To hold so little whole, and to read it, costs less than to launch what would cut it."""
CONSTANTS = "spmd.constants"
_CALLS = ("relax.call_tir", "relax.call_tir_inplace", "relax.call_dps_packed", "relax.call_pure_packed")
_SEEN_THROUGH = [f"relax.{name}" for name in ["astype", "expand_dims", "flatten", "permute_dims", "reshape", "spmd.hint", "squeeze"]]
"""Operators after which a constant is named by who reads their result."""


@dataclass(eq=False)
class _Weight:
    """A constant that becomes a parameter."""

    name: str
    data: Any
    ty: Any


@dataclass
class _Found:
    """The weights of one function, in the order in which it reads them, and who they were: by hash, the identity of an expression."""

    weights: dict[_Weight, None] = field(default_factory=dict[_Weight, None])
    of: dict[int, _Weight] = field(default_factory=dict[int, _Weight])


def lifted(mod: tvm.IRModule, least: int = LIFT) -> tvm.IRModule:
    """`mod` with every constant of `least` bytes or more, in functions that spmd follows, as a parameter; `mod` is not changed.

    Equal constants are one weight. Constants of rank 0 and without elements stay, and those of functions within functions.
    """
    functions = {gv.name_hint: f for gv, f in sorted(mod.functions.items(), key=lambda item: item[0].name_hint) if _takes_more(f)}
    if not any(large_constants(f.body, least) for f in functions.values()):
        return mod
    for name in _handed_on(functions.values()):
        functions.pop(name, None)
    names = _Names(functions)
    found = {name: _find(name, f, least, names) for name, f in functions.items()}
    if not any(f.weights for f in found.values()):
        return mod
    needed = _with_callees(functions, {name: list(f.weights) for name, f in found.items()})
    return _rewritten(mod, functions, found, needed)


def constants_of(function: relax.Function) -> list[Any]:
    """The data of the last parameters of a function, those that were constants."""
    return list(function.attrs.get(CONSTANTS, ())) if function.attrs else []


def kept_whole(mod: tvm.IRModule, least: int) -> str:
    """What a reader must know of large constants that are still in the program after `lifted`; empty where there are none."""
    kept = {hash(c): c for f in mod.functions.values() if isinstance(f, relax.Function) for c in large_constants(f.body, LIFT)}
    if not kept:
        return ""
    small = all(byte_size(c.ty) < least for c in kept.values())
    why = f"lift={least} leaves them there" if small else "functions within functions, and those passed on as values, keep theirs"
    what = f"{len(kept)} constants of {sum(byte_size(c.ty) for c in kept.values()):,} bytes in all are whole on every worker"
    return f"{what}, as {why}; make them arguments to have them cut"


def byte_size(ty: Any) -> int:
    """The bytes of a tensor whose sizes are known, 0 of any other type."""
    if not isinstance(ty, relax.TensorType) or not isinstance(ty.shape, relax.ShapeExpr):
        return 0
    sizes = [int(n) for n in ty.shape.values if isinstance(n, tvm.tirx.IntImm)]
    bits = tvm.DataType(str(ty.dtype)).bits * tvm.DataType(str(ty.dtype)).lanes
    return -(-int(np.prod(sizes, dtype=np.int64)) * bits // 8) if len(sizes) == len(ty.shape.values) else 0


def large_constants(expr: Any, least: int) -> list[Any]:
    """The constants of `least` bytes or more in an expression, in order, those of functions within it too."""
    found: list[Any] = []

    def see(constant: Any) -> None:
        if isinstance(constant.ty, relax.TensorType) and constant.ty.ndim > 0 and byte_size(constant.ty) >= max(least, 1):
            found.append(constant)

    tvm_ffi.structural_walk(expr, (tvm.ir.GenericConst, see))
    return found


def _takes_more(function: Any) -> bool:
    return isinstance(function, relax.Function) and not is_foreign(function)


def _handed_on(functions: Iterable[relax.Function]) -> set[str]:
    """The names of functions that are used as values: nobody knows who calls them."""
    found: set[str] = set()

    def call(made: Any, mutator: Any) -> Any:
        for part in made.args if isinstance(made.op, tvm.ir.GlobalVar) else [made.op, *made.args]:
            mutator.mutate(part)
        return made

    def see(var: Any, _: Any) -> Any:
        found.add(var.name_hint)
        return var

    for function in functions:
        tvm_ffi.structural_mutate(function.body, [(tvm.ir.Call, call), (tvm.ir.GlobalVar, see)])
    return found


def _find(function: str, source: relax.Function, least: int, names: _Names) -> _Found:
    """The constants of one function, those of its branches too."""
    found = _Found()
    if not large_constants(source.body, least):
        return found
    bindings = list(_bindings(source.body))
    readers = _readers(bindings)
    for binding, parts in (*((b, [b.value]) for b in bindings), (None, list(_results(source.body)))):
        for constant in (c for part in parts for c in _outside_of_functions(part, least)):
            weight = names.known(constant) or names.new(function, _reader(binding, readers), constant)
            found.weights[weight] = None
            found.of[hash(constant)] = weight
    return found


def _outside_of_functions(expr: Any, least: int) -> list[Any]:
    """The large constants of what a variable is bound to. Branches have bindings of their own."""
    return [] if isinstance(expr, relax.Function | relax.If) else large_constants(expr, least)


def _bindings(body: relax.SeqExpr) -> Iterator[Any]:
    """All bindings, each before those that come after it, those of branches among them."""
    for block in body.blocks:
        for binding in block.bindings[:]:
            if isinstance(binding.value, relax.If):
                yield from _bindings(binding.value.true_branch)
                yield from _bindings(binding.value.false_branch)
            yield binding


def _results(body: relax.SeqExpr) -> Iterator[Any]:
    """What a body and its branches give."""
    for block in body.blocks:
        for binding in block.bindings[:]:
            if isinstance(binding.value, relax.If):
                yield from _results(binding.value.true_branch)
                yield from _results(binding.value.false_branch)
    yield body.body


def _readers(bindings: Sequence[Any]) -> dict[int, Any]:
    """The first binding that reads each variable."""
    found: dict[int, Any] = {}
    for binding in bindings:
        for var in relax.analysis.free_vars(binding.value):
            found.setdefault(hash(var), binding)
    return found


def _reader(binding: Any, readers: Mapping[int, Any]) -> Any:
    """The binding whose operator a constant is for: transposes of it, and the like, are seen through."""
    while binding is not None and isinstance(binding.value, tvm.ir.Call) and getattr(binding.value.op, "name", "") in _SEEN_THROUGH:
        after = readers.get(hash(binding.var))
        if after is None:
            break
        binding = after
    return binding


class _Names:
    """The weights so far, each with a name that nothing else in the module has."""

    def __init__(self, functions: Mapping[str, relax.Function]) -> None:
        self._taken = {name for function, f in functions.items() for name in _names_of(function, f)}
        self._counts: Counter[str] = Counter()
        self._alike: dict[tuple[Any, ...], list[_Weight]] = {}

    def known(self, constant: Any) -> _Weight | None:
        """The weight of an equal constant."""
        alike = self._alike.get(_fingerprint(constant), ())
        return next((w for w in alike if w.data.same_as(constant.value) or np.array_equal(_raw(w.data), _raw(constant.value))), None)

    def new(self, function: str, binding: Any, constant: Any) -> _Weight:
        """A weight named by the variable that is bound to the constant, else by the operator that takes it and a number."""
        if binding is not None and _is_name(binding):
            name = free = f"{function}.{binding.var.name}"
        else:
            name, free = f"{function}.{_operator(binding)}", ""
        while not free or free in self._taken:
            free = f"{name}.{self._counts[name]}.constant"
            self._counts[name] += 1
        self._taken.add(free)
        weight = _Weight(free, constant.value, constant.ty)
        self._alike.setdefault(_fingerprint(constant), []).append(weight)
        return weight


def _names_of(function: str, source: relax.Function) -> Iterator[str]:
    """What weights, and values inside, may be named: but for the variables of constants, which name no value."""
    for param in source.params:
        yield from (param.name, f"{function}.{param.name}")
    for binding in _bindings(source.body):
        if not _is_name(binding):
            yield f"{function}.{binding.var.name}"


def _is_name(binding: Any) -> bool:
    """Whether it only gives a constant a name."""
    return isinstance(binding, relax.VarBinding) and isinstance(binding.value, tvm.ir.GenericConst)


def _operator(binding: Any) -> str:
    """What the operator of a binding is called: the last part of its name, or the function that it calls. None is the end of a body."""
    if binding is None:
        return "result"
    value = binding.value
    if not isinstance(value, tvm.ir.Call):
        return type(value).__name__.lower()
    name = getattr(value.op, "name", "")
    called = value.args[0] if name in _CALLS else value.op
    for attribute in ("name_hint", "global_symbol", "name"):
        if isinstance(found := getattr(called, attribute, None), str):
            return str(found).rpartition(".")[2]
    return "call"


def _fingerprint(constant: Any) -> tuple[Any, ...]:
    """Equal for equal constants, and seldom for others: the type, and a few of the bytes."""
    raw = _raw(constant.value)
    some = raw[:256].tobytes() + raw[:: max(raw.size // 256, 1)].tobytes()
    return str(constant.ty.dtype), tuple(constant.value.shape), some


def _raw(tensor: Any) -> NDArray[Any]:
    """The bytes of a tensor: without a copy where it is on the CPU."""
    if tensor.device.type != "cpu":
        return np.ascontiguousarray(tensor.numpy()).reshape(-1).view(np.uint8)
    count = int(np.prod(tensor.shape, dtype=np.int64)) * tvm.DataType(str(tensor.dtype)).bits // 8
    return np.from_dlpack(tensor._create_view((count,), "uint8"))  # pyright: ignore[reportPrivateUsage]


def _with_callees(functions: Mapping[str, relax.Function], own: Mapping[str, list[_Weight]]) -> dict[str, list[_Weight]]:
    """What each function needs: its own weights, and those of the functions that it calls."""
    calls = {name: [n for n in called(f) if n in functions and not is_public(functions[n])] for name, f in functions.items()}
    needed = {name: dict.fromkeys(weights) for name, weights in own.items()}
    grew = True
    while grew:
        grew = False
        for name, callees in calls.items():
            before = len(needed[name])
            for callee in callees:
                needed[name].update(dict(needed[callee]))
            grew |= len(needed[name]) > before
    return {name: list(weights) for name, weights in needed.items()}


def _rewritten(
    mod: tvm.IRModule, functions: Mapping[str, relax.Function], found: Mapping[str, _Found], needed: Mapping[str, Sequence[_Weight]]
) -> tvm.IRModule:
    """The module whose functions take what they need."""
    private = {n: tvm.ir.GlobalVar(n) for n, f in functions.items() if needed[n] and not is_public(f)}
    made: dict[Any, Any] = {}
    for variable, function in mod.functions_items():
        name = variable.name_hint
        if name not in functions:
            made[variable] = function
            continue
        params = {weight: relax.Var(weight.name, weight.ty) for weight in needed[name]}
        body = _body(function, {constant: params[weight] for constant, weight in found[name].of.items()}, params, private, needed)
        new = relax.Function([*function.params, *params.values()], body, function.ret_ty, function.is_pure, function.attrs)
        if name in private:
            relax.expr._update_type(private[name], new.ty)  # pyright: ignore[reportPrivateUsage]
        elif params:
            new = new.with_attr(CONSTANTS, [weight.data for weight in params])
        made[private.get(name, variable)] = new
    return tvm.IRModule(made, attrs=mod.attrs, global_infos=mod.global_infos)


def _body(
    function: relax.Function,
    constants: Mapping[int, Any],
    params: Mapping[_Weight, Any],
    private: Mapping[str, Any],
    needed: Mapping[str, Sequence[_Weight]],
) -> relax.SeqExpr:
    """The body with parameters in the place of constants, and handed to the functions that it calls."""

    def call(made: Any, mutator: Any) -> Any:
        made = mutator.default_mutate(made)
        if not isinstance(made.op, tvm.ir.GlobalVar) or made.op.name_hint not in private:
            return made
        more = tvm.ir.Call(made.op, [*made.args, *(params[w] for w in needed[made.op.name_hint])], made.attrs, made.ty_args)
        relax.expr._update_type(more, made.ty)  # pyright: ignore[reportPrivateUsage]
        return more

    callbacks: Tree[Any] = (
        (relax.Function, lambda inner, _: inner),
        (tvm.ir.GenericConst, lambda constant, _: constants.get(hash(constant), constant)),
    )
    if private:
        callbacks += ((tvm.ir.Call, call), (tvm.ir.GlobalVar, lambda variable, _: private.get(variable.name_hint, variable)))
    return tvm_ffi.structural_mutate(function.body, list(callbacks))
