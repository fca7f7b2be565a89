"""Quantization as a pass: of one module before it is sharded, with weights packed as they are read, and nothing decoded whole."""

from dataclasses import replace

import numpy as np
import pytest
from tvm import relax, tirx

import spmd
from examples.llm.config import LlamaConfig
from examples.llm.engine import METHODS, start
from examples.llm.errors import ModelError
from examples.llm.model import build_module
from examples.llm.quantization import FORMATS, is_packed, packed_weights, part_name
from examples.llm.quantize import quantize
from spmd.schedules import pipeline, resolve
from tests.examples.architectures import random_weights

TINY = LlamaConfig(64, 160, 1, 4, 2, 40, 16, max_position_embeddings=64, tie_word_embeddings=True)
PROMPT, ANSWER = [5, 31, 2, 7], [8, 1]


def run(program, weights):
    with start(program, weights, max_seq_len=16) as engine:
        return engine.score(PROMPT, ANSWER)


@pytest.fixture(scope="module")
def plain():
    return build_module(TINY, methods=METHODS)[0]


def test_logits_are_those_of_the_decoded_weights(plain):
    name, weights = "q4f32_1", random_weights(TINY)
    form = FORMATS[name]
    packed = dict(packed_weights(weights.items(), name))
    decoded = {}
    for weight, array in weights.items():
        parts = {part: packed[part_name(weight, part)] for part in form.parts((1, 1), "float32")} if is_packed(weight, array.shape) else {}
        decoded[weight] = form.unpack(parts, array.shape[-1]) if parts else array
    module = quantize(plain, name)
    expected = run(plain, decoded)
    np.testing.assert_allclose(run(module, packed), expected, rtol=1e-4, atol=1e-4)
    sharded = spmd.shard(module, 2, profile=spmd.testing.FREE_LINKS)
    np.testing.assert_allclose(run(sharded, packed), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", FORMATS)
def test_parameters_are_those_that_the_converter_writes(plain, name):
    module = quantize(plain, name)
    wanted = {n: (a.shape, str(a.dtype)) for n, a in packed_weights(random_weights(TINY).items(), name)}
    if FORMATS[name].dtype == "float16":
        wanted = {n: (shape, "float32" if kind == "float16" else kind) for n, (shape, kind) in wanted.items()}
    params = module["decode"].params[2:]
    assert {p.name: (tuple(int(s) for s in p.ty.shape), str(p.ty.dtype.dtype)) for p in params} == wanted


def test_no_weight_is_decoded_whole():
    """Of the compiled program no kernel writes what is as large as a weight."""
    target = resolve("llvm")
    config = replace(TINY, dtype="float16")
    module = quantize(build_module(config, target, ["embed", "decode"])[0], "q4f16_1")
    lowered = pipeline(target)(module)
    smallest = min(np.prod(shape) for shape in ((64, 64), (160, 64), (40, 64)))
    for function in lowered.functions.values():
        if isinstance(function, tirx.PrimFunc) and function.params:  # those of the virtual machine have none
            written = function.params[-1]
            assert not all(isinstance(s, tirx.IntImm) for s in written.shape) or np.prod([int(s) for s in written.shape]) < smallest


def test_the_module_given_stays_as_it_is(plain):
    before = plain.script()
    quantize(plain, "q4f32_1")
    assert plain.script() == before


def test_weights_in_a_tuple_are_refused():
    packed, _ = build_module(TINY, methods=["decode"], param_mode="packed")
    assert isinstance(packed["decode"].params[2].ty, relax.TupleType)
    with pytest.raises(ModelError, match=r"Quantize, 'decode': 'packed_params' is no tensor\. Export the module with param_mode"):
        quantize(packed, "int8")
