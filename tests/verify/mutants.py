"""Wrong programs, made of right ones by one change each: the classes of faults that sharded programs have had.

    python -m tests.verify.mutants [--count 1000] [--seed 0]

A class is a function of a call, or of the placement of a parameter, that gives what stands there instead, or None where it does not apply.
A mutant that the verifier takes for right is run on numbers beside its module: where these agree it is equivalent, else it survives, and is
printed. What takes a cache cannot be run so, and what follows an undecided value is undecided.
"""

import argparse
import logging
from collections import Counter
from dataclasses import dataclass, replace

import tvm
import tvm_ffi
from tvm import relax

import spmd
from spmd import Mesh, P, Sharding, ShardingError
from spmd.costs.planning_sizes import symbols_of
from spmd.testing.equivalence import FREE_LINKS, difference, simulate
from tests.models.llama_block import llama_blocks, with_gradients
from tests.models.mlc_llama import TINY, mlc_llama
from tests.test_programs import drawn

CALLS = {}
"""Class -> what makes the wrong call: given the call, the module's variables by now, and what emits a binding before it."""


def wrong(name):
    """Name a class."""

    def named(make):
        CALLS.setdefault(name, []).append(make)
        return make

    return named


def is_collective(call, *kinds):
    return call.op.name.startswith("relax.spmd.") and call.op.name.removeprefix("relax.spmd.") in kinds


def is_tensor(x):
    return isinstance(x.ty, relax.TensorType)


def is_float(x):
    return is_tensor(x) and str(x.ty.dtype).startswith("float")


def like(call, x, **changed):
    """The same collective with other attributes."""
    attrs = {**{key: call.attrs[key] for key in call.attrs.keys()}, **changed}  # noqa: SIM118
    return relax.Call(call.op, [] if x is None else [x], tvm.ir.make_node("ir.DictAttrs", **attrs))


def sizes_of(x):
    return [int(s) for s in x.ty.shape.values] if all(isinstance(s, tvm.tirx.IntImm) for s in x.ty.shape.values) else []


@wrong("a collective is dropped")
def dropped(call, around):
    """A worker's own part is in all places, or is used for what another one has."""
    if is_collective(call, "permute", "broadcast"):
        return call.args[0]
    if is_collective(call, "all_gather") and is_tensor(call.args[0]):
        return relax.op.concat([call.args[0]] * int(call.attrs["workers"]), int(call.attrs["dim"]))
    return None


@wrong("a partial sum is used as whole")
def partial_as_whole(call, around):
    return call.args[0] if is_collective(call, "all_reduce") else None


@wrong("a partial sum is used as whole")
def partial_part(call, around):
    """What is scattered was not summed."""
    if not is_collective(call, "reduce_scatter") or not is_tensor(call) or str(call.attrs["kind"]) != "sum":
        return None
    n, dim = int(call.attrs["workers"]), int(call.attrs["dim"])
    attrs = {"axis": call.attrs["axis"], "split_dim": dim, "concat_dim": dim, "value": call.attrs["value"], "workers": n}
    exchanged = relax.Call(tvm.ir.Op.get("relax.spmd.all_to_all"), [call.args[0]], tvm.ir.make_node("ir.DictAttrs", **attrs))
    return around.emit(relax.op.split(around.emit(exchanged), n, dim))[0]


@wrong("a collective is doubled")
def doubled(call, around):
    return like(call, around.emit(call)) if is_collective(call, "all_reduce", "permute", "broadcast") and is_tensor(call) else None


@wrong("a collective is moved")
def moved(call, around):
    """It comes after what is computed of its result."""
    made = around.made_by(call.args[0]) if call.args else None
    if (
        made is None
        or not is_collective(made, "all_reduce")
        or len(call.args) != 1
        or not call.op.name.startswith(("relax.nn.", "relax.e", "relax.s"))
    ):
        return None
    return like(made, around.emit(relax.Call(call.op, [made.args[0]], call.attrs)))


