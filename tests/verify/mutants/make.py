"""Every wrong program that a change makes of a right one."""

import random
from dataclasses import replace

import tvm
import tvm_ffi
from tvm import relax

from spmd import Sharding, ShardingError

from . import collectives, one_worker, values  # noqa: F401
from .changes import CALLS, Around

CUT = "a weight is cut wrongly"
KINDS = (*CALLS, CUT)


def mutants(sharded, seed=None):
    """Every mutant of a sharded module, with a seed in an order by chance: (class, function, what makes it); it may make None."""
    tries = [(kind, place, change) for place in places(sharded.mod) for kind, changes in CALLS.items() for change in changes]
    found = [(kind, place[0].name_hint, lambda p=place, c=change: mutant(sharded, p, c)) for kind, place, change in tries]
    found += [(CUT, name, lambda made=made: made) for name, made in cuts(sharded)]
    if seed is not None:
        random.Random(seed).shuffle(found)
    return found


def places(mod):
    """Every call that is bound at the top of a function: (function, block, place in it)."""
    for var, func in mod.functions.items():
        if isinstance(func, relax.Function):
            for b, block in enumerate(func.body.blocks):
                for i, binding in enumerate(block.bindings):
                    value = binding.value if isinstance(binding, relax.VarBinding) else None
                    if isinstance(value, tvm.ir.Call) and isinstance(value.op, tvm.ir.Op):
                        yield var, b, i


def mutant(sharded, place, change):
    """It with one call changed; None where the change does not apply, or something of another type comes out."""
    var, b, i = place
    func = sharded.mod[var]
    block = func.body.blocks[b]
    old = block.bindings[i]
    around = Around(sharded.mesh, func, list(block.bindings[:i]), relax.BlockBuilder(), [], type(old.var))
    try:
        value = change(old.value, around)
        value = None if value is None else around.builder.normalize(value)
    except Exception:
        return None  # no such program: sizes do not fit
    if value is None or not tvm_ffi.structural_equal(value.ty, old.value.ty) or value.same_as(old.value):
        return None
    bindings = [*block.bindings[:i], *around.new, relax.VarBinding(old.var, value), *block.bindings[i + 1 :]]
    blocks = list(func.body.blocks)
    blocks[b] = relax.DataflowBlock(bindings) if isinstance(block, relax.DataflowBlock) else relax.BindingBlock(bindings)
    made = relax.Function(func.params, relax.SeqExpr(blocks, func.body.body), func.ret_ty, func.is_pure, func.attrs)
    functions = {v: made if v.same_as(var) else f for v, f in sharded.mod.functions.items()}
    return replace(sharded, mod=tvm.IRModule(functions, attrs=sharded.mod.attrs))


def cuts(sharded):
    """The plan with a parameter placed in another way, in pieces of the same shapes: (function, sharded)."""
    for name, signature in sharded.plan.functions.items():
        for i, leaf in enumerate(signature.params):
            other = None if isinstance(leaf, tuple) or leaf.sharding is None else other_cut(leaf, sharded.mesh)
            if other is not None:
                params = (*signature.params[:i], replace(leaf, sharding=other), *signature.params[i + 1 :])
                functions = {**sharded.plan.functions, name: replace(signature, params=params)}
                yield name, replace(sharded, plan=replace(sharded.plan, functions=functions))


def other_cut(leaf, mesh):
    """Segments as one, axes in another order, or another dimension of the same size split."""
    text, shape = str(leaf.sharding), leaf.shape
    if any(isinstance(n, str) for n in shape) or leaf.sharding.partial:
        return None
    axes = ["+".join(split.axes) if split is not None else "-" for split in leaf.sharding.dims]
    tries = [axes, ["+".join(reversed(a.split("+"))) for a in axes], axes[::-1]]
    for dims in tries:
        try:
            other = Sharding.parse(f"[{', '.join(dims)}]", shape)
            same = other.local_shape(shape, mesh) == leaf.sharding.local_shape(shape, mesh)
        except ShardingError:
            continue
        if str(other) != text and same:
            return other
    return None
