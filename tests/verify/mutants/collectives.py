"""Wrong collectives: what workers send each other, or do not."""

import tvm_ffi
from tvm import relax

from .changes import collective, is_collective, is_float, is_tensor, like, sizes_of, wrong


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
    exchanged = collective("all_to_all", call.args[0], call, split_dim=dim, concat_dim=dim)
    return around.emit(relax.op.split(around.emit(exchanged), n, dim))[0]


@wrong("a collective gives nothing")
def nothing(call, around):
    """What it gives is zeros: nobody waits for it, and memory is what it was."""
    return relax.op.zeros(call.ty.shape, str(call.ty.dtype)) if call.op.name.startswith("relax.spmd.") and is_float(call) else None


@wrong("another collective")
def gathered_not_summed(call, around):
    """Parts are put together where they are to be summed, and the first one is used."""
    if not is_collective(call, "all_reduce") or not is_tensor(call) or not call.ty.ndim or not sizes_of(call):
        return None
    return relax.op.strided_slice(around.emit(collective("all_gather", call.args[0], call, dim=0)), [0], [0], [sizes_of(call)[0]])


@wrong("another collective")
def summed_not_gathered(call, around):
    """Parts are summed where they are to be put together."""
    if not is_collective(call, "all_gather") or not is_float(call):
        return None
    total = around.emit(collective("all_reduce", call.args[0], call, kind="sum"))
    return relax.op.concat([total] * int(call.attrs["workers"]), int(call.attrs["dim"]))


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


@wrong("a collective is moved")
def moved_before(call, around):
    """A sum over workers comes before the last term is added, as of the last of several batches."""
    made = around.made_by(call.args[0]) if is_collective(call, "all_reduce") and is_tensor(call) else None
    if made is None or made.op.name != "relax.add" or str(call.attrs["kind"]) != "sum" or not all(map(is_tensor, made.args)):
        return None
    if not all(tvm_ffi.structural_equal(x.ty, call.ty) for x in made.args):
        return None
    return relax.op.add(around.emit(like(call, made.args[0])), made.args[1])


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
    """The axes of a collective over two are exchanged."""
    if not call.op.name.startswith("relax.spmd.") or "+" not in str(call.attrs["axis"]):
        return None
    return like(call, call.args[0] if call.args else None, axis="+".join(reversed(str(call.attrs["axis"]).split("+"))))


@wrong("in another order")
def other_neighbour(call, around):
    """What is passed on goes to the other side."""
    if not is_collective(call, "permute"):
        return None
    pairs = [[int(b), int(a)] for a, b in call.attrs["pairs"]]
    return like(call, call.args[0], pairs=pairs) if sorted(pairs) != sorted([int(a), int(b)] for a, b in call.attrs["pairs"]) else None


@wrong("in another order")
def other_root(call, around):
    """Another worker's value is given to all."""
    if not is_collective(call, "broadcast"):
        return None
    return like(call, call.args[0], root=(int(call.attrs["root"]) + 1) % int(call.attrs["workers"]))


@wrong("in another order")
def other_target(call, around):
    """What is passed on comes to the worker after the one that it is for."""
    if not is_collective(call, "permute"):
        return None
    n = int(call.attrs["workers"])
    return like(call, call.args[0], pairs=[[int(a), (int(b) + 1) % n] for a, b in call.attrs["pairs"]])


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


@wrong("a value is scaled by the number of workers")
def scaled(call, around):
    if not call.op.name.startswith("relax.spmd.") or not is_float(call):
        return None
    return relax.op.multiply(around.emit(call), relax.const(float(int(call.attrs["workers"])), str(call.ty.dtype)))