@wrong("a bias is added on all workers")
def bias_on_all(call, around):
    """A sum over workers comes after another operand has been added on each of them."""
    if call.op.name not in ("relax.add", "relax.subtract"):
        return None
    for i in (0, 1):
        made = around.made_by(call.args[i])
        if made is not None and is_collective(made, "all_reduce") and str(made.attrs["kind"]) == "sum" and is_tensor(made):
            args = [made.args[0], call.args[1]] if i == 0 else [call.args[0], made.args[0]]
            return like(made, around.emit(relax.Call(call.op, args, call.attrs)))
    return None


@wrong("of another kind")
def other_kind(call, around):
    """A maximum in the place of a sum, a minimum in that of a maximum."""
    if not is_collective(call, "all_reduce", "reduce_scatter"):
        return None
    return like(call, call.args[0], kind={"sum": "max", "max": "min", "min": "max", "prod": "sum"}[str(call.attrs["kind"])])


@wrong("over another axis")
def other_axis(call, around):
    """Over another axis of as many workers."""
    if not call.op.name.startswith("relax.spmd.") or str(call.attrs["axis"]) not in around.mesh.axes:
        return None
    axis, n = str(call.attrs["axis"]), int(call.attrs["workers"])
    other = next((name for name, size in around.mesh.axes.items() if name != axis and size == n), None)
    return like(call, call.args[0] if call.args else None, axis=other) if other else None


@wrong("over another axis")
def all_axes(call, around):
    """Over all workers, where only some have parts of it."""
    every = "+".join(around.mesh.axes)
    if not is_collective(call, "all_reduce") or len(around.mesh.axes) < 2 or "+" in str(call.attrs["axis"]):
        return None
    return like(call, call.args[0], axis=every, workers=around.mesh.size)


@wrong("in another order")
def other_order(call, around):
    """Parts in another order: the axes of a collective over two, the pieces of a concatenation."""
    if call.op.name.startswith("relax.spmd.") and "+" in str(call.attrs["axis"]):
        return like(call, call.args[0] if call.args else None, axis="+".join(reversed(str(call.attrs["axis"]).split("+"))))
    if call.op.name == "relax.concat" and isinstance(call.args[0], relax.Tuple) and len(call.args[0].fields) > 1:
        return relax.op.concat(list(reversed(call.args[0].fields)), call.attrs.axis)
    return None


@wrong("in another order")
def other_neighbour(call, around):
    """What is passed on goes to the other side."""
    if not is_collective(call, "permute"):
        return None
    return like(call, call.args[0], pairs=[[int(b), int(a)] for a, b in call.attrs["pairs"]])


@wrong("of another dimension")
def other_dimension(call, around):
    """An exchange the other way round, parts put together along another dimension."""
    if is_collective(call, "all_to_all"):
        return like(call, call.args[0], split_dim=int(call.attrs["concat_dim"]), concat_dim=int(call.attrs["split_dim"]))
    if is_collective(call, "all_gather", "reduce_scatter") and is_tensor(call) and call.ty.ndim > 1:
        dim, n, x = int(call.attrs["dim"]), int(call.attrs["workers"]), call.args[0]
        other = (dim + 1) % call.ty.ndim
        axes = list(range(call.ty.ndim))
        axes[dim], axes[other] = axes[other], axes[dim]
        if is_collective(call, "all_gather") and len(sizes_of(x)) > 1 and sizes_of(x)[other] % n == 0:
            gathered = around.emit(like(call, x, dim=other))
            return relax.op.reshape(gathered, call.ty.shape)
    return None


@wrong("a mask is dropped")
def unmasked(call, around):
    """Padding, or what is masked, is left as it is."""
    if call.op.name != "relax.where":
        return None
    return next((x for x in call.args[1:] if is_tensor(x) and tvm_ffi.structural_equal(call.ty, x.ty)), None)


