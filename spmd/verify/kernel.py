"""What a PrimFunc computes: its loops run on arrays of integers and numbers of the field.

A nest of loops around a block runs as one operation on arrays: blocks say which of their iterations are independent and which add up.
Every other statement is run as it stands, one iteration after the other.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tvm
import tvm_ffi
from tvm import s_tir, tirx

from . import field
from .expressions import OUTSIDE, Env, Expressions, empty, is_float, loads, outside, variables
from .field import Array
from .undecided import Undecided

Run = Callable[[Env], None]
_MASK = "mask"
ARGSORT = "tvm.contrib.sort.argsort"
"""The function that kernels of TVM sort by: keys, memory for the places, axis, whether ascending."""
_LARGEST = 1 << 22
"""Elements of a grid that are computed at once."""
_SPATIAL, _REDUCE = 0, 2
_COMBINERS = {"Add": "sum", "Mul": "prod", "Max": "max", "Min": "min"}
_WHOLE: dict[str, Callable[[Array, tuple[int, ...]], Array]] = {
    "sum": lambda x, axes: x.sum(axes, dtype=x.dtype),
    "prod": lambda x, axes: x.prod(axes, dtype=x.dtype),
    "max": lambda x, axes: x.max(axes),
    "min": lambda x, axes: x.min(axes),
}


@dataclass(frozen=True)
class Loop:
    """A loop of a nest: the slot of its variable, and its range."""

    variable: Any
    slot: int
    first: Callable[[Env], Any]
    extent: Callable[[Env], Any]


@dataclass(frozen=True)
class Iteration:
    """A variable of a block: the slot, the value, where it begins, whether it is reduced over, and the loops that it depends on."""

    slot: int
    value: Callable[[Env], Any]
    first: Callable[[Env], Any]
    is_reduced: bool
    loops: frozenset[int]


class Kernel:
    """A PrimFunc, translated once. One that is given nothing computes constants: on `real` numbers, that is on floats."""

    def __init__(self, func: tirx.PrimFunc, real: bool = False) -> None:
        self._expressions, self._real = Expressions(real), real
        self._params = [(p, self._expressions.slot(p)) for p in func.params]
        self._sizes = {
            p: [self._expressions.slot(s) if isinstance(s, tvm.ir.Var) else None for s in p.ty.shape] for p in func.params if _is_buffer(p)
        }
        self._run = self._statement(func.body)

    def __call__(self, args: Sequence[Any]) -> tuple[int, list[Any]]:
        """Run on arrays, which are written to, and scalars; says how many elements it read or wrote outside of memory, and gives all that
        it computed with.
        """
        env: Env = {OUTSIDE: [0], _MASK: None}
        for (param, slot), arg in zip(self._params, args, strict=True):
            env[slot] = arg
            for size, n in zip(self._sizes.get(param, ()), np.shape(arg), strict=False):
                if size is not None:
                    env[size] = np.int64(n)
        with np.errstate(all="ignore"):
            self._run(env)
        return env[OUTSIDE][0], list(env.values())

    def _statement(self, s: Any) -> Run:
        if isinstance(s, tirx.SeqStmt):
            parts = [self._statement(part) for part in s.seq]

            def sequence(env: Env) -> None:
                for part in parts:
                    part(env)

            return sequence
        if isinstance(s, tirx.For):
            return self._loops(s)
        if isinstance(s, s_tir.SBlockRealize):
            return self._block(s)
        if isinstance(s, tirx.BufferStore):
            return self._store(s)
        if isinstance(s, tirx.IfThenElse):
            return self._branch(s)
        if isinstance(s, tirx.Bind):
            slot, value = self._expressions.slot(s.var), self._bound(s)
            return lambda env: env.__setitem__(slot, value(env))
        if isinstance(s, tirx.While):
            return self._while(s)
        if isinstance(s, tirx.AllocBuffer):
            return self._allocation(s.buffer)
        if isinstance(s, tirx.AttrStmt):
            return self._statement(s.body)
        if isinstance(s, tirx.Evaluate):
            return self._evaluate(s.value)
        raise Undecided(f"TIR statement {type(s).__name__}")

    def _evaluate(self, call: Any) -> Run:
        """A call for what it does: of barriers nothing, where one iteration runs after the other."""
        name = call.op.name.split(".")[-1] if isinstance(call, tvm.ir.Call) and isinstance(call.op, tvm.ir.Op) else ""
        if name in ("tvm_storage_sync", "assume"):
            return lambda env: None
        if name != "tvm_call_packed" or call.args[0].value != ARGSORT:
            raise Undecided(f"TIR call {call.args[0].value if name == 'tvm_call_packed' else name or call}")
        keys, places = (arg.args[0].args[0] for arg in call.args[1:3])
        slots, is_real = (self._expressions.slot(keys), self._expressions.slot(places)), is_float(str(keys.ty.dtype.dtype))
        axis, ascending = (self._expressions.term(arg).at for arg in call.args[3:5])

        def sort(env: Env) -> None:
            data = field.signed(env[slots[0]]) if is_real else env[slots[0]].astype("int64")
            env[slots[1]][...] = np.argsort(data if ascending(env) else ~data, axis=int(axis(env)), kind="stable")

        return sort

    def _bound(self, s: Any) -> Callable[[Env], Any]:
        return self._expressions.stored(s.value, self._expressions.term(s.value).dtype)

    def _while(self, s: Any) -> Run:
        test, body = self._expressions.term(s.condition).at, self._statement(s.body)

        def run(env: Env) -> None:
            while bool(test(env)):
                body(env)

        return run

    def _allocation(self, buffer: Any) -> Run:
        slot, dtype = self._expressions.slot(buffer), str(buffer.ty.dtype.dtype)
        sizes = [self._expressions.term(s).at for s in buffer.ty.shape]
        real = self._real and is_float(dtype)

        def allocate(env: Env) -> None:
            shape = tuple(int(size(env)) for size in sizes)
            env[slot] = np.full(shape, np.nan) if real else empty(shape, dtype)

        return allocate

    def _branch(self, s: Any) -> Run:
        test = self._expressions.term(s.condition).at
        then, other = self._statement(s.then_case), self._statement(s.else_case) if s.else_case is not None else None

        def branch(env: Env) -> None:
            chosen, mask = np.asarray(test(env)), env[_MASK]
            if chosen.ndim == 0 and mask is None:
                if chosen:
                    then(env)
                elif other is not None:
                    other(env)
                return
            for body, here in ((then, chosen), (other, np.logical_not(chosen))):
                if body is not None:
                    env[_MASK] = here if mask is None else mask & here
                    body(env)
            env[_MASK] = mask

        return branch

    def _store(self, s: Any) -> Run:
        slot, indices = self._expressions.slot(s.buffer), [self._expressions.term(i).at for i in s.indices]
        value = self._expressions.stored(s.value, str(s.buffer.ty.dtype.dtype))
        return lambda env: write(env, env[slot], [index(env) for index in indices], value(env))

    def _loops(self, s: Any) -> Run:
        """A loop, with those right inside it where the nest ends in a block."""
        loops: list[Loop] = []
        at = s
        while isinstance(at, tirx.For):
            loops.append(self._loop(at))
            at = at.body
        if isinstance(at, s_tir.SBlockRealize) and _is_simple(at.block):
            return self._nest(loops, at)
        body, loop = self._statement(s.body), loops[0]

        def run(env: Env) -> None:
            first, extent = int(loop.first(env)), int(loop.extent(env))
            for i in range(first, first + extent):
                env[loop.slot] = np.int64(i)
                body(env)

        return run

    def _loop(self, s: Any) -> Loop:
        term = self._expressions.term
        return Loop(s.loop_var, self._expressions.slot(s.loop_var), term(s.min).at, term(s.extent).at)

    def _iterations(self, realize: Any, loops: Sequence[Loop]) -> list[Iteration]:
        found: list[Iteration] = []
        for iteration, value in zip(realize.block.iter_vars, realize.iter_values, strict=True):
            used = variables(value)
            found.append(
                Iteration(
                    self._expressions.slot(iteration.var),
                    self._expressions.term(value).at,
                    self._expressions.term(iteration.dom.min).at,
                    int(iteration.iter_type) == _REDUCE,
                    frozenset(i for i, loop in enumerate(loops) if loop.variable in used),
                )
            )
        return found

    def _block(self, s: Any) -> Run:
        """One instance of a block."""
        block, iterations = s.block, self._iterations(s, [])
        predicate, allocations = self._expressions.term(s.predicate).at, [self._allocation(b) for b in block.alloc_buffers]
        init, body = self._statement(block.init) if block.init is not None else None, self._statement(block.body)

        def run(env: Env) -> None:
            for iteration in iterations:
                env[iteration.slot] = iteration.value(env)
            if not predicate(env):
                return
            for allocate in allocations:
                allocate(env)
            if init is not None and _begins(iterations, env):
                init(env)
            body(env)

        return run

    def _nest(self, loops: list[Loop], realize: Any) -> Run:
        """All instances of a block together, as far as they are independent or a known sum."""
        block, iterations = realize.block, self._iterations(realize, loops)
        one = self._block(realize)
        reduced = {i for it in iterations if it.is_reduced for i in it.loops}
        spatial = {i for it in iterations if not it.is_reduced for i in it.loops}
        strange = any(int(it.iter_type) not in (_SPATIAL, _REDUCE) for it in block.iter_vars)
        always = isinstance(realize.predicate, tirx.IntImm) and bool(int(realize.predicate))
        alone = strange or reduced & spatial or len(reduced | spatial) < len(loops) or _is_ordered(block) or (reduced and not always)
        order = sorted(spatial) if not alone else []
        rest = [i for i in range(len(loops)) if i not in order]
        step = self._sum(block, iterations, [loops[i] for i in order], [loops[i] for i in rest]) if not alone and rest else None

        def run(env: Env) -> None:
            if step is not None and step(env):
                return
            for axis, i in enumerate(order):
                env[loops[i].slot] = _axis(loops[i], env, axis, len(order))
            ranges = [range(int(loops[i].first(env)), int(loops[i].first(env) + loops[i].extent(env))) for i in rest]
            for point in itertools.product(*ranges):
                for i, at in zip(rest, point, strict=True):
                    env[loops[i].slot] = np.int64(at)
                one(env) if not order or always else self._masked(env, one, realize)

        return run

    def _masked(self, env: Env, one: Run, realize: Any) -> None:
        raise Undecided(f"a block with the condition {realize.predicate}")

    def _sum(self, block: Any, iterations: list[Iteration], spatial: list[Loop], reduced: list[Loop]) -> Callable[[Env], bool] | None:
        """``C[s] = C[s] + f(s, r)`` for a combiner that is known: `f` on the whole grid, then one reduction. False where it is empty."""
        store = block.body
        if not isinstance(store, tirx.BufferStore) or type(store.value).__name__ not in _COMBINERS:
            return None
        value = store.value
        own = [part for part in (value.a, value.b) if _is_same_place(part, store)]
        other = value.b if own and own[0].same_as(value.a) else value.a
        if len(own) != 1 and not (own and own[0].same_as(value.a)):
            return None
        if any(load.source.same_as(store.buffer) for load in loads(other)):
            return None
        kind, dtype = _COMBINERS[type(value).__name__], str(store.buffer.ty.dtype.dtype)
        terms = self._expressions.stored(other, dtype)
        fold = field.REDUCTIONS[kind] if is_float(dtype) and not self._real else _WHOLE[kind]
        init = self._statement(block.init) if block.init is not None else None
        slot, indices = self._expressions.slot(store.buffer), [self._expressions.term(i).at for i in store.indices]
        count, axes = len(spatial), tuple(range(len(spatial), len(spatial) + len(reduced)))
        ndim = count + len(reduced)

        def bind(env: Env, first: int, last: int) -> None:
            for axis, loop in enumerate((*spatial, *reduced)):
                env[loop.slot] = _axis(loop, env, axis, ndim)
            at = reduced[0]
            env[at.slot] = env[at.slot][(slice(None),) * count + (slice(first, last),)]
            for iteration in iterations:
                env[iteration.slot] = iteration.value(env)

        def run(env: Env) -> bool:
            sizes = [int(loop.extent(env)) for loop in (*spatial, *reduced)]
            if 0 in sizes:
                return False
            chunk = max(1, _LARGEST * sizes[count] // max(math.prod(sizes), 1))
            for first in range(0, sizes[count], chunk):
                last = min(first + chunk, sizes[count])
                bind(env, first, last)
                shape = (*sizes[:count], last - first, *sizes[count + 1 :])
                folded = fold(np.broadcast_to(terms(env), shape), axes)
                folded = folded.reshape(*sizes[:count], *(1 for _ in reduced)) if indices else folded
                if init is not None and first == 0 and _begins(iterations, env):
                    init(env)
                place = [index(env) for index in indices]
                before = env[slot][tuple(place)]
                both = np.stack(np.broadcast_arrays(before, folded))
                write(env, env[slot], place, fold(both, (0,)))
            return True

        return run


def _is_buffer(param: Any) -> bool:
    return isinstance(param.ty, tirx.BufferType)


def _axis(loop: Loop, env: Env, axis: int, ndim: int) -> Array:
    """The values of a loop variable along its own axis."""
    first, extent = int(loop.first(env)), int(loop.extent(env))
    return np.arange(first, first + extent).reshape([-1 if i == axis else 1 for i in range(ndim)])


def _begins(iterations: Sequence[Iteration], env: Env) -> bool:
    """Whether a reduction is at its first step."""
    return all(int(np.asarray(env[it.slot]).flat[0]) == int(it.first(env)) for it in iterations if it.is_reduced)


def _is_simple(block: Any) -> bool:
    """Whether it has no loops or blocks of its own."""
    inner: list[Any] = []
    tvm_ffi.structural_walk(block.body, ((tirx.For, tirx.While, s_tir.SBlockRealize, tirx.Evaluate), inner.append))
    return not inner and not block.alloc_buffers


def _is_same_place(part: Any, store: Any) -> bool:
    """Whether it reads what the store writes."""
    if not isinstance(part, tvm.ir.TensorLoad) or not part.source.same_as(store.buffer):
        return False
    return all(tvm_ffi.structural_equal(i, j) for i, j in zip(part.indices, store.indices, strict=True))


def _is_ordered(block: Any) -> bool:
    """Whether its instances must run in order: it writes where data says, or reads elsewhere what it writes."""
    stores: list[Any] = []
    tvm_ffi.structural_walk(block.body, ((tirx.BufferStore,), stores.append))
    if any(loads(index) for store in stores for index in store.indices):
        return True
    read = loads(block.body)
    return any(load.source.same_as(s.buffer) and not _is_same_place(load, s) for s in stores for load in read)


def write(env: Env, memory: Array, indices: list[Any], value: Any) -> None:
    """Write where the environment's mask lets it; what is outside of the memory is noted, and not written."""
    mask, beyond = env[_MASK], [outside(index, size) for index, size in zip(indices, memory.shape, strict=True)]
    if mask is None and not any(beyond) and np.shape(value) == np.broadcast_shapes(*map(np.shape, indices)):
        memory[tuple(indices)] = value
        return
    *indices, value = np.broadcast_arrays(*indices, value) if mask is None else np.broadcast_arrays(*indices, value, mask)[:-1]
    inside = np.ones(np.shape(value), bool) if mask is None else np.broadcast_to(mask, np.shape(value))
    for index, size, is_outside in zip(indices, memory.shape, beyond, strict=True):
        if is_outside:
            within = (index >= 0) & (index < size)
            env[OUTSIDE][0] += int(np.sum(~within[inside]))
            inside = inside & within
    memory[tuple(index[inside] for index in indices)] = value[inside]
