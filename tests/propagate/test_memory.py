"""The memory that a plan says a worker needs."""

import pytest
from tvm.script import ir as I
from tvm.script import relax as R

import spmd
from spmd import P
from spmd.plan.decisions import Memory
from spmd.testing import FREE_LINKS
from tests.lower.test_kv_cache import cache_module
from tests.models.mlc_llama import TINY, mlc_llama
from tests.programs import Mlp, Two

SPLIT = {"w1": P(None, "tp"), "w2": P("tp", None)}


@I.ir_module
class Chain:
    """Views take nothing, and a value that is read late is held until then."""

    @R.function
    def main(x: R.Tensor((8, 8), "float32"), w: R.Tensor((8, 8), "float32")):
        R.func_attr({"num_input": 1})
        with R.dataflow():
            a = R.matmul(x, w)
            b = R.reshape(a, (64,))
            c = R.exp(b)
            d = R.reshape(c, (8, 8))
            e = R.matmul(d, R.permute_dims(w))
            f = R.add(e, a)
            R.output(f)
        return f


def test_weights_and_activations_of_a_split_mlp():
    """The most is held around the second product: x, its other argument, the partial sum and the whole one, 256 bytes each."""
    plan = spmd.plan(Mlp, 2, SPLIT)
    assert plan.memory == {"main": Memory(weights=2048, cache=0, activations=1024)}
    assert plan.memory["main"].peak == 3072


def test_one_worker_holds_everything():
    """The first product goes with what reads it, so only two of the three values are written."""
    assert spmd.plan(Mlp, 1).memory == {"main": Memory(weights=4096, cache=0, activations=256 + 512 + 256)}


def test_views_share_the_memory_of_what_they_show():
    """x, a, which is added at the end, and the result of exp; then x, a, e and f."""
    assert spmd.plan(Chain, 1).memory["main"].activations == 4 * 256


def test_a_gathered_weight_is_an_activation_while_it_is_used():
    kept = {"w1": P("tp", None), "main.x": P(None, None), "main.up": P(None, None), "w2": P(None, None)}
    plan = spmd.plan(Mlp, 2, {**kept, "main.active": P(None, None)}, profile="generic")
    gathered = [c for c in plan.collectives if c.value == "w1" and c.kind == "all_gather"]
    summed = [c for c in plan.collectives if c.value == "up"]
    assert len(gathered) + len(summed) == 1
    assert plan.memory["main"].weights == 1024 + 2048


def test_weights_of_all_functions_count_in_each():
    plan = spmd.plan(Two, 1, sizes={"n": 2})
    assert {name: memory.weights for name, memory in plan.memory.items()} == {"first": 2048 + 128, "second": 2048 + 128}


def test_sizes_are_those_of_planning():
    small, large = (spmd.plan(Two, 1, sizes={"n": n}).memory["second"].activations for n in (2, 200))
    assert large == 100 * small


SIZES = {"max_batch_size": 2, "max_total_seq_len": 1000, "prefill_chunk_size": 64, "page_size": 16, "support_sliding_window": 0}


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_a_kv_cache_is_counted_by_the_heads_of_a_worker(workers):
    """64 pages of 16 tokens: 63 hold 1000, and TVM takes one more. Keys and values of 4 heads of 16, 2 layers, 2 bytes each."""
    memory = spmd.plan(mlc_llama(TINY)[0], workers, sizes=SIZES, profile=FREE_LINKS).memory
    assert {m.cache for m in memory.values()} == {2 * 64 * 16 * 2 * (4 // workers) * 16 * 2}
    assert {m.unknown for m in memory.values()} == {()}


def test_the_call_of_the_runtime_says_the_same():
    sizes = {"batch": 2, "total": 1000, "chunk": 64, "page_size": 16, "window": 0}
    plan = spmd.plan(cache_module(8, 4), 2, sizes=sizes)
    assert plan.memory["create"].cache == 2 * 64 * 16 * 2 * 4 * 64 * 2
    slides = spmd.plan(cache_module(8, 4), 2, sizes={**sizes, "window": 1})
    assert slides.memory["create"].cache == 2 * (64 + 2 * 2) * 16 * 2 * 4 * 64 * 2


def test_a_cache_of_unknown_size_is_named_and_not_counted():
    plan = spmd.plan(mlc_llama(TINY)[0], 2, memory=1e12)
    assert plan.memory["decode"].cache == 0 and plan.memory["decode"].unknown == ("paged_kv_cache",)
    assert any("the memory of 'paged_kv_cache' is not counted, as nothing says how large it is" in note for note in plan.notes)
    assert not any("is not counted" in note for note in spmd.plan(mlc_llama(TINY)[0], 2).notes)


def test_sizes_of_weights_that_are_not_given_are_named():
    """A vocabulary of 64 is a guess, and the plan says so."""
    mod = mlc_llama(TINY, "q4f16_1")[0]
    guessed, given = (spmd.plan(mod, 2, sizes=sizes).memory["decode"] for sizes in (None, {"vocab_size": 32000}))
    assert guessed.assumed == ("vocab_size",) and given.assumed == ()
    rows = 2 * (128 // 8 * 4 + 128 // 32 * 2)  # of the table and of the head, packed values and scales
    assert given.weights - guessed.weights == (32000 - 64) * rows
    note = "weights are counted with 64 for their symbolic sizes 'vocab_size'; give them with sizes="
    assert note in spmd.plan(mod, 2, profile="h100").notes
    assert note not in spmd.plan(mod, 2).notes


def test_memory_is_saved_with_the_plan():
    plan = spmd.plan(Mlp, 2, SPLIT)
    assert spmd.Plan.from_json(plan.to_json()).memory == plan.memory
