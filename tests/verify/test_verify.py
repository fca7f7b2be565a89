"""What is right is proven, what is wrong is named, and what cannot be decided is said."""

import ast
from pathlib import Path

import numpy as np
import pytest
from tvm import relax
from tvm.script import ir as I
from tvm.script import relax as R
from tvm.script import tirx as T

import spmd
from spmd import Mesh, P, Sharding, ShardingError
from spmd.costs.planning_sizes import symbols_of
from spmd.testing.equivalence import FREE_LINKS
from tests.models.mlc_llama import TINY, mlc_llama
from tests.propagate.test_experts import layer
from tests.test_programs import drawn

ROOM = Path(spmd.__file__).parent / "verify"


def test_it_shares_no_code_with_what_makes_programs():
    """TVM, NumPy, the mesh and the errors are all that it imports."""
    for path in ROOM.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and not node.level and (node.module or "").startswith("spmd"):
                assert node.module in ("spmd.errors", "spmd.placement.mesh"), path


@I.ir_module
class Mlp:
    @R.function
    def main(x: R.Tensor((4, 10), "float32"), w: R.Tensor((10, 6), "float32"), b: R.Tensor((6,), "float32")):
        R.func_attr({"num_input": 1})
        with R.dataflow():
            h = R.matmul(x, w)
            y = R.add(h, b)
            z = R.nn.softmax(y)
            R.output(z)
        return z


@I.ir_module
class PerWorker:
    """`Mlp` for two workers, as somebody writes it by hand: rows of `w`, and columns of `x`."""

    @R.function
    def main(x: R.Tensor((4, 5), "float32"), w: R.Tensor((5, 6), "float32"), b: R.Tensor((6,), "float32")):
        R.func_attr({"num_input": 1})
        with R.dataflow():
            h = R.matmul(x, w)
            s = R.ccl.allreduce(h, "sum", True)
            y = R.add(s, b)
            z = R.nn.softmax(y)
            R.output(z)
        return z


@I.ir_module
class BiasTwice:
    @R.function
    def main(x: R.Tensor((4, 5), "float32"), w: R.Tensor((5, 6), "float32"), b: R.Tensor((6,), "float32")):
        R.func_attr({"num_input": 1})
        with R.dataflow():
            h = R.matmul(x, w)
            y = R.add(h, b)
            s = R.ccl.allreduce(y, "sum", True)
            z = R.nn.softmax(s)
            R.output(z)
        return z


PLACED = {"main.x": Sharding.parse("[-, tp]", (4, 10)), "main.w": Sharding.parse("[tp, -]", (10, 6))}


def test_a_module_written_by_hand_is_proven():
    assert spmd.verify(Mlp, PerWorker, mesh=2, inputs=PLACED)


def test_the_first_wrong_value_is_named():
    with pytest.raises(ShardingError) as error:
        spmd.verify(Mlp, BiasTwice, mesh=2, inputs=PLACED)
    assert str(error.value) == (
        "verify, 'main': the result of 'main' on worker 0 has 24 of 24 numbers wrong, first at (0, 0). The first value that is none of "
        "the module: add 'y' of 'main', on worker 0. The per-worker program is wrong there."
    )


@pytest.mark.parametrize("mesh", [2, 3, Mesh(dp=2, tp=2)])
@pytest.mark.parametrize("spec", [P("tp", None), P(None, "tp")])
def test_what_shard_makes_is_proven(mesh, spec):
    """3 divides neither 10 nor 4: there is padding."""
    assert spmd.verify(Mlp, spmd.shard(Mlp, mesh, {"w": spec}))


def test_shard_proves_its_program(caplog):
    @I.ir_module
    class Packed:
        @R.function
        def main(x: R.Tensor((4, 6), "float32")):
            y = R.call_dps_packed("my.secret", (x,), out_ty=R.Tensor((4, 6), "float32"))
            return y

    assert spmd.shard(Packed, 2, verify=True).mod is not None
    assert "not proven" not in caplog.text


