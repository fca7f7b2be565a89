"""Wrong programs, made of right ones by one change each, and a table of which the verifier finds.

``python -m tests.verify.mutants --programs 40`` prints it. A mutant that passes is run on numbers beside its module: where these agree it
is equivalent, else it is missed, and its class and function are named.
"""

import argparse
import logging
from collections import Counter
from dataclasses import replace

import tvm
import tvm_ffi
from tvm import relax

import spmd
from spmd import Mesh, ShardingError
from spmd.costs.planning_sizes import symbols_of
from spmd.testing.equivalence import FREE_LINKS, difference, simulate
from tests.models.mlc_llama import TINY, mlc_llama
from tests.test_programs import drawn


def dropped(call, emit):
    """A collective that leaves out the others: partial sums used as whole, a worker's own part in all places."""
    name, x = call.op.name, call.args[0]
    if name in ("relax.spmd.all_reduce", "relax.spmd.permute", "relax.spmd.broadcast"):
        return x
    if name == "relax.spmd.all_gather" and isinstance(x.ty, relax.TensorType):
        return relax.op.concat([x] * int(call.attrs["workers"]), int(call.attrs["dim"]))
    return None


def doubled(call, emit):
    """Reduced once more."""
    same = call.op.name == "relax.spmd.all_reduce" and isinstance(call.ty, relax.TensorType)
    return _like(call, emit(call)) if same and str(call.attrs["kind"]) == "sum" else None


def other_kind(call, emit):
    """A maximum in the place of a sum, a minimum in that of a maximum."""
    if call.op.name not in ("relax.spmd.all_reduce", "relax.spmd.reduce_scatter"):
        return None
    return _like(call, call.args[0], kind={"sum": "max", "max": "min", "min": "max", "prod": "sum"}[str(call.attrs["kind"])])


def other_axis(call, emit):
    """Over another axis of as many workers."""
    if not call.op.name.startswith("relax.spmd.") or str(call.attrs["axis"]) not in ("dp", "tp"):
        return None
    return _like(call, call.args[0] if call.args else None, axis={"dp": "tp", "tp": "dp"}[str(call.attrs["axis"])])


def other_order(call, emit):
    """Parts in another order: the axes of a collective over two, the pieces of a concatenation."""
    if call.op.name.startswith("relax.spmd.") and "+" in str(call.attrs["axis"]):
        return _like(call, call.args[0] if call.args else None, axis="+".join(reversed(str(call.attrs["axis"]).split("+"))))
    if call.op.name == "relax.concat" and isinstance(call.args[0], relax.Tuple) and len(call.args[0].fields) > 1:
        return relax.op.concat(list(reversed(call.args[0].fields)), call.attrs.axis)
    return None


def other_dimension(call, emit):
    """An exchange the other way round."""
    if call.op.name != "relax.spmd.all_to_all":
        return None
    a, b = int(call.attrs["split_dim"]), int(call.attrs["concat_dim"])
    return _like(call, call.args[0], split_dim=b, concat_dim=a)


def unmasked(call, emit):
    """Padding is left as it is."""
    return call.args[1] if call.op.name == "relax.where" and _same_type(call, call.args[1]) else None


def off_by_one(call, emit):
    """A slice that begins and ends one later, or earlier where it ends with the dimension."""
    if call.op.name != "relax.strided_slice" or len(call.args) < 4:
        return None
    axes, first, last = ([int(i.value) for i in part.fields] for part in call.args[1:4])
    sizes = (
        [int(s) for s in call.args[0].ty.shape.values] if all(isinstance(s, tvm.tirx.IntImm) for s in call.args[0].ty.shape.values) else []
    )
    if len(axes) != 1 or not sizes or last[0] - first[0] >= sizes[axes[0]] or len(call.args) > 4:
        return None
    step = 1 if last[0] < sizes[axes[0]] else -1
    return relax.op.strided_slice(call.args[0], axes, [first[0] + step], [last[0] + step]) if first[0] + step >= 0 else None


def first_worker(call, emit):
    """Everybody takes the part of worker 0."""
    return relax.const(0, "int64") if call.op.name == "relax.spmd.axis_index" else None


def scaled(call, emit):
    """A reduced value that is as many times too large as there are workers."""
    floats = isinstance(call.ty, relax.TensorType) and str(call.ty.dtype).startswith("float")
    if not call.op.name.startswith("relax.spmd.") or not floats:
        return None
    return relax.op.multiply(emit(call), relax.const(float(int(call.attrs["workers"])), str(call.ty.dtype)))


def other_operator(call, emit):
    """A subtraction in the place of a sum, a minimum in that of a maximum."""
    swapped = {"relax.add": relax.op.subtract, "relax.multiply": relax.op.add, "relax.maximum": relax.op.minimum}
    made = swapped.get(call.op.name)
    return made(*call.args) if made is not None and str(getattr(call.ty, "dtype", "")) != "bool" else None


def rolled(call, emit):
    """A product with the rows of its second operand, a weight, one place further: heads permuted, a weight cut wrongly."""
    if call.op.name != "relax.matmul":
        return None
    x = call.args[1]
    size = x.ty.shape.values[-1]
    if not isinstance(size, tvm.tirx.IntImm) or int(size) < 2:
        return None
    head = emit(relax.op.strided_slice(x, [x.ty.ndim - 1], [0], [1]))
    tail = emit(relax.op.strided_slice(x, [x.ty.ndim - 1], [1], [int(size)]))
    return relax.op.matmul(call.args[0], emit(relax.op.concat([tail, head], -1)), out_dtype=call.attrs.out_dtype or None)


CLASSES = (
    *(dropped, doubled, other_kind, other_axis, other_order, other_dimension, unmasked, off_by_one, first_worker, scaled),
    *(other_operator, rolled),
)


