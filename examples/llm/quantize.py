"""Quantization as a pass: the float weights of a module become packed ones, decoded where they are read."""

from __future__ import annotations

from typing import Any

import tvm
from tvm import relax
from tvm.relax.expr_functor import PyExprMutator, mutator

from .errors import ModelError
from .quantization import Format, format_of, is_packed, part_name


@tvm.transform.module_pass(opt_level=0, name="examples.llm.Quantize")
class Quantize:
    """A pass that packs the weights of all functions: the parameters behind the first `num_input`, which `is_packed` chooses.

    The module's element type stays; raises ModelError for an unknown format, and for weights that come in a tuple.
    """

    def __init__(self, name: str) -> None:
        self.format = format_of(name)

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        """The module with packed weights."""
        _check(mod)
        edit = _Packer(mod, self.format)
        for var, function in _quantized(mod):
            edit.builder_.update_func(var, edit.packed(function))
        return edit.builder_.finalize()


def quantize(mod: tvm.IRModule, name: str) -> tvm.IRModule:
    """`mod`, which stays as it is, with weights in the format `name`; raises as the pass does, in words that TVM does not wrap."""
    _check(mod)
    return Quantize(name)(mod)


def _quantized(mod: tvm.IRModule) -> list[tuple[Any, relax.Function]]:
    """The functions that say which of their parameters are weights."""
    return [(var, f) for var, f in mod.functions_items() if isinstance(f, relax.Function) and "num_input" in (f.attrs or {})]


def _check(mod: tvm.IRModule) -> None:
    for var, function in _quantized(mod):
        for weight in function.params[int(function.attrs["num_input"]) :]:
            if not isinstance(weight.ty, relax.TensorType):
                where = f"Quantize, '{var.name_hint}'"
                raise ModelError(where, f"'{weight.name}' is no tensor", 'Export the module with param_mode="plain".')


@mutator
class _Packer(PyExprMutator):
    """Decodes a packed weight before each operator that reads it."""

    def __init__(self, mod: tvm.IRModule, form: Format) -> None:
        super().__init__(mod)
        self.form = form
        self.parts: dict[Any, list[relax.Var]] = {}

    def packed(self, function: relax.Function) -> relax.Function:
        """A function with parts as parameters in the place of weights."""
        inputs = int(function.attrs["num_input"])
        params: list[relax.Var] = list(function.params[:inputs])
        for weight in function.params[inputs:]:
            self.parts[weight] = self._parts(weight)
            params += self.parts[weight]
        body = self.visit_expr(function.body)
        return relax.Function(params, body, function.ret_ty, function.is_pure, function.attrs)

    def visit_var_(self, var: relax.Var) -> relax.Expr:
        """What stands for a variable: of a packed weight, its decoded value."""
        parts = self.parts.get(var)
        if parts is None or parts[0].same_as(var):
            return super().visit_var_(var)
        inputs = int(var.ty.shape[-1])
        return self.builder_.emit_te(lambda *given: self.form.decode(inputs, *given), *parts, primfunc_name_hint="decode")

    def _parts(self, weight: relax.Var) -> list[relax.Var]:
        shape, dtype = weight.ty.shape, str(weight.ty.dtype.dtype if hasattr(weight.ty.dtype, "dtype") else weight.ty.dtype)
        if shape is None or not is_packed(weight.name, tuple(shape)) or not dtype.startswith("float"):
            return [weight]
        *rows, last = shape
        parts = self.form.parts((1, int(last)), dtype)
        return [relax.Var(part_name(weight.name, part), relax.TensorType([*rows, size[-1]], kind)) for part, (size, kind) in parts.items()]
