"""State that is donated: a result is written into the memory of the parameter that it replaces, where nobody reads that any more.

It is decided late, when kernels are fused and scheduled and their order is known. A kernel that reads what it replaces does so in the one
buffer that it writes, and only where it reads each element right where it writes it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import tvm
import tvm_ffi
from tvm import relax, s_tir, tirx

from spmd.ir.expressions import intrinsic
from spmd.ir.per_worker import DONATED

from .cpu.analysis import is_unit, variables

_LOG = logging.getLogger("spmd")
_NEW = "relax.builtin.alloc_tensor"
_POINTERS = frozenset(("address_of", "tvm_access_ptr", "call_extern", "call_pure_extern", "tvm_call_packed", "tvm_call_cpacked"))
"""Operators by which a kernel may touch more than its loads and stores say."""

Lying = frozenset[int]
"""The memory, by number, in which a value may lie."""
Tree = Lying | tuple["Tree", ...]


@tvm.transform.module_pass(opt_level=0, name="spmd.WriteDonated")
class WriteDonated:
    """Results of functions that have `DONATED`, in the memory of what they replace. It runs on calls of kernels with the memory of their
    results; a result for which it cannot be keeps memory of its own.
    """

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        """A new module; `mod` itself where nothing is donated."""
        functions = {gv: f for gv, f in mod.functions_items() if isinstance(f, relax.Function) and f.attrs and DONATED in f.attrs}
        if not functions:
            return mod
        kernels = _Kernels(mod)
        for gv, func in functions.items():
            kernels.bb.update_func(gv, _Donation(func, kernels, gv.name_hint).run())
        return kernels.bb.get()


class _Donation:
    """The donation of one function."""

    def __init__(self, func: relax.Function, kernels: _Kernels, name: str) -> None:
        self.func, self.kernels, self.name = func, kernels, name
        self.bindings = [binding for block in func.body.blocks for binding in block.bindings]
        self._count = 0
        self._trees: dict[Any, Tree] = {param: self._fresh(param.ty) for param in func.params}
        self._new: dict[int, int] = {}
        """Memory that is allocated -> the binding that does it."""
        self._touched = [self._see(binding, at) for at, binding in enumerate(self.bindings)]
        """What each binding may read or write."""

    def run(self) -> relax.Function:
        """The function with what can be written in place."""
        results = self._tree(self.func.body.body)
        changed: dict[int, Any] = {}
        for result, param in self.func.attrs[DONATED]:
            result, param = [int(i) for i in result], [int(i) for i in param]
            if not self._write(_field(results, result), results, self.func.params[param[0]], param[1:], changed):
                where = "".join(f"[{i}]" for i in result)
                _LOG.info("%s: result %s has memory of its own: what it replaces is read after it is written", self.name, where)
        if not changed:
            return self.func
        blocks: list[Any] = []
        numbers = iter(range(len(self.bindings)))
        for block in self.func.body.blocks:
            made = [b for binding in block.bindings for b in changed.get(next(numbers), [binding])]
            blocks.append(relax.DataflowBlock(made) if isinstance(block, relax.DataflowBlock) else relax.BindingBlock(made))
        func = self.func
        return relax.Function(func.params, relax.SeqExpr(blocks, func.body.body), func.ret_ty, bool(func.is_pure), func.attrs, func.span)

    def _write(self, made: Tree, results: Tree, param: Any, path: Sequence[int], changed: dict[int, Any]) -> bool:
        """Have a result written into the memory of a parameter; False where it cannot be."""
        old = _field(self._trees[param], path)
        if made == old:
            return True
        if isinstance(made, tuple) or isinstance(old, tuple) or len(made) != 1 or old & _all(results):
            return False
        (number,) = made
        at = self._new.get(number, -1)
        users = [i for i, touched in enumerate(self._touched) if number in touched and i != at]
        if at < 0 or at in changed or not users or any(old & touched for touched in self._touched[users[0] + 1 :]):
            return False
        alloc, writer = self.bindings[at], self.bindings[users[0]]
        ty = param.ty
        for i in path:
            ty = ty.fields[i]
        if not isinstance(writer.value, tvm.ir.Call) or not tvm_ffi.structural_equal(alloc.var.ty, ty):
            return False
        if old & self._touched[users[0]]:
            called = changed[users[0]][0].value if users[0] in changed else writer.value
            merged = self._merged(called, old, made)
            if merged is None:
                return False
            changed[users[0]] = [relax.VarBinding(writer.var, merged, writer.span)]
        changed[at] = _bound(alloc.var, param, path)
        return True

    def _merged(self, call: Any, old: Lying, made: Lying) -> Any:
        """The call of a kernel without the argument that it replaces, which it reads in what it writes; None where that is not possible."""
        lying = [_all(self._tree(arg)) for arg in call.args]
        reads, writes = ([i for i, there in enumerate(lying) if there & one] for one in (old, made))
        if len(reads) != 1 or len(writes) != 1 or lying[reads[0]] != old or not isinstance(call.op, tvm.ir.GlobalVar):
            return None
        kernel = self.kernels.merged(call.op, reads[0], writes[0])
        return None if kernel is None else relax.Call(kernel, [arg for i, arg in enumerate(call.args) if i != reads[0]], call.attrs)

    def _see(self, binding: Any, at: int = -1) -> Lying:
        """Say where a value lies, and give what its binding may read or write; `at` is its number, if it stands in no branch."""
        value = binding.value
        if isinstance(value, tvm.ir.Var | relax.Tuple | relax.TupleGetItem):
            self._trees[binding.var] = self._tree(value)
            return frozenset()
        if isinstance(value, relax.If):
            touched, made = _all(self._tree(value.cond)), frozenset[int]()
            for branch in (value.true_branch, value.false_branch):
                touched = touched.union(*(self._see(inner) for block in branch.blocks for inner in block.bindings))
                made |= _all(self._tree(branch.body))
            self._trees[binding.var] = made
            return touched
        used: list[Any] = []
        tvm_ffi.structural_walk(value, (tvm.ir.Var, used.append))
        touched = frozenset(n for var in used for n in _all(self._trees.get(var, frozenset())))
        if isinstance(value, tvm.ir.Call) and isinstance(value.op, tvm.ir.Op) and value.op.name == _NEW:
            self._new |= {self._count: at} if at >= 0 else {}
            self._trees[binding.var] = self._fresh(None)
        else:  # it may be, or hold, any of what it is made from
            self._trees[binding.var] = touched | _all(self._fresh(None))
        return touched

    def _fresh(self, ty: Any) -> Tree:
        if isinstance(ty, relax.TupleType):
            return tuple(self._fresh(field) for field in ty.fields)
        self._count += 1
        return frozenset({self._count - 1})

    def _tree(self, expr: Any) -> Tree:
        if isinstance(expr, tvm.ir.Var):
            return self._trees.get(expr, frozenset())
        if isinstance(expr, relax.Tuple):
            return tuple(self._tree(field) for field in expr.fields)
        if isinstance(expr, relax.TupleGetItem):
            return _field(self._tree(expr.tuple_value), [expr.index])
        return frozenset()


class _Kernels:
    """The kernels of a module, and those made of them that read one argument in what they write."""

    def __init__(self, mod: tvm.IRModule) -> None:
        self.bb = relax.BlockBuilder(tvm.IRModule(dict(mod.functions_items()), mod.attrs, mod.global_infos))
        self._made: dict[tuple[str, int, int], Any] = {}

    def merged(self, name: Any, read: int, written: int) -> Any:
        """The kernel `name` with its buffer `read` being the one that it writes; None where it reads elsewhere than it writes."""
        key = (str(name.name_hint), read, written)
        if key not in self._made:
            func = self.bb.get()[name]
            made = _merged(func, read, written) if isinstance(func, tirx.PrimFunc) else None
            self._made[key] = None if made is None else self.bb.add_func(made, f"{name.name_hint}_in_place")
        return self._made[key]


def _merged(func: tirx.PrimFunc, read: int, written: int) -> tirx.PrimFunc | None:
    old, new = func.params[read], func.params[written]
    if not tvm_ffi.structural_equal(old.ty, new.ty) or not _is_elementwise(func, old, new):
        return None
    body = tvm_ffi.structural_mutate(func.body, [(tirx.Var, lambda var, _: new if var.same_as(old) else var)])
    params = [param for i, param in enumerate(func.params) if i != read]
    return tirx.PrimFunc(params, body, func.ret_type, func.attrs)


@dataclass(frozen=True)
class _Place:
    """Where a load or a store stands: the block around it, and the loops around that."""

    node: Any
    blocks: tuple[Any, ...]
    loops: tuple[Any, ...]


def _is_elementwise(func: tirx.PrimFunc, old: Any, new: Any) -> bool:
    """Whether each element of `old` is read only to make that of `new`, right before it is written, by the one who writes it once."""
    loads, stores, threads = list[_Place](), list[_Place](), set[str]()
    blocks, loops = list[Any](), list[Any]()
    plain = True

    def see(node: Any, visitor: Any) -> None:
        nonlocal plain
        inside = blocks if isinstance(node, s_tir.SBlockRealize) else loops if isinstance(node, tirx.For) else None
        if isinstance(node, tvm.ir.TensorLoad) and node.source.same_as(old):
            loads.append(_Place(node, tuple(blocks), tuple(loops)))
        elif isinstance(node, tirx.BufferStore) and node.buffer.same_as(new):
            stores.append(_Place(node, tuple(blocks), tuple(loops)))
        elif isinstance(node, tvm.ir.Call):
            plain &= intrinsic(node) not in _POINTERS
        elif isinstance(node, s_tir.SBlock):
            plain &= not len(node.match_buffers) and not any(region.source.same_as(old) for region in node.writes)
        elif isinstance(node, tirx.For) and node.thread_binding is not None:
            threads.add(str(node.thread_binding.thread_tag))
        if inside is not None:
            inside.append(node)
        visitor.default_visit(node)
        if inside is not None:
            inside.pop()

    kinds = (tvm.ir.Call, tvm.ir.TensorLoad, tirx.BufferStore, s_tir.SBlockRealize, s_tir.SBlock, tirx.For)
    tvm_ffi.structural_visit(func.body, [(kinds, see)])
    if not plain or len(stores) != 1 or not stores[0].blocks:
        return False
    (store,) = stores
    realize = store.blocks[-1]
    if realize.block.init is not None or any(it.iter_type != tirx.IterVar.DataPar for it in realize.block.iter_vars):
        return False
    if threads - {str(loop.thread_binding.thread_tag) for loop in store.loops if loop.thread_binding is not None}:
        return False
    return _runs_once(store) and all(
        load.blocks and load.blocks[-1].same_as(realize) and tvm_ffi.structural_equal(list(load.node.indices), list(store.node.indices))
        for load in loads
    )


def _runs_once(store: _Place) -> bool:
    """Whether no loop around a store makes an element again: each tells blocks apart, and each dimension of a block the elements."""
    told = set[tirx.Var]().union(*(variables(list(realize.iter_values)) for realize in store.blocks))
    own = {it.var for it in store.blocks[-1].block.iter_vars if not is_unit(it.dom.extent)}
    loops = {loop.loop_var for loop in store.loops if not is_unit(loop.extent)}
    return loops <= told and own <= variables(list(store.node.indices))


def _bound(var: Any, param: Any, path: Sequence[int]) -> list[Any]:
    """Bindings of `var` to a parameter, or a field of it."""
    made: list[Any] = []
    value, ty = param, param.ty
    for i in path[:-1]:
        ty = ty.fields[i]
        made.append(relax.VarBinding(relax.Var(f"{var.name}_in", ty), relax.TupleGetItem(value, i)))
        value = made[-1].var
    return [*made, relax.VarBinding(var, relax.TupleGetItem(value, path[-1]) if path else value)]


def _field(tree: Tree, path: Sequence[int]) -> Tree:
    for i in path:
        tree = tree[i] if isinstance(tree, tuple) else tree
    return tree


def _all(tree: Tree) -> Lying:
    return frozenset(_numbers(tree))


def _numbers(tree: Tree) -> Iterator[int]:
    if isinstance(tree, tuple):
        for part in tree:
            yield from _numbers(part)
    else:
        yield from tree
