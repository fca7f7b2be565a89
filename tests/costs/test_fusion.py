"""What compilers never write to memory, and that what is left is what the compiled program allocates."""

import pytest
from tvm import relax
from tvm.script import ir as I
from tvm.script import relax as R

import spmd
from spmd import P
from spmd.annotate import annotate
from spmd.costs.fusion import fused
from spmd.placement.mesh import Mesh
from spmd.program.build import build_graph
from spmd.testing import FREE_LINKS
from tests.models.mlc_llama import TINY, mlc_llama
from tests.program.storage import allocated
from tests.programs import Mlp


def fused_names(mod):
    graph = annotate(build_graph(mod), Mesh(tp=1), None)
    (function,) = graph.functions.values()
    return {v.name for v in fused(function)}


@I.ir_module
class Norm:
    """A layer norm by its parts, and a product with a transposed weight."""

    @R.function
    def main(
        x: R.Tensor((64, 32), "float16"), w: R.Tensor((32,), "float16"), b: R.Tensor((32,), "float16"), c: R.Tensor((32, 32), "float16")
    ):
        R.func_attr({"num_input": 1})
        with R.dataflow():
            f = R.astype(x, "float32")
            mean = R.mean(f, axis=[-1], keepdims=True)
            centered = R.subtract(f, mean)
            squares = R.multiply(centered, centered)
            variance = R.mean(squares, axis=[-1], keepdims=True)
            root = R.rsqrt(R.add(variance, R.const(1e-5, "float32")))
            normed = R.multiply(centered, root)
            half = R.astype(normed, "float16")
            z = R.add(R.multiply(half, w), b)
            turned = R.permute_dims(c)
            y = R.matmul(z, turned)
            R.output(y)
        return y


@I.ir_module
class Gated:
    """Two products of which one takes the other's along."""

    @R.function
    def main(
        x: R.Tensor((64, 32), "float32"),
        a: R.Tensor((32, 128), "float32"),
        b: R.Tensor((32, 128), "float32"),
        c: R.Tensor((128, 32), "float32"),
    ):
        R.func_attr({"num_input": 1})
        with R.dataflow():
            gate = R.matmul(x, a)
            active = R.nn.silu(gate)
            up = R.matmul(x, b)
            both = R.multiply(active, up)
            down = R.matmul(both, c)
            y = R.add(down, x)
            R.output(y)
        return y


@I.ir_module
class Halves:
    """One product cut in two, and a sum of what comes of it."""

    @R.function
    def main(x: R.Tensor((16, 32), "float32"), w: R.Tensor((32, 128), "float32")):
        R.func_attr({"num_input": 1})
        with R.dataflow():
            both = R.matmul(x, w)
            parts = R.split(both, 2, axis=1)
            active = R.nn.silu(parts[0])
            product = R.multiply(active, parts[1])
            squares = R.multiply(product, product)
            y = R.sum(squares, axis=[1])
            R.output(y)
        return y


@I.ir_module
class Convolution:
    @R.function
    def main(x: R.Tensor((2, 4, 8, 8), "float32"), w: R.Tensor((6, 4, 3, 3), "float32"), b: R.Tensor((1, 6, 1, 1), "float32")):
        R.func_attr({"num_input": 1})
        with R.dataflow():
            c = R.nn.conv2d(x, w, padding=1)
            d = R.add(c, b)
            e = R.nn.relu(d)
            f = R.nn.softmax(e, axis=1)
            g = R.multiply(f, R.const(2.0, "float32"))
            y = R.matmul(R.permute_dims(g, [0, 1, 3, 2]), g)
            R.output(y)
        return y


def test_what_goes_with_who_reads_it():
    assert fused_names(Mlp) == {"up"}
    assert {"mean", "variance", "root", "normed", "half", "turned"} <= fused_names(Norm)
    assert not {"f", "centered", "squares", "z", "y"} & fused_names(Norm)
    assert len(fused_names(Gated) & {"gate", "up"}) == 1 and {"active", "down"} <= fused_names(Gated)
    assert fused_names(Halves) == {"active", "product", "squares"}
    assert {"c", "d"} <= fused_names(Convolution) and not {"e", "g", "y"} & fused_names(Convolution)


@pytest.mark.parametrize("mod", [Mlp, Norm, Gated, Halves, Convolution], ids=["mlp", "norm", "gated", "halves", "convolution"])
@pytest.mark.parametrize("workers", [1, 2, 3])
def test_activations_are_what_is_allocated(mod, workers):
    sharded = spmd.shard(mod, workers, profile=FREE_LINKS)
    (planned,), (there,) = sharded.plan.memory.values(), allocated(sharded).values()
    assert 0.85 * there <= planned.activations <= (1.0 if workers == 1 else 1.5) * there


@pytest.mark.parametrize("quantization", ["q0f16", "q4f16_1"])
@pytest.mark.parametrize("workers", [1, 2, 4])
def test_activations_of_a_language_model(quantization, workers):
    """Packed weights are decoded by the products that read them: they are nowhere as a whole."""
    functions = ("embed", "get_logits", "prefill", "decode", "create_paged_kv_cache")
    mod, _ = mlc_llama(TINY, quantization, functions=functions, symbolic_vocab=False)
    for name in functions[:3]:
        mod = relax.transform.BindSymbolicVars({"seq_len": 16}, name)(mod)
    sharded = spmd.shard(mod, workers, profile=FREE_LINKS)
    for name, there in allocated(sharded).items():
        assert 0.95 * there <= sharded.plan.memory[name].activations <= 1.25 * there, name


def test_what_is_converted_is_written():
    """A transposed weight that is gathered before the product reads it."""
    specs = {"c": P("tp", None), "main.turned": P(None, None), "main.z": P(None, None), "main.y": P(None, None)}
    whole, gathered = (spmd.plan(Norm, 2, s).memory["main"].activations for s in ({"*": P(others=None)}, specs))
    assert gathered >= whole
    assert [c.value for c in spmd.plan(Norm, 2, specs).collectives if c.kind == "all_gather"]


def test_what_a_function_returns_is_written():
    @I.ir_module
    class Returned:
        @R.function
        def main(x: R.Tensor((8, 8), "float32")):
            with R.dataflow():
                a = R.exp(x)
                b = R.negative(a)
                R.output(a, b)
            return a, b

    assert fused_names(Returned) == set()
    assert spmd.plan(Returned, 1).memory["main"].activations == 3 * 256
