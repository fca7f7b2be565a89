"""Formats of packed weights: words of 32 bits and a scale for each group of inputs, in NumPy and as the expression that decodes them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from tvm import te, tirx

from .errors import ModelError

ROWS = 1024
"""Rows that are packed at a time, so that no second copy of a weight is made."""


@dataclass(frozen=True)
class Format:
    """How a weight (..., outputs, inputs) is packed: q_weight, q_scale and, with `zeros`, q_zero; the last group is padded."""

    bits: int
    group: int = 0
    """Inputs that share a scale; 0: all of a row."""
    zeros: bool = False
    """Whether each group has its lowest value beside its scale; else values are symmetric."""
    dtype: str = ""
    """The element type of the model; "": as it is."""

    @property
    def each(self) -> int:
        """Values in a word."""
        return 32 // self.bits

    @property
    def middle(self) -> int:
        """The level that stands for zero, and the largest distance from it."""
        return 2 ** (self.bits - 1) - 1

    def groups(self, inputs: int) -> int:
        """Scales in a row."""
        return -(-inputs // self.group) if self.group else 1

    def words(self, inputs: int) -> int:
        """Words in a row."""
        padded = self.groups(inputs) * self.group if self.group else -(-inputs // self.each) * self.each
        return padded // self.each

    def parts(self, shape: tuple[int, ...], dtype: str) -> dict[str, tuple[tuple[int, ...], str]]:
        """{part: (shape, dtype)} of a weight of this shape in a model of this element type."""
        *rows, inputs = shape
        scale = (*rows, self.groups(inputs)), dtype
        found = {"q_weight": ((*rows, self.words(inputs)), "uint32"), "q_scale": scale}
        return {**found, "q_zero": scale} if self.zeros else found

    def pack(self, weight: np.ndarray, dtype: str) -> dict[str, np.ndarray]:
        """{part: array} of a float weight, rounded to the nearest level."""
        parts = {part: np.empty(shape, kind) for part, (shape, kind) in self.parts(weight.shape, dtype).items()}
        flat = weight.reshape(-1, weight.shape[-1])
        for start in range(0, len(flat), ROWS):
            packed = self._pack(flat[start : start + ROWS].astype("float32"), dtype)
            for part, array in parts.items():
                array.reshape(-1, array.shape[-1])[start : start + ROWS] = packed[part]
        return parts

    def _pack(self, rows: np.ndarray, dtype: str) -> dict[str, np.ndarray]:
        count, inputs = rows.shape
        each, groups = self.each, self.groups(inputs)
        padded = np.zeros((count, self.words(inputs) * each), "float32")
        padded[:, :inputs] = rows
        grouped = padded.reshape(count, groups, -1)
        low = grouped.min(-1) if self.zeros else -np.abs(grouped).max(-1)
        steps = 2**self.bits - 1 if self.zeros else 2 * self.middle
        scale = ((grouped.max(-1) if self.zeros else -low) - low) / steps
        scale, low = scale.astype(dtype), low.astype(dtype)  # what is kept is what values are divided by
        wide = np.where(scale == 0, 1, scale).astype("float32")[..., None]
        start = low.astype("float32")[..., None] if self.zeros else -self.middle * wide
        levels = np.clip(np.rint((grouped - start) / wide), 0, steps).astype("uint32").reshape(count, -1)
        levels[:, inputs:] = 0
        shifts = np.arange(each, dtype="uint32") * self.bits
        words = (levels.reshape(count, -1, each) << shifts).sum(-1, dtype="uint32")
        return {"q_weight": words, "q_scale": scale, "q_zero": low}

    def unpack(self, parts: dict[str, np.ndarray], inputs: int) -> np.ndarray:
        """The float weight (..., outputs, inputs) that packed parts stand for, in the type of the scales."""
        words, scale = parts["q_weight"], parts["q_scale"]
        shifts = np.arange(self.each, dtype="uint32") * self.bits
        levels = ((words[..., None] >> shifts) & np.uint32(2**self.bits - 1)).reshape(*words.shape[:-1], -1)[..., :inputs]
        of = np.arange(inputs) // self.group if self.group else np.zeros(inputs, int)
        if self.zeros:
            return levels.astype(scale.dtype) * scale[..., of] + parts["q_zero"][..., of]
        return (levels.astype(scale.dtype) - scale.dtype.type(self.middle)) * scale[..., of]

    def decode(self, inputs: int, words: te.Tensor, scale: te.Tensor, zero: te.Tensor | None = None) -> te.Tensor:
        """`unpack` as an expression, in two stages as front ends write them."""
        mask, middle = tirx.const(2**self.bits - 1, "uint32"), tirx.const(self.middle, scale.dtype)
        shape = (*words.shape[:-1], inputs)

        def unpacked(*i: tirx.Var) -> tirx.Expr:
            shift = (i[-1] % self.each * self.bits).astype("uint32")
            return tirx.bitwise_and(tirx.shift_right(words[(*i[:-1], i[-1] // self.each)], shift), mask).astype(scale.dtype)

        levels = te.compute(shape, unpacked, name="unpack")

        def scaled(*i: tirx.Var) -> tirx.Expr:
            at = (*i[:-1], i[-1] // self.group if self.group else 0)
            return (levels[i] - middle) * scale[at] if zero is None else levels[i] * scale[at] + zero[at]

        return te.compute(shape, scaled, name="scale")


FORMATS = {
    # MLC-LLM's
    "q4f16_1": Format(4, 32, dtype="float16"),
    "q4f32_1": Format(4, 32, dtype="float32"),
    "q3f16_1": Format(3, 40, dtype="float16"),
    "q8f16_1": Format(8, 32, dtype="float16"),
    # gpt-fast's, the first in groups of 32
    "int4": Format(4, 32, zeros=True),
    "int8": Format(8),
}


def format_of(name: str) -> Format:
    """A format by name; raises ModelError with the list of names."""
    if name not in FORMATS:
        raise ModelError("quantization", f"there is no format {name!r}", f"Use one of: {', '.join(FORMATS)}.")
    return FORMATS[name]


def is_packed(name: str, shape: tuple[int, ...]) -> bool:
    """Whether a weight is packed: matrices are, one or one for each expert, but not routers and tables of positions."""
    return len(shape) > 1 and name.endswith(".weight") and not name.endswith((".gate.weight", ".positions.weight"))


def part_name(name: str, part: str) -> str:
    """The name of a part of a weight: x.weight -> x.q_scale."""
    return f"{name.removesuffix('.weight')}.{part}"


def packed_weights(weights: Iterable[tuple[str, np.ndarray]], name: str) -> Iterator[tuple[str, np.ndarray]]:
    """(name, array) of the weights of a quantized module, from those of the module before, one after another."""
    form = format_of(name)
    for weight, array in weights:
        if is_packed(weight, array.shape):
            for part, packed in form.pack(array, form.dtype or str(array.dtype)).items():
                yield part_name(weight, part), packed
        else:
            yield weight, array
