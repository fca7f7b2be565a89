"""The last worker alone computes something else."""

import tvm_ffi
from tvm import relax

from . import collectives, values
from .changes import is_collective, is_float, wrong


def on_last(name, *changes):
    """A class: the last worker has what a change gives, and all others what they had."""
    for change in changes:

        @wrong(name)
        def one(call, around, change=change):
            other = change(call, around) if is_float(call) else None
            if other is None:
                return None
            made = around.emit(other)
            if not tvm_ffi.structural_equal(made.ty, call.ty):
                return None
            return relax.op.where(around.is_last(), made, around.emit(call))


def twice(call, around):
    """A sum of a value with itself."""
    if call.op.name not in ("relax.matmul", "relax.add", "relax.multiply"):
        return None
    value = around.emit(call)
    return relax.op.add(value, value)


def other_power(call, around):
    """Not squared, not the root."""
    is_square = call.op.name == "relax.multiply" and call.args[0].same_as(call.args[1])
    return call.args[0] if is_square or call.op.name in ("relax.square", "relax.power", "relax.sqrt", "relax.rsqrt") else None


def scaled(call, around):
    """Half of it, where something is multiplied or divided by a number."""
    if call.op.name not in ("relax.multiply", "relax.divide"):
        return None
    return relax.op.multiply(around.emit(call), relax.const(0.5, str(call.ty.dtype)))


def own_part(call, around):
    """Its own part of a sum."""
    return call.args[0] if is_collective(call, "all_reduce") else None


on_last("one worker runs another program", twice, values.other_operator, values.other_weight)
on_last("one worker adds another constant", values.other_constant)
on_last("one worker takes another power", other_power)
on_last("one worker takes another operand", values.other_operand)
on_last("one worker scales otherwise", scaled, values.unscaled, collectives.scaled)
on_last("one worker uses a partial sum as whole", own_part)
on_last("one worker exchanges results", values.other_pieces, values.rolled)


@wrong("one worker exchanges results")
def parts(call, around):
    """Those of an operator that gives several."""
    if call.op.name != "relax.split" or not all(map(is_like(call.ty.fields[0]), call.ty.fields)) or len(call.ty.fields) < 2:
        return None
    whole, is_last = around.emit(call), around.is_last()
    own = [around.emit(whole[i]) for i in range(len(call.ty.fields))]
    return relax.Tuple([around.emit(relax.op.where(is_last, b, a)) for a, b in zip(own, reversed(own), strict=True)])


def is_like(ty):
    """Whether another type is this one."""
    return lambda other: tvm_ffi.structural_equal(ty, other)