@wrong("a slice is off by one")
def off_by_one(call, around):
    """It begins and ends one later, or earlier where it ends with the dimension."""
    if call.op.name != "relax.strided_slice" or len(call.args) != 4:
        return None
    axes, first, last = ([int(i) for i in part.fields] for part in call.args[1:4])
    sizes = sizes_of(call.args[0])
    if len(axes) != 1 or not sizes or last[0] - first[0] >= sizes[axes[0]]:
        return None
    step = 1 if last[0] < sizes[axes[0]] else -1
    return relax.op.strided_slice(call.args[0], axes, [first[0] + step], [last[0] + step]) if first[0] + step >= 0 else None


@wrong("every worker takes the first part")
def first_worker(call, around):
    return relax.const(0, "int64") if is_collective(call, "axis_index") else None


@wrong("a worker takes the next one's part")
def next_worker(call, around):
    if not is_collective(call, "axis_index"):
        return None
    later = around.emit(relax.op.add(around.emit(call), relax.const(1, "int64")))
    return relax.op.floor_mod(later, relax.const(int(call.attrs["workers"]), "int64"))


@wrong("segments are swapped")
def swapped(call, around):
    """Pieces of a fused value, as queries and keys, are taken for each other."""
    if call.op.name != "relax.split" or not isinstance(call.ty, relax.TupleType) or len(call.ty.fields) < 2:
        return None
    if not all(tvm_ffi.structural_equal(ty, call.ty.fields[0]) for ty in call.ty.fields):
        return None
    parts = around.emit(call)
    return relax.Tuple([around.emit(parts[i]) for i in reversed(range(len(call.ty.fields)))])


@wrong("a value is scaled by the number of workers")
def scaled(call, around):
    if not call.op.name.startswith("relax.spmd.") or not is_float(call):
        return None
    return relax.op.multiply(around.emit(call), relax.const(float(int(call.attrs["workers"])), str(call.ty.dtype)))


@wrong("a mean is not divided by the number of workers")
def unscaled(call, around):
    """A constant that a value is divided by, or multiplied with, is another one."""
    if call.op.name not in ("relax.divide", "relax.multiply") or not is_float(call):
        return None
    x, y = call.args
    if not isinstance(y, tvm.ir.GenericConst) or y.value.shape:
        return None
    return relax.Call(call.op, [x, relax.const(float(y.value.numpy()) * around.mesh.size, str(y.ty.dtype))], call.attrs)


@wrong("one worker runs another program")
def one_worker(call, around):
    """The last worker of an axis has twice the value."""
    if not is_float(call) or call.op.name.startswith("relax.spmd.") or call.op.name not in ("relax.matmul", "relax.add", "relax.multiply"):
        return None
    axis, n = next(((a, n) for a, n in around.mesh.axes.items() if n > 1), (None, 0))
    if axis is None:
        return None
    index = relax.Call(tvm.ir.Op.get("relax.spmd.axis_index"), [], tvm.ir.make_node("ir.DictAttrs", axis=axis, workers=n))
    is_last = around.emit(relax.op.equal(around.emit(index), relax.const(n - 1, "int64")))
    value = around.emit(call)
    return relax.op.where(is_last, around.emit(relax.op.add(value, value)), value)


@wrong("another operator")
def other_operator(call, around):
    swapped = {"relax.add": relax.op.subtract, "relax.multiply": relax.op.add, "relax.maximum": relax.op.minimum}
    made = swapped.get(call.op.name)
    return made(*call.args) if made is not None and str(getattr(call.ty, "dtype", "")) != "bool" else None


@wrong("heads are permuted")
def rolled(call, around):
    """A product with the columns of its second operand one place further."""
    if call.op.name != "relax.matmul":
        return None
    x = call.args[1]
    size = x.ty.shape.values[-1]
    if not isinstance(size, tvm.tirx.IntImm) or int(size) < 2:
        return None
    head = around.emit(relax.op.strided_slice(x, [x.ty.ndim - 1], [0], [1]))
    tail = around.emit(relax.op.strided_slice(x, [x.ty.ndim - 1], [1], [int(size)]))
    return relax.op.matmul(call.args[0], around.emit(relax.op.concat([tail, head], -1)), out_dtype=call.attrs.out_dtype or None)