@I.ir_module
class Branches:
    @R.function
    def main(c: R.Tensor((), "bool"), x: R.Tensor((4, 6), "float32")):
        if c:  # noqa: SIM108
            y = R.sum(x, axis=[1])
        else:
            y = R.max(x, axis=[1])
        return y


@I.ir_module
class OneWaits:
    """Worker 0 goes one way and worker 1 the other."""

    @R.function
    def main(c: R.Tensor((), "bool"), x: R.Tensor((4, 3), "float32")):
        i = R.spmd.axis_index(axis="tp", workers=2)
        first = R.equal(i, R.const(0, "int64"))
        if first:
            s = R.sum(x, axis=[1])
            y = R.spmd.all_reduce(s, axis="tp", kind="sum", workers=2, value="s")
        else:
            y = R.max(x, axis=[1])
        return y


def test_workers_that_wait_for_each_other_are_named():
    assert spmd.verify(Branches, spmd.shard(Branches, 2, {"main.x": P(None, "tp")}, profile=FREE_LINKS))
    with pytest.raises(ShardingError, match=r"main, 'y_then': workers \[0\] wait in all_reduce, and workers \[1\] never come"):
        spmd.verify(Branches, OneWaits, mesh=2, inputs={"main.x": Sharding.parse("[-, tp]", (4, 6))})


@I.ir_module
class WrongInOneWay:
    @R.function
    def main(c: R.Tensor((), "bool"), x: R.Tensor((4, 3), "float32")):
        if c:
            s = R.sum(x, axis=[1])
            y = R.spmd.all_reduce(s, axis="tp", kind="sum", workers=2, value="s")
        else:
            m = R.max(x, axis=[1])
            y = R.spmd.all_reduce(m, axis="tp", kind="min", workers=2, value="m")
        return y


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_both_ways_of_a_branch_are_shown(seed):
    with pytest.raises(ShardingError, match="numbers wrong"):
        spmd.verify(Branches, WrongInOneWay, mesh=2, inputs={"main.x": Sharding.parse("[-, tp]", (4, 6))}, seed=seed)


def test_a_function_that_nobody_can_look_into_is_undecided_on_a_part():
    @I.ir_module
    class Whole:
        @R.function
        def main(x: R.Tensor((4, 6), "float32")):
            y = R.call_dps_packed("my.secret", (x,), out_ty=R.Tensor((4, 6), "float32"))
            return y

    @I.ir_module
    class Part:
        @R.function
        def main(x: R.Tensor((4, 3), "float32")):
            y = R.call_dps_packed("my.secret", (x,), out_ty=R.Tensor((4, 3), "float32"))
            return y

    half = Sharding.parse("[-, tp]", (4, 6))
    proof = spmd.verify(Whole, Part, mesh=2, inputs={"main.x": half}, outputs={"main": half})
    assert not proof
    assert proof.undecided == (
        "the result of 'main': 'my.secret' is given what the module never gives it, and nothing says what it does with a part",
    )
    assert spmd.verify(Whole, Whole, mesh=2)


def test_random_programs_are_proven():
    for case in drawn(7, 25):
        known = symbols_of(case.mod)
        sizes = {n: size for n, size in case.sizes.items() if n in known}
        divisible = {n: by for n, by in case.divisible.items() if n in sizes}
        made = spmd.shard(case.mod, case.mesh, case.specs, profile=FREE_LINKS, sizes=sizes, divisible=divisible, lift=case.lift)
        proof = spmd.verify(case.mod, made, sizes=sizes)
        assert proof, f"{proof}\n{case}"


@pytest.mark.parametrize("quantization", ["q0f16", "q4f16_1"])
def test_llama_with_a_cache_is_proven(quantization):
    functions = ("prefill", "batch_decode", "embed", "create_paged_kv_cache")
    mod, _ = mlc_llama(TINY, quantization, symbolic_vocab=False, functions=functions)
    sharded = spmd.shard(mod, 2, spmd.presets.megatron(mod, "tp"), profile=FREE_LINKS)
    assert sharded.plan.collectives
    assert spmd.verify(mod, sharded)


