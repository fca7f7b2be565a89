"""The steps of a plan as text: the program that each worker runs, as a person reads it."""

import pytest
from tvm import relax
from tvm.script import ir as I
from tvm.script import relax as R

import spmd
from spmd import P, ShardingError
from spmd.testing import FREE_LINKS
from tests.lower.test_branch import Convert
from tests.lower.test_bundles import SPLIT, Products
from tests.models.llama_block import llama_blocks
from tests.programs import Mlp


def listed(mod, mesh, specs=None, function="main", **options):
    return spmd.plan(mod, mesh, specs, **options).listing(function).splitlines()


def test_a_chain_of_products():
    assert listed(Mlp, 2, {"w1": P(None, "tp"), "w2": P("tp", None)}) == [
        "main, on each worker of Mesh(tp=2):",
        "  take x [-, -]",
        "  take w1 [-, tp]",
        "  take w2 [tp, -]",
        "  up = matmul(x [-, -], w1 [-, tp]) [-, tp]",
        "  active = nn.relu(up [-, tp]) [-, tp]",
        "  down = matmul(active [-, tp], w2 [tp, -]) [-, -] sum@tp",
        "  down: all_reduce over tp, [-, -] sum@tp -> [-, -], 256 bytes",
        "  return down [-, -]",
    ]


def test_two_sums_in_one_call():
    assert listed(Products, 2, SPLIT)[4:] == [
        "  a = matmul(x [-, tp], u [tp, -]) [-, -] sum@tp",
        "  b = matmul(x [-, tp], v [tp, -]) [-, -] sum@tp",
        "  in one call, all_reduce over tp:",
        "    a: [-, -] sum@tp -> [-, -], 384 bytes",
        "    b: [-, -] sum@tp -> [-, -], 192 bytes",
        "  return a [-, -], b [-, -]",
    ]


def test_branches_are_indented_and_convert_for_themselves():
    assert listed(Convert, 2, {"main.x": P("tp", None), "main.return[[]*": P(None, "tp")})[1:] == [
        "  take more []",
        "  take x [tp, -]",
        "  z = If(more [])",
        "    x: all_to_all over tp, [tp, -] -> [-, tp], 48 bytes",
        "    a = cumsum(x [-, tp]) [-, tp], when 'z' is true",
        "    z_then = exp(a [-, tp]) [-, tp], when 'z' is true",
        "    z = join(z_then [-, tp]) [-, tp], when 'z' is true",
        "    x: all_to_all over tp, [tp, -] -> [-, tp], 48 bytes",
        "    c = cumsum(x [-, tp]) [-, tp], when 'z' is false",
        "    e = multiply(c [-, tp], constant []) [-, tp], when 'z' is false",
        "    z = join(e [-, tp]) [-, tp], when 'z' is false",
        "  x: all_to_all over tp, [tp, -] -> [-, tp], 48 bytes",
        "  gv4 = cumsum(x [-, tp]) [-, tp]",
        "  return z [-, tp], gv4 [-, tp]",
    ]


@I.ir_module
class Uneven:
    """Rows that two workers cannot share equally: parts are padded, put in order, and masked before a sum takes them in."""

    @R.function
    def main(x: R.Tensor((5, 4), "float32"), w: R.Tensor((4, 4), "float32")):
        with R.dataflow():
            y = R.exp(x)
            z = R.sum(y, axis=[0])
            v = R.tanh(x)
            s = R.cumsum(v, axis=0)
            out = (z, s)
            R.output(out)
        return out


