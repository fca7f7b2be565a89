"""Packed weights: what a format keeps, and that it decodes to what NumPy decodes."""

import numpy as np
import pytest
import tvm
from gguf.constants import GGMLQuantizationType
from gguf.quants import dequantize, quantize
from tvm import te

from examples.llm.errors import ModelError
from examples.llm.quantization import FORMATS, Blocks, Float8, Format, chosen, format_of, is_packed, packed_weights

ROWS, COLUMNS = 6, 100
"""No whole number of groups, nor of words."""
BITS = {"q4f16_1": 4.5, "q4f32_1": 5, "q3f16_1": 3.6, "q8f16_1": 8.5, "int4": 5, "int8": 8 + 16 / 240}
BITS |= {"fp8": BITS["int8"], "q4_0": 4.5, "q4_1": 5, "q8_0": 8.5}


def weight(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).standard_normal(shape).astype("float32")


def dtype_of(form: Format) -> str:
    return form.dtype or "float16"


@pytest.mark.parametrize("name", FORMATS)
def test_what_is_kept_is_near(name):
    form, array = FORMATS[name], weight(ROWS, COLUMNS)
    parts = form.pack(array, dtype_of(form))
    assert {part: (a.shape, str(a.dtype)) for part, a in parts.items()} == form.parts(array.shape, dtype_of(form))
    steps = np.abs(np.repeat(parts["q_scale"], form.group or COLUMNS, axis=1)[:, :COLUMNS].astype("float32"))
    if isinstance(form, Float8):  # whose steps grow with the value
        steps = np.maximum(steps / 256, np.abs(array) / 8)
    near = 1.01 if name == "q4_0" else 0.51  # which has no level for the largest value with the other sign
    assert (np.abs(form.unpack(parts, COLUMNS) - array) <= near * steps + 2e-3 * np.abs(array).max()).all()


@pytest.mark.parametrize("name", FORMATS)
def test_bits_of_a_weight(name):
    shapes = FORMATS[name].parts((ROWS, 240), dtype_of(FORMATS[name])).values()
    padded = 1.0 if 240 % (FORMATS[name].group or 4) == 0 else 256 / 240
    assert sum(np.prod(shape) * np.dtype(kind).itemsize * 8 for shape, kind in shapes) / (ROWS * 240) == pytest.approx(BITS[name] * padded)


@pytest.mark.parametrize("name", ["q4f16_1", "q3f16_1", "int4", "int8", "fp8", "q4_1", "q8_0"])
def test_the_expression_decodes_as_numpy_does(name):
    form, array = FORMATS[name], weight(2, ROWS, COLUMNS)
    parts = form.pack(array, "float32")
    given = [te.placeholder(a.shape, str(a.dtype)) for a in parts.values()]
    decoded = te.create_prim_func([*given, form.decode(COLUMNS, "float32", *given)])
    out = tvm.runtime.empty(array.shape, "float32")
    tvm.compile(tvm.IRModule({"main": decoded}), "llvm")["main"](*map(tvm.runtime.tensor, parts.values()), out)
    np.testing.assert_allclose(out.numpy(), form.unpack(parts, COLUMNS, "float32"), rtol=1e-6)


def test_levels_of_mlc():
    """q4f16_1: the lowest bits hold the first value, and 7 stands for zero."""
    parts = FORMATS["q4f16_1"].pack(np.array([[-7.0, 0.0, 7.0, 3.0]], "float32"), "float16")
    assert hex(parts["q_weight"][0, 0]) == "0xae70"
    assert parts["q_scale"][0, 0] == 1.0


@pytest.mark.parametrize("name", [name for name, form in FORMATS.items() if isinstance(form, Blocks)])
def test_blocks_of_a_file_are_kept(name):
    """What is unpacked is what llama.cpp makes of the same blocks, to the bit."""
    form, kind = FORMATS[name], GGMLQuantizationType[name.upper()]
    raw = quantize(weight(ROWS, 96), kind)
    parts = form.regrouped(raw)
    assert {part: (a.shape, str(a.dtype)) for part, a in parts.items()} == form.parts((ROWS, 96), "float32")
    np.testing.assert_array_equal(form.unpack(parts, 96, "float32"), dequantize(raw, kind))
    np.testing.assert_array_equal(form.pack(weight(ROWS, 96), "float32")["q_weight"], parts["q_weight"])


def test_floats_of_eight_bits_decode_to_each_value():
    form, words = FORMATS["fp8"], np.arange(256, dtype="uint8").view("uint32")[None]
    levels, scale = te.placeholder((1, 64), "uint32"), te.placeholder((1, 1), "float32")
    decoded, out = te.create_prim_func([levels, scale, form.decode(256, "float32", levels, scale)]), tvm.runtime.empty((1, 256), "float32")
    tvm.compile(tvm.IRModule({"main": decoded}), "llvm")["main"](*map(tvm.runtime.tensor, (words, np.ones((1, 1), "float32"))), out)
    expected = form.unpack({"q_weight": words, "q_scale": np.ones((1, 1), "float32")}, 256)
    numbers = ~np.isnan(expected)
    assert numbers.sum() == 254
    np.testing.assert_array_equal(out.numpy()[numbers], expected[numbers])


def test_a_format_for_each_weight():
    given = [("a.weight", weight(4, 32)), ("b.weight", weight(4, 32)), ("norm.weight", weight(32))]
    found = dict(packed_weights(given, {"b.weight": "q8_0", "norm.weight": "q8_0"}))
    assert list(found) == ["a.weight", "b.q_weight", "b.q_scale", "norm.weight"]
    assert chosen("int8", "a.weight", (4, 32)) is FORMATS["int8"] and chosen("", "a.weight", (4, 32)) is None


def test_weights_one_after_another():
    given = [("a.weight", weight(4, 32)), ("norm.weight", weight(32)), ("mlp.gate.weight", weight(4, 32)), ("e.weight", weight(2, 4, 32))]
    found = dict(packed_weights(iter(given), "q4f32_1"))
    assert list(found) == ["a.q_weight", "a.q_scale", "norm.weight", "mlp.gate.weight", "e.q_weight", "e.q_scale"]
    assert found["e.q_weight"].shape == (2, 4, 4)
    assert not is_packed("model.layers.0.self_attn.qkv_proj.bias", (4, 4))


def test_unknown_formats_are_refused():
    with pytest.raises(ModelError, match=r"quantization: there is no format 'q5'\. Use one of: q4f16_1, q4f32_1, q3f16_1"):
        format_of("q5")
