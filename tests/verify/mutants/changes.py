"""What a change is made with: the classes by name, and where a call stands."""

from dataclasses import dataclass

import tvm
import tvm_ffi
from tvm import relax

from spmd import Mesh

CALLS = {}
"""Class -> what makes the wrong call: given the call and where it stands, what is there instead, or None where it does not apply."""


def wrong(name):
    """Name a class; several changes may be of one."""

    def named(make):
        CALLS.setdefault(name, []).append(make)
        return make

    return named


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

    def is_last(self):
        """Whether a worker is the last one of the first axis that has several."""
        axis, n = next((axis, n) for axis, n in self.mesh.axes.items() if n > 1)
        index = relax.Call(tvm.ir.Op.get("relax.spmd.axis_index"), [], tvm.ir.make_node("ir.DictAttrs", axis=axis, workers=n))
        return self.emit(relax.op.equal(self.emit(index), relax.const(n - 1, "int64")))


def is_collective(call, *kinds):
    return call.op.name.startswith("relax.spmd.") and call.op.name.removeprefix("relax.spmd.") in kinds


def is_tensor(x):
    return isinstance(x.ty, relax.TensorType)


def is_float(x):
    return is_tensor(x) and str(x.ty.dtype).startswith("float")


def is_number(x):
    """Whether it is a constant of no dimensions."""
    return isinstance(x, tvm.ir.GenericConst) and isinstance(x.ty, relax.TensorType) and not x.value.shape


def sizes_of(x):
    return [int(s) for s in x.ty.shape.values] if all(isinstance(s, tvm.tirx.IntImm) for s in x.ty.shape.values) else []


def like(call, x, **changed):
    """The same collective with other attributes."""
    attrs = {**{key: call.attrs[key] for key in call.attrs.keys()}, **changed}  # noqa: SIM118
    return relax.Call(call.op, [] if x is None else [x], tvm.ir.make_node("ir.DictAttrs", **attrs))


def collective(name, x, call, **attrs):
    """Another collective on the workers of one."""
    same = {key: call.attrs[key] for key in ("axis", "workers", "value")}
    return relax.Call(tvm.ir.Op.get(f"relax.spmd.{name}"), [x], tvm.ir.make_node("ir.DictAttrs", **same, **attrs))


def with_operand(call, i, x):
    """The same call with another operand."""
    return relax.Call(call.op, [*call.args[:i], x, *call.args[i + 1 :]], call.attrs, call.ty_args)