@wrong("another weight")
def other_weight(call, around):
    """A parameter in the place of another one of its type: that of the next layer, say."""
    for i, arg in enumerate(call.args):
        other = around.another(arg) if isinstance(arg, relax.Var) and is_tensor(arg) else None
        if other is not None:
            return relax.Call(call.op, [*call.args[:i], other, *call.args[i + 1 :]], call.attrs, call.ty_args)
    return None


CUT = "a weight is cut wrongly"


def cuts(sharded):
    """The plan with a parameter placed in another way, in pieces of the same shapes: (class, function, sharded)."""
    for name, signature in sharded.plan.functions.items():
        for i, leaf in enumerate(signature.params):
            other = None if isinstance(leaf, tuple) or leaf.sharding is None else other_cut(leaf, sharded.mesh)
            if other is not None:
                params = (*signature.params[:i], replace(leaf, sharding=other), *signature.params[i + 1 :])
                functions = {**sharded.plan.functions, name: replace(signature, params=params)}
                yield CUT, name, replace(sharded, plan=replace(sharded.plan, functions=functions))


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


@dataclass
class Around:
    """Where a call stands: the workers, what computes the values before it, and new bindings."""

    mesh: Mesh
    func: relax.Function
    before: list
    builder: relax.BlockBuilder
    new: list
    kind: type

    def emit(self, value):
        """A variable with this value, bound before the call."""
        typed = self.builder.normalize(value)
        self.new.append(relax.VarBinding(self.kind(f"changed{len(self.new)}", typed.ty), typed))
        return self.new[-1].var

    def made_by(self, x):
        """The call that computes a variable, if it stands in the same block."""
        found = next((b.value for b in self.before if b.var.same_as(x)), None)
        return found if isinstance(found, tvm.ir.Call) and isinstance(found.op, tvm.ir.Op) else None

    def another(self, x):
        """Another parameter of the type of this one."""
        if not any(p.same_as(x) for p in self.func.params):
            return None
        return next((p for p in self.func.params if not p.same_as(x) and tvm_ffi.structural_equal(p.ty, x.ty)), None)


def places(mod):
    """Every call that is bound at the top of a function: (function, block, place in it)."""
    for var, func in mod.functions.items():
        if isinstance(func, relax.Function):
            for b, block in enumerate(func.body.blocks):
                for i, binding in enumerate(block.bindings):
                    value = binding.value if isinstance(binding, relax.VarBinding) else None
                    if isinstance(value, tvm.ir.Call) and isinstance(value.op, tvm.ir.Op):
                        yield var, b, i


def mutant(mod, place, change, mesh):
    """`mod` with one call changed; None where the change does not apply, or something of another type comes out."""
    var, b, i = place
    func = mod[var]
    block = func.body.blocks[b]
    old = block.bindings[i]
    around = Around(mesh, func, list(block.bindings[:i]), relax.BlockBuilder(), [], type(old.var))
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
    return tvm.IRModule({v: made if v.same_as(var) else f for v, f in mod.functions.items()}, attrs=mod.attrs)


def mutants(sharded):
    """Every mutant of a sharded module: (class, function, sharded)."""
    for place in places(sharded.mod):
        for kind, changes in CALLS.items():
            for change in changes:
                made = mutant(sharded.mod, place, change, sharded.mesh)
                if made is not None:
                    yield kind, place[0].name_hint, replace(sharded, mod=made)
    yield from cuts(sharded)


KINDS = (*CALLS, CUT)


