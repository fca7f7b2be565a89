"""Wrong values: parts, constants, operators and operands of what each worker computes."""

import tvm
import tvm_ffi
from tvm import relax

from .changes import is_collective, is_float, is_number, is_tensor, sizes_of, with_operand, wrong


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


@wrong("a mean is not divided by the number of workers")
def unscaled(call, around):
    """A constant that a value is divided by, or multiplied with, is another one."""
    if call.op.name not in ("relax.divide", "relax.multiply") or not is_float(call):
        return None
    if not is_number(call.args[1]):
        return None
    return with_operand(call, 1, relax.const(float(call.args[1].value.numpy()) * around.mesh.size, str(call.ty.dtype)))


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
            return with_operand(call, i, other)
    return None


@wrong("another constant")
def other_constant(call, around):
    """A number that is added, subtracted or compared with, as the small one in a norm."""
    for i, x in enumerate(call.args):
        if call.op.name not in ("relax.multiply", "relax.divide") and is_float(call) and is_number(x):
            return with_operand(call, i, relax.const(float(x.value.numpy()) + 1, str(x.ty.dtype)))
    return None


@wrong("another operand")
def other_operand(call, around):
    """One of two that are added, or multiplied, twice."""
    if call.op.name not in ("relax.add", "relax.subtract", "relax.multiply") or not is_float(call) or call.args[0].same_as(call.args[1]):
        return None
    return with_operand(call, 1, call.args[0])


@wrong("in another order")
def other_pieces(call, around):
    """The pieces of a concatenation are exchanged."""
    if call.op.name != "relax.concat" or not isinstance(call.args[0], relax.Tuple) or len(call.args[0].fields) < 2:
        return None
    return relax.op.concat(list(reversed(call.args[0].fields)), call.attrs.axis)
