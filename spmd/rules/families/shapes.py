"""Operators that ask about a tensor, or only say where it shall be: the answer is that of the whole tensor."""

from __future__ import annotations

from spmd.rules.model import Form, Rule
from spmd.rules.registry import OpCall, rule

from .helpers import letters, whole

_ASKED = "ndim dtype_bits dtype_code dtype_lanes byte_offset elem_offset shape_i stride_i"


@rule("relax.shape_of", "relax.size", *(f"relax.inspect.tensor_{name}" for name in _ASKED.split()))
def question(op: OpCall) -> Rule:
    """Answered from the shape of the whole tensor, which every worker knows whatever it holds."""
    names = letters(len(op.inputs[0]))
    return op.bind(f"{' '.join(names)} ->{'' if op.outputs else ' '}", forms=dict.fromkeys(names, Form("question")))


@rule("relax.shape_to_tensor", "relax.tensor_to_shape", "relax.null_value")
def conversion(op: OpCall) -> Rule:
    """A shape (or an argument left out) is the same on every worker, so the tensor that it comes from or becomes is whole."""
    return whole(op)


@rule("relax.print", "relax.assert_op")
def effect(op: OpCall) -> Rule:
    """What is printed or asserted is the whole value, by every worker."""
    return whole(op)


@rule("relax.to_vdevice", "relax.hint_on_device", "relax.memory.ensure_zero_offset")
def placed(op: OpCall) -> Rule:
    """Nothing is computed: each worker has a device of each kind for its own shard."""
    return op.bind("... -> ...", zero="all", linear=((0,),), work="view")
