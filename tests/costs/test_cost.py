"""Links of mesh axes and rates of dtypes in predicted times, and what plans make of them."""

from dataclasses import replace

import pytest
from tvm.script import ir as I
from tvm.script import relax as R
from tvm.script import tirx as T

import spmd
from examples.llm.config import LlamaConfig
from examples.llm.model import build_module
from spmd import Link, Mesh, P, Profile, ShardingError
from spmd.costs.cost import Cost, Work
from spmd.placement.sharding import Sharding
from spmd.testing import assert_equivalent
from tests.programs import Mlp

HOSTS = Profile("hosts", 300e12, 2e12, 300e9, 5e-6, links={"network": Link(30e9, 8e-6)})


@I.ir_module
class Wide:
    """A product by columns and one by rows, as large as those of a model."""

    @R.function
    def main(x: R.Tensor((512, 2048), "float16"), w1: R.Tensor((2048, 8192), "float16"), w2: R.Tensor((8192, 2048), "float16")):
        with R.dataflow():
            up = R.matmul(x, w1)
            active = R.nn.relu(up)
            down = R.matmul(active, w2)
            R.output(down)
        return down


@I.ir_module
class Products:
    """The same product in two dtypes."""

    @R.function
    def half(x: R.Tensor((512, 512), "float16"), w: R.Tensor((512, 512), "float16")):
        with R.dataflow():
            y = R.matmul(x, w)
            R.output(y)
        return y

    @R.function
    def double(x: R.Tensor((512, 512), "float64"), w: R.Tensor((512, 512), "float64")):
        with R.dataflow():
            y = R.matmul(x, w)
            R.output(y)
        return y


def test_a_collective_takes_the_link_of_its_axis():
    cost = Cost(Mesh(host=2, gpu=4, links={"host": "network"}), HOSTS)
    assert cost.exchange_time("all_reduce", "gpu", 3 * 10**8) == pytest.approx(5e-6 + 2 * 3 / 4 * 3e8 / 300e9)
    assert cost.exchange_time("all_reduce", "host", 3 * 10**8) == pytest.approx(8e-6 + 3e8 / 30e9)
    assert cost.exchange_time("all_gather", "gpu(1)2", 10**8) == pytest.approx(5e-6 + 1e8 / 300e9)


def test_more_workers_take_more_steps():
    """Around a ring within a host, twice for an all-reduce; on a tree between hosts. Two workers take the latency alone."""
    profile = Profile("steps", 1e12, 1e12, 1e12, 10.0, link_hop=1.0, links={"network": Link(1e12, 100.0, 7.0)})
    cost = Cost(Mesh(one=1, two=2, eight=8), profile)
    assert [cost.latency("all_reduce", axis) for axis in ("two", "eight")] == [10.0, 10.0 + 2 * 6]
    assert [cost.latency(kind, "eight") for kind in ("all_gather", "reduce_scatter", "all_to_all", "permute")] == [16.0, 16.0, 16.0, 10.0]
    assert cost.exchange_time("all_reduce", "eight", 0) == 22.0
    hosts = Cost(Mesh(dp=8, tp=2, hosts=8), profile)
    assert hosts.link("dp+tp") == Link(1e12, 100.0, 7.0)
    assert hosts.latency("all_reduce", "dp") == 100.0 + 2 * 2 * 7 and hosts.latency("all_gather", "dp") == 100.0 + 2 * 7


def test_kernels_take_time_to_start_and_to_get_going():
    """The first half second of a kernel moves half as much; one that is shorter is at half speed throughout."""
    profile = Profile("slow", 1e12, 100.0, 1e12, 0.0, kernel_latency=2.0, efficiency=0.5, ramp=0.5, rates={"float32": 10.0})
    cost = Cost(Mesh(tp=2), profile)
    assert cost.compute_time(Work("full", 1.0, 200, "float16", ())) == 2.0 + 4.0 + 0.5
    assert cost.compute_time(Work("full", 1.0, 10, "float16", ())) == 2.0 + 0.4
    assert cost.compute_time(Work("full", 1.0, 10, "float16", (), launches=0)) == 0.2
    assert cost.compute_time(Work("pointwise", 100.0, 10, "float16", (), launches=0)) == 10.0
    assert cost.compute_time(Work("view", 100.0, 0, "float16", (), launches=0)) == 0.0


def test_axes_joined_run_over_the_slowest_of_their_links():
    cost = Cost(Mesh(host=2, gpu=4, links={"host": "network"}), HOSTS)
    assert cost.link("host+gpu") == cost.link("gpu+host") == Link(30e9, 8e-6)
    assert cost.exchange_time("permute", "host+gpu", 10**8) == pytest.approx(8e-6 + 1e8 / 30e9)


