"""What operators read and write once they are fused, as text, and the times that come of it."""

from dataclasses import replace

import pytest
from tvm.script import ir as I
from tvm.script import relax as R

import spmd
from spmd import P, Profile
from spmd.costs.access import mark_accesses
from spmd.program.build import build_graph
from tests.costs.test_fusion import Gated, Halves, Norm
from tests.models.mlc_llama import TINY, mlc_llama

FUNCTIONS = ("decode", "create_paged_kv_cache")
SLOW = Profile("slow", flops=1e15, memory_bandwidth=1e6, link_bandwidth=1e15, link_latency=1e-9)
"""Bytes of memory are all that counts: a byte is a microsecond."""


def accesses(mod, function="main"):
    """A line for each operator that starts a kernel, reads or writes."""
    nodes = mark_accesses(build_graph(mod)).functions[function].nodes
    return [line for node in nodes if (line := _text(node))]


def _text(node):
    access = node.access
    reads = [v.name for read in access.reads for v in read]
    writes = [v.name for v, is_written in zip(node.outputs, access.writes, strict=True) if is_written]
    if not (reads or writes or access.launches):
        return ""
    return f"{'' if access.launches else '+ '}{node.op.removeprefix('relax.')}: {', '.join(reads)} -> {', '.join(writes)}"


def test_a_product_takes_arithmetic_along():
    """Of two products one multiplies with what the other has written."""
    assert accesses(Gated) == [
        "matmul: x, a -> gate",
        "matmul: x, b -> ",
        "+ multiply: gate -> both",
        "matmul: both, c -> ",
        "+ add: x -> y",
    ]


def test_norms_by_their_parts_are_few_kernels():
    assert accesses(Norm) == [
        "astype: x -> f",
        "mean: f -> ",
        "+ subtract: f -> centered",
        "multiply: centered -> squares",
        "mean: f -> ",  # of squares: calls of one class share the values of the first
        "+ add: centered, constant, w, b -> z",
        "matmul: z, c -> y",
    ]


def test_of_a_part_only_the_part_is_read():
    assert accesses(Halves) == ["matmul: x, w -> both", "split: both -> parts[0], parts[1]", "sum: parts[0], parts[1] -> y"]
    gated = accesses(mlc_llama(TINY, layers=1, functions=FUNCTIONS, symbolic_vocab=False)[0], "decode")
    assert "multiply: split[0], split[1] -> mul" in gated


@pytest.fixture(scope="module")
def quantized():
    return mlc_llama(TINY, "q4f16_1", layers=1, functions=FUNCTIONS, symbolic_vocab=False)[0]


def test_packed_weights_are_read_packed(quantized):
    found = accesses(quantized, "decode")
    assert found[:4] == [
        "nn.rms_norm: input_embed, model_layers_0_input_layernorm_weight -> rms_norm",
        "matmul: rms_norm, model_layers_0_self_attn_qkv_proj_q_weight, model_layers_0_self_attn_qkv_proj_q_scale -> matmul",
        "vm.builtin.attention_kv_cache_attention_with_fused_qkv: reshape1 -> lv1",
        "matmul: reshape3, model_layers_0_self_attn_o_proj_q_weight, model_layers_0_self_attn_o_proj_q_scale -> ",
    ]
    assert len([line for line in found if not line.startswith("+")]) == 10


def test_a_worker_pays_for_its_part_of_what_is_packed(quantized):
    """4 bits and a scale of 16 for 32 of them; the time of a product is that of its packed weight, and half of it on two workers."""
    for workers in (1, 2):
        plan = spmd.plan(quantized, workers, profile=SLOW)
        packed = [c.seconds for c in plan.choices["decode"] if c.op == "relax.matmul"]
        wide, narrow = TINY.hidden * 4.5 / 8 * TINY.intermediate * 2 / workers, 2 * (TINY.hidden + 2 * TINY.intermediate / workers)
        assert packed[2] == pytest.approx((wide + narrow) * 1e-6)
        decoded = [c.seconds for c in plan.choices["decode"] if c.op == "relax.call_tir"]
        assert sum(decoded) < 0.01 * sum(packed)


def test_attention_reads_half_of_its_cache(quantized):
    """Of two heads on two workers each reads one; a cache of which no size is given is not counted."""
    sizes = {"max_batch_size": 1, "max_total_seq_len": 64, "prefill_chunk_size": 64, "page_size": 16, "support_sliding_window": 0}

    def attention(workers, sizes):
        choices = spmd.plan(quantized, workers, profile=SLOW, sizes=sizes).choices["decode"]
        return next(c.seconds for c in choices if "attention" in c.op)

    page = 16 * TINY.kv_heads * TINY.head_dim * 2 * 2
    assert attention(1, sizes) - attention(1, None) == pytest.approx((64 // 16 + 1) * page / 2 * 1e-6)
    assert attention(2, sizes) - attention(2, None) == pytest.approx((64 // 16 + 1) * page / 4 * 1e-6)


@I.ir_module
class Twice:
    """The same sum of the same shapes, written once and taken along once."""

    @R.function
    def main(x: R.Tensor((64, 64), "float32"), w: R.Tensor((64, 64), "float32")):
        with R.dataflow():
            a = R.add(x, x)
            b = R.matmul(a, w)
            c = R.add(b, b)
            R.output(c)
        return c


def test_calls_of_one_class_have_equal_accesses():
    first, _, second = mark_accesses(build_graph(Twice)).functions["main"].nodes
    assert first.call_class != second.call_class
    seconds = [c.seconds for c in spmd.plan(Twice, 1, profile=SLOW).choices["main"]]
    held = 64 * 64 * 4 * 1e-6
    assert seconds == pytest.approx([2 * held, 2 * held, held])


def test_a_collective_inside_stands_between_two_kernels():
    """A softmax over what is split looks at its shard twice."""

    @I.ir_module
    class Soft:
        @R.function
        def main(x: R.Tensor((64, 64), "float32")):
            with R.dataflow():
                y = R.nn.softmax(x, axis=-1)
                R.output(y)
            return y

    specs = {"main.x": P(None, "tp"), "main.y": P(None, "tp")}
    launching = replace(SLOW, kernel_latency=1.0, link_bandwidth=1e3)
    whole, split = spmd.plan(Soft, 1, profile=launching), spmd.plan(Soft, 2, specs, profile=launching)
    assert whole.predicted["main"] == pytest.approx(1.0 + 2 * 64 * 64 * 4 * 1e-6)
    assert [c.kind for c in split.collectives] == ["all_reduce", "all_reduce", "all_gather"]  # the last where it is returned
    assert split.predicted["main"] - sum(c.seconds for c in split.collectives) == pytest.approx(2.0 + 3 * 64 * 32 * 4 * 1e-6)
