"""Quantization as a pass: the float weights of a module become packed ones, decoded where they are read."""

from __future__ import annotations

from typing import Any

import tvm
from tvm import relax
from tvm.relax.expr_functor import PyExprMutator, mutator

from .errors import ModelError
from .quantization import Format, Formats, chosen, format_of, part_name


@tvm.transform.module_pass(opt_level=0, name="examples.llm.Quantize")
class Quantize:
    """A pass that packs the weights of all functions: the parameters behind the first `num_input`, those that `chosen` has a format for.

    The module's element type stays; raises ModelError for an unknown format, and for weights that come in a tuple.
    """

    def __init__(self, formats: Formats) -> None:
        for name in [formats] if isinstance(formats, str) else formats.values():
            format_of(name)
        self.formats = formats

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        """The module with packed weights."""
        _check(mod)
        edit = _Packer(mod, self.formats)
        for var, function in _quantized(mod):
            edit.builder_.update_func(var, edit.packed(function))
        return edit.builder_.finalize()


def quantize(mod: tvm.IRModule, formats: Formats) -> tvm.IRModule:
    """`mod`, which stays as it is, with packed weights; raises as the pass does, in words that TVM does not wrap."""
    _check(mod)
    return Quantize(formats)(mod)


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

    def __init__(self, mod: tvm.IRModule, formats: Formats) -> None:
        super().__init__(mod)
        self.formats = formats
        self.parts: dict[Any, tuple[Format, list[relax.Var]]] = {}

    def packed(self, function: relax.Function) -> relax.Function:
        """A function with parts as parameters in the place of weights."""
        inputs = int(function.attrs["num_input"])
        params: list[relax.Var] = list(function.params[:inputs])
        for weight in function.params[inputs:]:
            form = self._format(weight)
            if form is None:
                params.append(weight)
            else:
                self.parts[weight] = form, _parts(weight, form)
                params += self.parts[weight][1]
        body = self.visit_expr(function.body)
        return relax.Function(params, body, function.ret_ty, function.is_pure, function.attrs)

    def visit_var_(self, var: relax.Var) -> relax.Expr:
        """What stands for a variable: of a packed weight, its decoded value."""
        if var not in self.parts:
            return super().visit_var_(var)
        form, parts = self.parts[var]
        inputs, dtype = int(var.ty.shape[-1]), _dtype(var)
        return self.builder_.emit_te(lambda *given: form.decode(inputs, dtype, *given), *parts, primfunc_name_hint="decode")

    def _format(self, weight: relax.Var) -> Format | None:
        shape = weight.ty.shape
        return None if shape is None or not _dtype(weight).startswith("float") else chosen(self.formats, weight.name, tuple(shape))


def _dtype(weight: relax.Var) -> str:
    return str(getattr(weight.ty.dtype, "dtype", weight.ty.dtype))


def _parts(weight: relax.Var, form: Format) -> list[relax.Var]:
    *rows, last = weight.ty.shape
    parts = form.parts((1, int(last)), _dtype(weight))
    return [relax.Var(part_name(weight.name, part), relax.TensorType([*rows, size[-1]], kind)) for part, (size, kind) in parts.items()]