def test_local_moves_around_collectives_and_masks_are_steps():
    """Five rows over two workers: the last of six is padding, which a sum must not take in."""
    specs = {"main.x": P("tp", None), "main.y": P("tp", None, gather=False), "main.s": P(None, "tp"), "main.return[[]1]": P(None, "tp")}
    assert listed(Uneven, 2, specs, profile=FREE_LINKS)[1:] == [
        "  take x [tp, -]",
        "  take w [-, -]",
        "  y = exp(x [tp, -]) [tp, -]",
        "  y [tp, -]: fill padding for a sum",
        "  z = sum(y [tp, -]) [-] sum@tp",
        "  z: all_reduce over tp, [-] sum@tp -> [-], 16 bytes",
        "  x: all_to_all over tp, [tp, -] -> [-, tp], 48 bytes",
        "  x: put into its own order",
        "  v = tanh(x [-, tp]) [-, tp]",
        "  s = cumsum(v [-, tp]) [-, tp]",
        "  return z [-], s [-, tp]",
    ]


MEGATRON = {"*[qkv]_proj": P(None, "tp"), "*gate_proj": P(None, "tp"), "*up_proj": P(None, "tp"), "*o_proj": P("tp", None)}
MEGATRON |= {"*down_proj": P("tp", None), "*norm?": P(None)}


def test_equal_layers_of_a_llama_are_listed_once():
    lines = listed(llama_blocks(3), 2, MEGATRON, profile="h100")
    assert lines[:4] == [
        "main, on each worker of Mesh(tp=2):",
        "  take x [-, -, -]",
        "  take layers.*.q_proj [-, tp] (3 of them)",
        "  take layers.*.k_proj [-, tp] (3 of them)",
    ]
    assert lines[11:15] == [
        "  3 times, each as the first:",
        "    lv = multiply(x [-, -, -], x [-, -, -]) [-, -, -]",
        "    lv1 = mean(lv [-, -, -]) [-, -, -]",
        "    lv2 = add(lv1 [-, -, -], constant []) [-, -, -]",
    ]
    assert lines[-10:] == [
        "    lv34 = divide(lv29 [-, -, -], lv33 [-, -, -]) [-, -, -]",
        "    lv35 = multiply(lv34 [-, -, -], layers.0.norm2 [-]) [-, -, -]",
        "    lv36 = matmul(lv35 [-, -, -], layers.0.gate_proj [-, tp]) [-, -, tp]",
        "    lv37 = nn.silu(lv36 [-, -, tp]) [-, -, tp]",
        "    lv38 = matmul(lv35 [-, -, -], layers.0.up_proj [-, tp]) [-, -, tp]",
        "    lv39 = multiply(lv37 [-, -, tp], lv38 [-, -, tp]) [-, -, tp]",
        "    lv40 = matmul(lv39 [-, -, tp], layers.0.down_proj [tp, -]) [-, -, -] sum@tp",
        "    lv40: all_reduce over tp, [-, -, -] sum@tp -> [-, -, -], 65536 bytes",
        "    lv41 = add(lv29 [-, -, -], lv40 [-, -, -]) [-, -, -]",
        "  return lv125 [-, -, -]",
    ]
    assert sum("all_reduce" in line for line in lines) == 2


@I.ir_module
class Loss:
    @R.function
    def main(x: R.Tensor((4, 16), "float32"), w: R.Tensor((16, 8), "float32"), v: R.Tensor((8, 16), "float32")):
        R.func_attr({"num_input": 1})
        with R.dataflow():
            up = R.matmul(x, w)
            down = R.matmul(up, v)
            loss = R.sum(R.multiply(down, down))
            R.output(loss)
        return loss


