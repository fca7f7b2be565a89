"""Formats of packed weights: words of 32 bits and a scale for each group of inputs, in NumPy and as the expression that decodes them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
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
    scale_dtype: str = ""
    """The element type of scales; "": the model's."""
    zero_level: int = 0
    """The level that stands for zero; 0: the middle one."""

    @property
    def each(self) -> int:
        """Values in a word."""
        return 32 // self.bits

    @property
    def middle(self) -> int:
        """The level that stands for zero."""
        return self.zero_level or 2 ** (self.bits - 1) - 1

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
        scale = (*rows, self.groups(inputs)), self.scale_dtype or dtype
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
        scale = ((grouped.max(-1) if self.zeros else -low) - low) / self.steps
        scale, low = scale.astype(dtype), low.astype(dtype)  # what is kept is what values are divided by
        wide = np.where(scale == 0, 1, scale).astype("float32")[..., None]
        levels = self.levels(grouped, wide, low.astype("float32")[..., None]).reshape(count, -1)
        levels[:, inputs:] = 0
        return {"q_weight": self.joined(levels), "q_scale": scale, "q_zero": low}

    @property
    def steps(self) -> float:
        """The scales that the values of a group span."""
        return 2**self.bits - 1 if self.zeros else 2 * self.middle

    def levels(self, values: np.ndarray, scale: np.ndarray, low: np.ndarray) -> np.ndarray:
        """uint32: the nearest level of each value."""
        start = low if self.zeros else -self.middle * scale
        return np.clip(np.rint((values - start) / scale), 0, self.steps).astype("uint32")

    def joined(self, levels: np.ndarray) -> np.ndarray:
        """Levels (rows, values) as words (rows, values / each), the first value in the lowest bits."""
        shifts = np.arange(self.each, dtype="uint32") * self.bits
        return (levels.reshape(len(levels), -1, self.each).astype("uint32") << shifts).sum(-1, dtype="uint32")

    def unpack(self, parts: dict[str, np.ndarray], inputs: int, dtype: str = "") -> np.ndarray:
        """The float weight (..., outputs, inputs) that packed parts stand for; its type is that of the scales where none is given."""
        words, kind = parts["q_weight"], np.dtype(dtype or parts["q_scale"].dtype)
        shifts = np.arange(self.each, dtype="uint32") * self.bits
        levels = ((words[..., None] >> shifts) & np.uint32(2**self.bits - 1)).reshape(*words.shape[:-1], -1)[..., :inputs]
        of = np.arange(inputs) // self.group if self.group else np.zeros(inputs, int)
        scale = parts["q_scale"].astype(kind)[..., of]
        if self.zeros:
            return levels.astype(kind) * scale + parts["q_zero"].astype(kind)[..., of]
        return self.values(levels, kind) * scale

    def values(self, levels: np.ndarray, kind: np.dtype) -> np.ndarray:
        """What levels stand for in units of their scale."""
        return levels.astype(kind) - kind.type(self.middle)

    def decode(self, inputs: int, dtype: str, words: te.Tensor, scale: te.Tensor, zero: te.Tensor | None = None) -> te.Tensor:
        """`unpack` as an expression, in two stages as front ends write them."""
        mask, shape = tirx.const(2**self.bits - 1, "uint32"), (*words.shape[:-1], inputs)

        def unpacked(*i: tirx.Var) -> tirx.Expr:
            shift = (i[-1] % self.each * self.bits).astype("uint32")
            level = tirx.bitwise_and(tirx.shift_right(words[(*i[:-1], i[-1] // self.each)], shift), mask)
            return level.astype(dtype) if self.zeros else self.value(level, dtype)

        values = te.compute(shape, unpacked, name="unpack")

        def scaled(*i: tirx.Var) -> tirx.Expr:
            at = (*i[:-1], i[-1] // self.group if self.group else 0)
            found = values[i] * scale[at].astype(dtype)
            return found if zero is None else found + zero[at].astype(dtype)

        return te.compute(shape, scaled, name="scale")

    def value(self, level: tirx.Expr, dtype: str) -> tirx.Expr:
        """`values` as an expression, of a uint32."""
        return level.astype(dtype) - tirx.const(self.middle, dtype)


@dataclass(frozen=True)
class Float8(Format):
    """Floats of 8 bits, 4 of them exponent and 3 fraction (E4M3), which are decoded in whole numbers: few targets have the type."""

    @property
    def steps(self) -> float:
        """Twice the largest value."""
        return 2 * 448.0

    def levels(self, values: np.ndarray, scale: np.ndarray, low: np.ndarray) -> np.ndarray:
        import ml_dtypes

        return np.clip(values / scale, -448.0, 448.0).astype(ml_dtypes.float8_e4m3fn).view("uint8").astype("uint32")

    def values(self, levels: np.ndarray, kind: np.dtype) -> np.ndarray:
        import ml_dtypes

        return levels.astype("uint8").view(ml_dtypes.float8_e4m3fn).astype(kind)

    def value(self, level: tirx.Expr, dtype: str) -> tirx.Expr:
        sign, rest = (
            tirx.bitwise_and(level, tirx.const(bits, "uint32")) << tirx.const(by, "uint32") for bits, by in ((128, 24), (127, 20))
        )
        # as a float32 it has an exponent that is 120 too small, also where it is below the smallest normal number
        return (tirx.reinterpret("float32", tirx.bitwise_or(sign, rest)) * tirx.const(2.0**120, "float32")).astype(dtype)


@dataclass(frozen=True)
class Blocks(Format):
    """A format of GGUF files: the levels and scales of a file are kept, only bits change their order. Scales are float16."""

    kind: str = ""
    """Its name in gguf."""

    def pack(self, weight: np.ndarray, dtype: str) -> dict[str, np.ndarray]:
        """As llama.cpp quantizes, the last block padded."""
        from gguf.constants import GGMLQuantizationType
        from gguf.quants import quantize

        parts = {part: np.empty(shape, kind) for part, (shape, kind) in self.parts(weight.shape, dtype).items()}
        flat, padded = weight.reshape(-1, weight.shape[-1]), self.groups(weight.shape[-1]) * self.group
        for start in range(0, len(flat), ROWS):
            rows = np.zeros((len(flat[start : start + ROWS]), padded), "float32")
            rows[:, : flat.shape[1]] = flat[start : start + ROWS]
            for part, array in self.regrouped(quantize(rows, GGMLQuantizationType[self.kind])).items():
                parts[part].reshape(-1, array.shape[-1])[start : start + ROWS] = array
        return parts

    def regrouped(self, raw: np.ndarray) -> dict[str, np.ndarray]:
        """{part: array} of the bytes (rows, blocks * bytes of a block) of a file: scale, perhaps lowest value, levels."""
        rows, ahead, held = len(raw), 4 if self.zeros else 2, self.group * self.bits // 8
        blocks = np.ascontiguousarray(raw).reshape(rows, -1, ahead + held)
        heads = np.ascontiguousarray(blocks[..., :ahead]).view("float16")
        levels = blocks[..., ahead:]
        if self.bits == 4:  # the low halves of bytes are the first half of a block
            levels = np.concatenate([levels & 15, levels >> 4], axis=-1)
        elif not self.zeros:  # signed
            levels = levels ^ np.uint8(128)
        found = {"q_weight": self.joined(levels.reshape(rows, -1)), "q_scale": heads[..., 0]}
        return {**found, "q_zero": heads[..., 1]} if self.zeros else found


FORMATS: Mapping[str, Format] = {
    # MLC-LLM's
    "q4f16_1": Format(4, 32, dtype="float16"),
    "q4f32_1": Format(4, 32, dtype="float32"),
    "q3f16_1": Format(3, 40, dtype="float16"),
    "q8f16_1": Format(8, 32, dtype="float16"),
    # gpt-fast's, the first in groups of 32
    "int4": Format(4, 32, zeros=True),
    "int8": Format(8),
    "fp8": Float8(8),
    # llama.cpp's
    "q4_0": Blocks(4, 32, scale_dtype="float16", zero_level=8, kind="Q4_0"),
    "q4_1": Blocks(4, 32, zeros=True, scale_dtype="float16", kind="Q4_1"),
    "q8_0": Blocks(8, 32, scale_dtype="float16", zero_level=128, kind="Q8_0"),
}

Formats = str | Mapping[str, str]
"""The name of one format for all weights that are packed, or {weight: name}, where others stay as they are."""


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


def chosen(formats: Formats, weight: str, shape: tuple[int, ...]) -> Format | None:
    """The format of a weight, None where it stays as it is; raises ModelError for an unknown name."""
    name = formats if isinstance(formats, str) else formats.get(weight, "")
    return format_of(name) if name and is_packed(weight, shape) else None


def packed_weights(weights: Iterable[tuple[str, np.ndarray]], formats: Formats) -> Iterator[tuple[str, np.ndarray]]:
    """(name, array) of the weights of a quantized module, from those of the module before, one after another."""
    for weight, array in weights:
        form = chosen(formats, weight, array.shape)
        if form is None:
            yield weight, array
            continue
        for part, packed in form.pack(array, form.dtype or str(array.dtype)).items():
            yield part_name(weight, part), packed