def test_what_crosses_hosts_runs_over_the_network():
    network, own = Link(30e9, 8e-6), Link(300e9, 5e-6)
    cost = Cost(Mesh(dp=2, tp=4, hosts=2), HOSTS)
    assert (cost.link("dp"), cost.link("tp"), cost.link("dp+tp")) == (network, own, network)
    cost = Cost(Mesh(dp=2, tp=4, hosts=2, devices=[0, 4, 1, 5, 2, 6, 3, 7]), HOSTS)
    assert (cost.link("dp"), cost.link("tp"), cost.link("tp(1)2"), cost.link("tp(2)2")) == (own, network, own, network)
    cost = Cost(Mesh(tp=8, hosts=2), HOSTS)
    assert (cost.link("tp"), cost.link("tp(1)2"), cost.link("tp(2)4"), cost.link("tp(1)2+tp(2)4")) == (network, network, own, network)


def test_hosts_need_a_network():
    with pytest.raises(ShardingError, match=r"profile 'alone': there is no link 'network'.*links=\{\*\*profile\.links, .network"):
        spmd.plan(Mlp, Mesh(tp=4, hosts=2), profile=Profile("alone", 300e12, 2e12, 300e9, 5e-6))


def test_a_link_that_the_profile_lacks_is_refused_before_anything_is_planned():
    with pytest.raises(
        ShardingError,
        match=r"profile 'hosts': there is no link 'ethernet', which the mesh runs over\. It has 'network'; add one",
    ):
        spmd.plan(Mlp, Mesh(a=2, links={"a": "ethernet"}), profile=HOSTS)


def axes_of_sums(plan):
    return {c.axis for c in plan.collectives if c.kind in ("all_reduce", "reduce_scatter")}


def test_sums_of_activations_stay_off_the_slow_axis():
    """With one link all eight workers share the product; over a network the four of a host do, and the hosts repeat it."""
    alike = spmd.plan(Wide, Mesh(host=2, gpu=4), profile=HOSTS)
    assert axes_of_sums(alike) == {"host+gpu"}
    apart = spmd.plan(Wide, Mesh(host=2, gpu=4, links={"host": "network"}), profile=HOSTS)
    assert axes_of_sums(apart) == {"gpu"}
    assert {str(apart.params[w]) if w in apart.params else str(apart.inputs[f"main.{w}"]) for w in ("w1", "w2")} == {"[-, gpu]", "[gpu, -]"}
    turned = spmd.plan(Wide, Mesh(host=2, gpu=4, links={"gpu": "network"}), profile=HOSTS)
    assert axes_of_sums(turned) <= {"host"}


def test_a_batch_is_split_over_the_slow_axis():
    """Where results may stay split, each host takes its part of the batch, and nothing goes between hosts."""
    plan = spmd.plan(Wide, Mesh(host=2, gpu=4, links={"host": "network"}), {"main.return": P("host", None)}, profile=HOSTS)
    assert {c.axis for c in plan.collectives} == {"gpu"}
    assert str(plan.inputs["main.x"]) == "[host, -]"


