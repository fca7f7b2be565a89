"""Packed weights of the example: what they take, and that the product is that of the decoded weight."""

import numpy as np
import pytest
import tvm
from tvm import relax
from tvm.relax.frontend import nn

from examples.llm.config import LlamaConfig
from examples.llm.errors import ModelError
from examples.llm.model import build_module
from examples.llm.quantized import FORMATS, Format, PackedLinear, packed

ROWS, COLUMNS = 8, 64


@pytest.mark.parametrize("name", FORMATS)
def test_the_product_is_that_of_the_decoded_weight(name):
    form, random = FORMATS[name], np.random.default_rng(1)
    mod, params = PackedLinear(ROWS, COLUMNS, form, "float32").export_tvm({"forward": {"x": nn.spec.Tensor([2, COLUMNS], "float32")}})
    levels = random.integers(0, 2**form.bits - 1, (ROWS, COLUMNS)).astype("uint32")
    shifts = (np.arange(32 // form.bits) * form.bits).astype("uint32")
    words = (levels.reshape(ROWS, -1, 32 // form.bits) << shifts).sum(-1, dtype="uint32")
    scale, zero = (random.random(tuple(p.shape)).astype("float32") for p in (params[1][1], params[-1][1]))
    wide = [np.repeat(a, COLUMNS // a.shape[1], axis=1) for a in (scale, zero)]
    weight = levels * wide[0] + wide[1] if form.zeros else (levels - np.float32(2 ** (form.bits - 1) - 1)) * wide[0]
    x = random.random((2, COLUMNS)).astype("float32")
    machine = relax.VirtualMachine(tvm.compile(mod, "llvm"), tvm.cpu())
    given = [x, words, scale, *([zero] if form.zeros else [])]
    np.testing.assert_allclose(machine["forward"](*map(tvm.runtime.tensor, given)).numpy(), x @ weight.T, rtol=1e-4)


@pytest.mark.parametrize(("name", "bits"), [("q4f16_1", 4.5), ("int4", 5), ("int8", 8 + 16 / 64)])
def test_bits_of_a_weight(name, bits):
    shapes = [parameter.shape for parameter in PackedLinear(ROWS, COLUMNS, FORMATS[name], "float16").parameters()]
    held = sum(int(np.prod(shape)) * size for shape, size in zip(shapes, (32, 16, 16), strict=False))
    assert held / (ROWS * COLUMNS) == bits


def test_all_linear_layers_of_a_model_are_packed():
    config = LlamaConfig(64, 128, 1, 4, 2, 32, 16, dtype="float16")
    names = build_module(config, methods=("decode",), quantized=packed("int8"))[1]
    whole = {name for name in names if name.endswith("weight") and not name.endswith("q_weight")}
    assert all("norm" in name or "embed" in name for name in whole)
    assert sum(name.endswith("q_scale") for name in names) == 5


def test_what_cannot_be_packed_is_refused():
    with pytest.raises(ModelError, match=r"quantization: there is no format 'q3'\. Use one of: q4f16_1, int4, int8"):
        packed("q3")
    with pytest.raises(ModelError, match="PackedLinear: 20 inputs are not whole groups"):
        PackedLinear(8, 20, Format(4, 32), "float16")
