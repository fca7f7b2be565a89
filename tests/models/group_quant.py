"""Four-bit group quantization, format q4f16_1: the layers a quantized module holds, and the same in NumPy.

A weight `[rows, columns]` is kept as `q_weight: uint32[rows, words]`, eight values of four bits a word, lowest bits
first, and `q_scale: float16[rows, groups]`, one scale for 32 columns. The last group is padded with zero bits.
A value q stands for `(q - 7) * scale`, so q lies in 0..14.
"""

import numpy as np
import numpy.typing as npt
from tvm import te, tirx
from tvm.relax.frontend import nn

GROUP = 32
BITS = 4
PER_WORD = 32 // BITS
ZERO = 7


def storage_shapes(rows: int | str, columns: int) -> tuple[tuple[int | str, int], tuple[int | str, int]]:
    """Shapes of `q_weight` and `q_scale` for a weight `[rows, columns]`."""
    groups = -(-columns // GROUP)
    return (rows, groups * GROUP // PER_WORD), (rows, groups)


def quantize(weight: npt.NDArray[np.float16]) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.float16]]:
    """Pack `weight[rows, columns]` into `(q_weight, q_scale)`, in float16 arithmetic, halves rounded to even."""
    rows, columns = weight.shape
    (_, words), (_, groups) = storage_shapes(rows, columns)
    grouped = np.zeros((rows, groups * GROUP), np.float16)
    grouped[:, :columns] = weight
    grouped = grouped.reshape(rows, groups, GROUP)
    scale = np.abs(grouped).max(axis=-1) / np.float16(ZERO)
    divisor = np.where(scale == 0, np.float16(1), scale)[..., None]
    levels = np.rint(grouped / divisor + np.float16(ZERO))
    levels = np.clip(levels, 0, 2 * ZERO).astype(np.uint32).reshape(rows, groups * GROUP)
    levels[:, columns:] = 0
    shifts = np.arange(PER_WORD, dtype=np.uint32) * BITS
    packed = (levels.reshape(rows, words, PER_WORD) << shifts).sum(axis=-1, dtype=np.uint32)
    return packed, scale


def dequantize(q_weight: npt.NDArray[np.uint32], q_scale: npt.NDArray[np.float16], columns: int) -> npt.NDArray[np.float16]:
    """Unpack `(q_weight, q_scale)` into `[rows, columns]`: what the dequantize kernel computes, bit for bit."""
    shifts = np.arange(PER_WORD, dtype=np.uint32) * BITS
    levels = (q_weight[..., None] >> shifts) & np.uint32(2**BITS - 1)
    levels = levels.reshape(q_weight.shape[0], -1)[:, :columns].astype(np.float16)
    return (levels - np.float16(ZERO)) * np.repeat(q_scale, GROUP, axis=1)[:, :columns]


def dequantize_kernel(q_weight: te.Tensor, q_scale: te.Tensor, rows: int | None, columns: int) -> te.Tensor:
    """`[rows, columns]` in float16. Two stages, unpack and scale; `rows=None` takes the symbolic one of `q_weight`."""
    first = q_weight.shape[0] if rows is None else tirx.IntImm("int64", rows)
    shape = [first, tirx.IntImm("int64", columns)]
    mask = tirx.const(2**BITS - 1, "uint32")
    zero = tirx.const(ZERO, "float16")

    def unpack(i: tirx.Var, j: tirx.Var) -> tirx.Expr:
        shift = (j % PER_WORD * BITS).astype("uint32")
        return tirx.bitwise_and(tirx.shift_right(q_weight(i, j // PER_WORD), shift), mask).astype("float16")

    levels = te.compute(shape, unpack)
    return te.compute(shape, lambda i, j: (levels(i, j) - zero) * q_scale(i, j // GROUP), name="dequantize")


class Quantized(nn.Module):
    """A packed weight `[rows, columns]`; a string for `rows` makes that dimension symbolic."""

    def __init__(self, rows: int | str, columns: int) -> None:
        weight, scale = storage_shapes(rows, columns)
        self.rows = rows if isinstance(rows, int) else None
        self.columns = columns
        self.q_weight = nn.Parameter(weight, "uint32")
        self.q_scale = nn.Parameter(scale, "float16")

    def dequantized(self) -> nn.Tensor:
        """Emit the kernel: `float16[rows, columns]`."""
        return nn.op.tensor_expr_op(
            lambda weight, scale: dequantize_kernel(weight, scale, self.rows, self.columns),
            name_hint="dequantize",
            args=[self.q_weight, self.q_scale],
        )


class QuantizedLinear(Quantized):
    """`x[..., columns] -> [..., rows]`: dequantize, transpose, multiply."""

    def forward(self, x: nn.Tensor) -> nn.Tensor:
        return nn.op.matmul(x, nn.op.permute_dims(self.dequantized()))


class QuantizedEmbedding(Quantized):
    """`ids[n] -> [n, columns]`: the whole table is dequantized, then rows are taken."""

    def forward(self, ids: nn.Tensor) -> nn.Tensor:
        return nn.op.take(self.dequantized(), ids, axis=0)

    def lm_head_forward(self, x: nn.Tensor) -> nn.Tensor:
        """`x[..., columns] -> float32[..., rows]`, with the embedding table as the weight."""
        return nn.op.matmul(x, nn.op.permute_dims(self.dequantized()), out_dtype="float32")