def _like(call, x, **changed):
    """The same collective with other attributes."""
    attrs = {**{key: call.attrs[key] for key in call.attrs.keys()}, **changed}  # noqa: SIM118
    return relax.Call(call.op, [] if x is None else [x], tvm.ir.make_node("ir.DictAttrs", **attrs))


def _same_type(a, b):
    return isinstance(b.ty, relax.TensorType) and tvm_ffi.structural_equal(a.ty, b.ty)


def places(mod):
    """Every call that is bound at the top of a function: (function, block, place in it)."""
    for var, func in mod.functions.items():
        if isinstance(func, relax.Function):
            for b, block in enumerate(func.body.blocks):
                for i, binding in enumerate(block.bindings):
                    if (
                        isinstance(binding, relax.VarBinding)
                        and isinstance(binding.value, tvm.ir.Call)
                        and isinstance(binding.value.op, tvm.ir.Op)
                    ):
                        yield var, b, i


def mutant(mod, place, change):
    """`mod` with one call changed; None where the change does not apply, or something of another type comes out."""
    var, b, i = place
    func = mod[var]
    block = func.body.blocks[b]
    old, new, builder = block.bindings[i], [], relax.BlockBuilder()

    def emit(value):
        typed = builder.normalize(value)
        new.append(relax.VarBinding(type(old.var)(f"changed{len(new)}", typed.ty), typed))
        return new[-1].var

    try:
        value = change(old.value, emit)
        value = None if value is None else builder.normalize(value)
    except Exception:
        return None  # no such program: sizes do not fit
    if value is None or not tvm_ffi.structural_equal(value.ty, old.value.ty) or value.same_as(old.value):
        return None
    bindings = [*block.bindings[:i], *new, relax.VarBinding(old.var, value), *block.bindings[i + 1 :]]
    blocks = list(func.body.blocks)
    blocks[b] = relax.DataflowBlock(bindings) if isinstance(block, relax.DataflowBlock) else relax.BindingBlock(bindings)
    made = relax.Function(func.params, relax.SeqExpr(blocks, func.body.body), func.ret_ty, func.is_pure, func.attrs)
    functions = {v: made if v.same_as(var) else f for v, f in mod.functions.items()}
    return tvm.IRModule(functions, attrs=mod.attrs)


def mutants(mod):
    """Every mutant of a per-worker module: (class, function, module)."""
    for place in places(mod):
        for change in CLASSES:
            made = mutant(mod, place, change)
            if made is not None:
                yield change.__name__, place[0].name_hint, made


def outcome(mod, sharded, wrong, sizes):
    """What the verifier says of a mutant: "killed" or "undecided"; "equivalent" or "missed", as numbers tell, where it passes."""
    try:
        proof = spmd.verify(mod, replace(sharded, mod=wrong), sizes=sizes)
    except ShardingError:
        return "killed"
    if not proof:
        return "undecided"
    try:
        return "missed" if difference(simulate(sharded, sizes=sizes), simulate(replace(sharded, mod=wrong), sizes=sizes)) else "equivalent"
    except ShardingError:
        return "not run"  # it takes a cache


def alone(mod, name):
    """A module without other functions that can be called from outside."""
    kept = {v: f for v, f in mod.functions.items() if v.name_hint == name or not (f.attrs and "global_symbol" in f.attrs)}
    return tvm.IRModule(kept, attrs=mod.attrs)


def sources(count, seed):
    """Programs and a model with their plans: (module, sharded, sizes of symbols)."""
    for case in drawn(seed, count):
        known = symbols_of(case.mod)
        sizes = {n: size for n, size in case.sizes.items() if n in known}
        divisible = {n: by for n, by in case.divisible.items() if n in sizes}
        yield (
            case.mod,
            spmd.shard(case.mod, case.mesh, case.specs, profile=FREE_LINKS, sizes=sizes, divisible=divisible, lift=case.lift),
            sizes,
        )
    mod, _ = mlc_llama(TINY, symbolic_vocab=False, layers=1, functions=("prefill",))
    for mesh in (2, Mesh(dp=2, tp=2)):
        yield mod, spmd.shard(mod, mesh, spmd.presets.megatron(mod, "tp"), profile=FREE_LINKS), {}


def table(programs, seed, every=1):
    """Class -> outcome -> how many; every so many mutants are tried. Those that are missed are printed."""
    found = {change.__name__: Counter() for change in CLASSES}
    tried = 0
    for mod, sharded, sizes in sources(programs, seed):
        for kind, function, wrong in mutants(sharded.mod):
            tried += 1
            if tried % every:
                continue
            plan = replace(sharded.plan, functions={function: sharded.plan.functions[function]})
            one = replace(sharded, mod=alone(sharded.mod, function), plan=plan)
            own = alone(mod, function)
            named = {name: size for name, size in sizes.items() if name in symbols_of(own)}
            said = outcome(own, one, alone(wrong, function), named)
            found[kind][said] += 1
            if said == "missed":
                print(f"missed: {kind} in {function!r}")
    return found


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--programs", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--every", type=int, default=1)
    options = parser.parse_args()
    logging.getLogger("spmd").addHandler(logging.NullHandler())
    names = ("killed", "equivalent", "undecided", "not run", "missed")
    print(f"{'class':18}" + "".join(f"{name:>12}" for name in names))
    found = table(options.programs, options.seed, options.every)
    for kind, counts in found.items():
        print(f"{kind:18}" + "".join(f"{counts[name]:12}" for name in names))
    print(f"{'all':18}" + "".join(f"{sum(counts[name] for counts in found.values()):12}" for name in names))


if __name__ == "__main__":
    main()