@pytest.mark.parametrize("size", [24, 80])
def test_attention_whose_scale_is_no_fraction_is_proven(size):
    """One over the root of 24 is another number in float16 than in float32, in which workers with some of the keys compute."""
    builder = relax.BlockBuilder()
    q, k, v = (relax.Var(name, relax.TensorType((2, 6, 2, size), "float16")) for name in "qkv")
    with builder.function("main", [q, k, v], attrs={"num_input": 3}):
        builder.emit_func_output(builder.emit(relax.op.nn.attention(q, k, v, causal_mask="TopLeft")))
    mod = builder.get()
    keys = P(None, "tp", None, None)
    sharded = spmd.shard(mod, 2, {"main.k": keys, "main.v": keys, "main.q": P(None, None, None, None)}, profile=FREE_LINKS)
    assert sharded.plan.collectives
    assert spmd.verify(mod, sharded)


def test_experts_are_proven():
    mod = layer(False, experts=3, hidden=16, features=32, rows=6, dtype="float32")
    sharded = spmd.shard(mod, 2, {"up_weight": P(None, ("tp", 32, 32), None)}, profile=FREE_LINKS)
    assert spmd.verify(mod, sharded, arguments={"main.indptr": np.array([0, 2, 5, 6], "int32")})


@pytest.mark.parametrize(
    ("asked", "text"),
    [
        ({"mesh": None}, "verify: it takes a module without a plan only with a mesh. Pass mesh=, inputs= and outputs=."),
        ({"inputs": {"main.v": None}}, "verify, inputs['main.v']: nothing has this name. There are main.b, main.w, main.x."),
        ({"inputs": {"main.x": P("tp")}}, "verify, inputs['main.x']: it takes a spmd.Sharding, and got P."),
        ({"sizes": {"n": 3}}, "verify, sizes['n']: nothing has this name. There are none."),
        ({"rounds": 0}, "verify, rounds: it takes a whole number from 1 on, and got 0."),
    ],
)
def test_what_cannot_be_asked(asked, text):
    with pytest.raises(ShardingError) as error:
        spmd.verify(Mlp, PerWorker, **{"mesh": 2, "inputs": PLACED, **asked})
    assert str(error.value) == text


def test_the_smallest_integer_is_sorted_last():
    """Padding of integers is the smallest there is, which has no negative."""

    @I.ir_module
    class Largest:
        @R.function
        def main(x: R.Tensor((3, 9), "int64")):
            y = R.topk(x, k=3, axis=1, ret_type="values", largest=True, dtype="int32")
            return y

    assert spmd.verify(Largest, spmd.shard(Largest, 4, {"main.x": P(None, "tp")}, profile=FREE_LINKS))


def test_a_kernel_of_a_user_runs_as_it_stands():
    @I.ir_module(s_tir=True)
    class Kernel:
        @T.prim_func(private=True, s_tir=True)
        def scan(x: T.Buffer((4, 6), "float32"), y: T.Buffer((4, 6), "float32")):
            for i in range(4):
                for j in range(6):
                    with T.sblock("scan"):
                        vi = T.axis.spatial(4, i)
                        vj = T.axis.opaque(6, j)
                        y[vi, vj] = x[vi, vj] + T.if_then_else(vj > 0, y[vi, vj - 1], T.float32(0))

        @R.function
        def main(x: R.Tensor((4, 6), "float32")):
            cls = Kernel
            y = R.call_tir(cls.scan, (x,), out_ty=R.Tensor((4, 6), "float32"))
            return y

    @I.ir_module
    class Scan:
        @R.function
        def main(x: R.Tensor((4, 6), "float32")):
            y = R.cumsum(x, axis=1)
            return y

    assert spmd.verify(Kernel, Scan, mesh=2)
    assert spmd.verify(Scan, Kernel, mesh=1)