def test_of_a_large_sum_a_quarter_crosses_the_network():
    """A Llama of a layer, 1,024 tokens: what is added over all workers is scattered within each host first, and gathered there after."""
    mod = build_module(replace(LlamaConfig.preset("llama-2-70b"), num_hidden_layers=1), methods=("prefill", "create_paged_kv_cache"))[0]
    hidden = 1024 * 8192 * 4

    def most(links):
        plan = spmd.plan(mod, Mesh(host=2, gpu=4, links=links), profile="h100", sizes={"seq_len": 1024})
        return {where: max(c.bytes for c in plan.collectives if where in c.axis) for where in ("host", "gpu")}

    assert most(None) == {"host": hidden, "gpu": hidden}
    assert most({"host": "network"}) == {"host": hidden // 4, "gpu": hidden}


@pytest.mark.parametrize("mesh", [Mesh(dp=2, tp=2, hosts=2), Mesh(dp=2, tp=4, hosts=2)], ids=str)
def test_a_large_sum_is_scattered_within_hosts_and_a_small_one_is_not(mesh):
    """What 'large' means is the ratio of bytes and latencies; the product is 4 x 16 here, split over all workers."""
    fast = Profile("fast", 1e12, 1e12, 1e12, 1e-12, links={"network": Link(1e9, 1e-12)})
    specs = {"w1": P(None, ("dp", "tp")), "w2": P(("dp", "tp"), None)}
    down = 4 * 16 * 4
    collectives = assert_equivalent(Mlp, mesh, specs, profile=fast).plan.collectives
    assert [(c.kind, c.axis, c.bytes) for c in collectives if c.value == "down" and "dp" in c.axis] == [
        ("all_reduce", "dp", down // mesh.axes["tp"])
    ]
    slow = replace(fast, link_latency=1e-3, links={"network": Link(1e9, 1e-3)})
    collectives = assert_equivalent(Mlp, mesh, specs, profile=slow).plan.collectives
    assert [(c.kind, c.axis, c.bytes) for c in collectives] == [("all_reduce", "dp+tp", down)]


def test_a_mesh_with_links_computes_what_one_without_does():
    assert_equivalent(Mlp, Mesh(host=2, gpu=2, links={"host": "network"}), {"w1": P(None, ("host", "gpu"))})


def test_products_take_the_rate_of_their_dtype():
    fast = Profile("fast", 1e12, 1e15, 1e15, 0.0, rates={"float64": 1e10})
    predicted = spmd.plan(Products, 1, profile=fast).predicted
    assert predicted["half"] == pytest.approx(2 * 512**3 / 1e12)
    assert predicted["double"] == pytest.approx(2 * 512**3 / 1e10)


def test_a_plan_keeps_the_links_of_its_mesh():
    plan = spmd.plan(Mlp, Mesh(host=2, gpu=2, links={"host": "network"}))
    assert spmd.Plan.from_json(plan.to_json()).mesh == plan.mesh
    assert plan.mesh.links == {"host": "network"} and str(plan.mesh) == "Mesh(host=2, gpu=2, links={'host': 'network'})"


@pytest.mark.parametrize(
    ("source", "target", "reordered"),
    [
        ("[tp]", "[-]", 0),
        ("[tp:8x512]", "[-]", 2 * 4096),  # all of it, read and written
        ("[-]", "[tp:8x512]", 2 * 4096),
        ("[tp:8x512]", "[tp]", 2 * 4096),
        ("[-] sum@tp", "[tp:2048|2048]", 2 * 4096),
        ("[-] sum@tp", "[tp]", 0),
        ("[tp:4096~4096]", "[-]", 2 * 4096),  # padded: one worker has all
        ("[-]", "[tp:4096~4096]", 4096 + 8192),
    ],
)
def test_putting_elements_in_order_takes_the_traffic_that_it_is(source, target, reordered):
    cost, shape = Cost(Mesh(tp=2), HOSTS), (4096,)
    a, b = Sharding.parse(source, shape), Sharding.parse(target, shape)
    steps = cost.transfers.steps(shape, 1, a, b)
    assert sum(cost.reorder_bytes(step, shape, 1) for step in steps) == reordered
    sent = [(s.kind, s.axis, cost.step_bytes(s, shape, 1)) for s in steps]
    others = sum(cost.exchange_time(*s) if s[0] != "slice" else 1e-9 + s[2] / 2 / HOSTS.memory_bandwidth for s in sent)
    assert cost.convert(shape, 1, a, b) == pytest.approx(others + reordered / HOSTS.memory_bandwidth)


@I.ir_module(s_tir=True)
class Scheduled:
    """A kernel that is scheduled, two results; and a packed function that nobody knows."""

    @T.prim_func(s_tir=True)
    def both(
        a: T.Buffer((64, 64, 64), "float16"),
        b: T.Buffer((64, 64, 64), "float16"),
        out: T.Buffer((64, 64, 64), "float16"),
        first: T.Buffer((64, 64), "float16"),
    ):
        T.func_attr({"tirx.is_scheduled": True})
        for x in T.thread_binding(64, thread="blockIdx.x"):
            for y in T.thread_binding(64, thread="threadIdx.x"):
                with T.sblock("both"):
                    i, j = T.axis.remap("SS", [x, y])
                    first[i, j] = a[i, j, 0]
                    for k in range(64):
                        out[i, j, k] = a[i, j, k] * b[i, j * 5 % 64, k]

    @R.function
    def kernel(a: R.Tensor((64, 64, 64), "float16"), b: R.Tensor((64, 64, 64), "float16")):
        with R.dataflow():
            out = R.call_tir(Scheduled.both, (a, b), out_ty=[R.Tensor((64, 64, 64), "float16"), R.Tensor((64, 64), "float16")])
            R.output(out)
        return out

    @R.function
    def packed(a: R.Tensor((64, 64, 64), "float16"), b: R.Tensor((64, 64, 64), "float16")):
        with R.dataflow():
            out = R.call_dps_packed("my.function", (a, b), out_ty=R.Tensor((64, 64, 64), "float16"))
            R.output(out)
        return out


def test_what_cannot_be_read_takes_the_time_of_its_bytes():
    """1.5 MB are moved; the product of all dimensions of all arguments would be 1e20 operations."""
    plan = spmd.plan(Scheduled, 2, profile=Profile("bytes", flops=1e12, memory_bandwidth=1e9, link_bandwidth=1e9, link_latency=1e-6))
    moved = 3 * 64**3 * 2
    assert plan.predicted["packed"] == pytest.approx(moved / 1e9, rel=0.01)
    assert plan.predicted["kernel"] == pytest.approx((moved + 64**2 * 2) / 1e9, rel=0.01)
    assert any("its kernel cannot be read: it is already scheduled" in note for note in plan.notes)