def test_a_training_step():
    """Data parallel: the gradients of the weights are summed, in one call."""
    step = relax.transform.Gradient("main")(Loss)
    del step["main"]
    slow = spmd.Profile("slow products", flops=1e6, memory_bandwidth=1e9, link_bandwidth=1e9, link_latency=1e-6)
    specs = {"main_adjoint.x": P("tp", None), "[vw]": P(None, None), "main_adjoint.return[[]1][[]0]": P("tp", None)}
    assert listed(step, 2, specs, "main_adjoint", profile=slow)[4:] == [
        "  up = matmul(x [tp, -], w [-, -]) [tp, -]",
        "  down = matmul(up [tp, -], v [-, -]) [tp, -]",
        "  lv2 = multiply(down [tp, -], down [tp, -]) [tp, -]",
        "  loss = sum(lv2 [tp, -]) [] sum@tp",
        "  loss_adjoint = ones() []",
        "  lv2_adjoint = broadcast_to(loss_adjoint []) [tp, -]",
        "  down_adjoint = multiply(lv2_adjoint [tp, -], down [tp, -]) [tp, -]",
        "  lv = multiply(lv2_adjoint [tp, -], down [tp, -]) [tp, -]",
        "  down_adjoint1 = add(down_adjoint [tp, -], lv [tp, -]) [tp, -]",
        "  lv1 = permute_dims(v [-, -]) [-, -]",
        "  lv#2 = permute_dims(w [-, -]) [-, -]",
        "  lv1#2 = permute_dims(x [tp, -]) [-, tp]",
        "  lv2#2 = matmul(lv#2 [-, -], lv1#2 [-, tp]) [-, tp]",
        "  up_adjoint = matmul(down_adjoint1 [tp, -], lv1 [-, -]) [tp, -]",
        "  v_adjoint = matmul(lv2#2 [-, tp], down_adjoint1 [tp, -]) [-, -] sum@tp",
        "  lv3 = permute_dims(w [-, -]) [-, -]",
        "  lv4 = permute_dims(x [tp, -]) [-, tp]",
        "  x_adjoint = matmul(up_adjoint [tp, -], lv3 [-, -]) [tp, -]",
        "  w_adjoint = matmul(lv4 [-, tp], up_adjoint [tp, -]) [-, -] sum@tp",
        "  in one call, all_reduce over tp:",
        "    loss: [] sum@tp -> [], 4 bytes",
        "    v_adjoint: [-, -] sum@tp -> [-, -], 512 bytes",
        "    w_adjoint: [-, -] sum@tp -> [-, -], 512 bytes",
        "  return loss [], x_adjoint [tp, -], w_adjoint [-, -], v_adjoint [-, -]",
    ]


def test_an_unknown_function():
    with pytest.raises(ShardingError, match=r"Plan\.listing: there is no function 'mian'\. Did you mean 'main'"):
        spmd.plan(Mlp, 2).listing("mian")


def test_a_plan_read_back_lists_the_same():
    plan = spmd.plan(Products, 2, SPLIT)
    assert spmd.Plan.from_json(plan.to_json()).listing("main") == plan.listing("main")


@I.ir_module
class Loop:
    @R.function(private=True)
    def body(n: R.Tensor((), "int32"), x: R.Tensor((4, 4), "float32")) -> R.Tensor((4, 4), "float32"):
        cls = Loop
        more = R.greater(n, R.const(0, "int32"))
        if more:  # noqa: SIM108 -- an If of Relax
            y = cls.body(R.subtract(n, R.const(1, "int32")), R.exp(x))
        else:
            y = x
        return y

    @R.function
    def main(n: R.Tensor((), "int32"), x: R.Tensor((4, 4), "float32")):
        cls = Loop
        z = cls.body(n, x)
        return z


def test_a_loop_is_a_list_of_its_own():
    plan = spmd.plan(Loop, 2, {"main.x": P("tp", None), "body.x": P(None, "tp")}, profile=FREE_LINKS)
    assert plan.listing("main").splitlines()[1:] == [
        "  take n []",
        "  take x [tp, -]",
        "  body.n = argument(n []) []",
        "  x: all_to_all over tp, [tp, -] -> [-, tp], 32 bytes",
        "  body.x = argument(x [-, tp]) [-, tp]",
        "  z = body()",
        "  z = result(body.return [-, tp]) [-, tp]",
        "  z: all_gather over tp, [-, tp] -> [-, -], 32 bytes",
        "  return z [-, -]",
    ]
    assert "    x = argument(gv2 [-, tp]) [-, tp], when 'y' is true" in plan.listing("body").splitlines()