def outcome(mod, sharded, mutated, sizes):
    """What the verifier says of a mutant: "killed" or "undecided"; "equivalent" or "survived", as numbers tell, where it passes."""
    try:
        proof = spmd.verify(mod, mutated, sizes=sizes)
    except ShardingError:
        return "killed"
    if not proof:
        return "undecided"
    try:
        return "survived" if difference(simulate(sharded, sizes=sizes), simulate(mutated, sizes=sizes)) else "equivalent"
    except ShardingError:
        return "not run"  # it takes a cache


def alone(mod, name):
    """A module without other functions that can be called from outside."""
    kept = {v: f for v, f in mod.functions.items() if v.name_hint == name or not (f.attrs and "global_symbol" in f.attrs)}
    return tvm.IRModule(kept, attrs=mod.attrs)


MEGATRON = {
    "layers.*.[qkv]_proj": P(None, "tp"), "layers.*.gate_proj": P(None, "tp"), "layers.*.up_proj": P(None, "tp"),
    "layers.*.o_proj": P("tp", None), "layers.*.down_proj": P("tp", None),
}  # fmt: skip
"""By rows and by columns in turn, so that all layers are equal."""


def sources(seed):
    """Models, of which layers are proven once, and random programs without end: (module, sharded, sizes of symbols)."""
    for mod, mesh in ((llama_blocks(4), 2), (with_gradients(3), Mesh(dp=2, tp=2))):
        batch = {} if mesh == 2 else {"main_adjoint.x": P("dp", None, None)}
        yield mod, spmd.shard(mod, mesh, {**MEGATRON, **batch}, profile=FREE_LINKS), {}
    mod, _ = mlc_llama(TINY, symbolic_vocab=False, layers=1, functions=("prefill",))
    yield mod, spmd.shard(mod, Mesh(dp=2, tp=2), spmd.presets.megatron(mod, "tp"), profile=FREE_LINKS), {}
    while True:
        for case in drawn(seed, 10):
            known = symbols_of(case.mod)
            sizes = {n: size for n, size in case.sizes.items() if n in known}
            divisible = {n: by for n, by in case.divisible.items() if n in sizes}
            asked = {"profile": FREE_LINKS, "sizes": sizes, "divisible": divisible, "lift": case.lift}
            yield case.mod, spmd.shard(case.mod, case.mesh, case.specs, **asked), sizes
        seed += 1


def tried(count, seed):
    """So many mutants, of each source the rarest classes first: (class, function, module, sharded, mutant, sizes)."""
    found = Counter()
    most = 2 * count // len(KINDS) + 1
    for mod, sharded, sizes in sources(seed):
        here = Counter()
        for kind, function, mutated in mutants(sharded):
            if found[kind] < most and here[kind] < max(most // 40, 1):
                found[kind] += 1
                here[kind] += 1
                own = alone(mod, function)
                named = {name: size for name, size in sizes.items() if name in symbols_of(own)}
                yield kind, function, own, only(sharded, function), only(mutated, function), named
                if found.total() == count:
                    return


def only(sharded, function):
    """One function of a sharded module."""
    plan = replace(sharded.plan, functions={function: sharded.plan.functions[function]})
    return replace(sharded, mod=alone(sharded.mod, function), plan=plan)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    logging.getLogger("spmd").addHandler(logging.NullHandler())
    found = {kind: Counter() for kind in KINDS}
    for kind, function, mod, sharded, mutated, sizes in tried(options.count, options.seed):
        said = outcome(mod, sharded, mutated, sizes)
        found[kind][said] += 1
        if said not in ("killed", "equivalent"):
            print(f"{said}: {kind}, in {function!r}", flush=True)
    outcomes = ("killed", "equivalent", "undecided", "not run", "survived")
    print(f"{'class':48}" + "".join(f"{name:>12}" for name in outcomes))
    for kind, counts in (*found.items(), ("all", sum(found.values(), Counter()))):
        print(f"{kind:48}" + "".join(f"{counts[name]:12}" for name in outcomes))


if __name__ == "__main__":
    main()
