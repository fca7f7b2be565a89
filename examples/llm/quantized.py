"""Linear layers whose weights are packed integers with a scale for each group of inputs, decoded by the product that reads them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tvm import te, tirx
from tvm.relax.frontend import nn
from tvm.relax.frontend.nn import op

from .errors import ModelError


@dataclass(frozen=True)
class Format:
    """How a weight is packed."""

    bits: int
    group: int = 0
    """Inputs that share a scale; 0: all of a row."""
    zeros: bool = False
    """Whether each group has a zero point, too."""


FORMATS = {
    "q4f16_1": Format(4, 32),  # MLC-LLM's
    "int4": Format(4, 32, zeros=True),  # gpt-fast's, groups of 32
    "int8": Format(8),  # gpt-fast's
}


class PackedLinear(nn.Module):
    """x (..., inputs) -> (..., outputs): the weight is unpacked from words of 32 bits, scaled, and multiplied."""

    def __init__(self, outputs: int, inputs: int, form: Format, dtype: str) -> None:
        self.form, self.shape, self.dtype = form, (outputs, inputs), dtype
        self.each = 32 // form.bits
        if inputs % (form.group or self.each):
            raise ModelError("PackedLinear", f"{inputs} inputs are not whole groups", "Use a model whose sizes are multiples of 32.")
        groups = inputs // form.group if form.group else 1
        self.q_weight = nn.Parameter((outputs, inputs // self.each), "uint32")
        self.q_scale = nn.Parameter((outputs, groups), dtype)
        self.q_zero = nn.Parameter((outputs, groups), dtype) if form.zeros else None

    def forward(self, x: nn.Tensor) -> nn.Tensor:
        """The weight decoded, in two stages as front ends write them, and the product."""
        given = [self.q_weight, self.q_scale, *([self.q_zero] if self.q_zero is not None else [])]
        return op.matmul(x, op.permute_dims(op.tensor_expr_op(self._decode, "decode", given)))

    def _decode(self, words: te.Tensor, scale: te.Tensor, zero: te.Tensor | None = None) -> te.Tensor:
        form, dtype = self.form, self.dtype
        mask, middle = tirx.const(2**form.bits - 1, "uint32"), tirx.const(2 ** (form.bits - 1) - 1, dtype)

        def unpacked(i: tirx.Var, j: tirx.Var) -> tirx.Expr:
            shift = (j % self.each * form.bits).astype("uint32")
            return tirx.bitwise_and(tirx.shift_right(words[i, j // self.each], shift), mask).astype(dtype)

        levels = te.compute(self.shape, unpacked, name="unpack")

        def scaled(i: tirx.Var, j: tirx.Var) -> tirx.Expr:
            at = (i, j // form.group if form.group else 0)
            return (levels[i, j] - middle) * scale[at] if zero is None else levels[i, j] * scale[at] + zero[at]

        return te.compute(self.shape, scaled, name="scale")


def packed(name: str) -> Callable[[nn.Linear], nn.Module]:
    """What makes a `PackedLinear` of a linear layer; raises ModelError for an unknown format."""
    if name not in FORMATS:
        raise ModelError("quantization", f"there is no format {name!r}", f"Use one of: {', '.join(FORMATS)}.")

    def made(linear: nn.Linear) -> nn.Module:
        outputs, inputs = (int(size) for size in linear.weight.shape)
        return PackedLinear(outputs, inputs, FORMATS[name], str(linear.weight.dtype))

    return made
