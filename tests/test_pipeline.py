"""shard() as a whole: what it returns, that it changes nothing, and that it does the same every time."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tvm
import tvm_ffi

import spmd
from spmd import Mesh, P, ShardingError
from tests.models.mlc_llama import TINY, mlc_llama
from tests.programs import Mlp, Two

SPECS = {"w1": P(None, "tp"), "w2": P("tp", None)}


@pytest.mark.parametrize("make", [lambda: Mlp, lambda: Two, lambda: mlc_llama(TINY, "q4f16_1", layers=1)[0]], ids=["mlp", "two", "mlc"])
def test_the_module_is_not_changed(make):
    mod = make()
    before, text = tvm_ffi.structural_hash(mod), mod.script()
    spmd.shard(mod, 2)
    assert tvm_ffi.structural_hash(mod) == before
    assert mod.script() == text


def test_shard_is_plan_and_lower():
    sharded = spmd.shard(Mlp, Mesh(tp=2), SPECS)
    plan = spmd.plan(Mlp, 2, SPECS)
    assert sharded.plan == plan and sharded.mesh == Mesh(tp=2)
    tvm.ir.assert_structural_equal(spmd.lower(Mlp, plan), sharded.mod)


def test_the_lowered_module_is_well_formed_and_keeps_attributes():
    mod = Mlp.with_attr("made_by", "me")
    sharded = spmd.shard(mod, 2, SPECS)
    tvm.relax.analysis.well_formed(sharded.mod)
    assert sharded.mod.attrs["made_by"] == "me"
    assert sharded.mod["main"].attrs["num_input"] == 1
    assert sharded.mod["main"].attrs["global_symbol"] == "main"
    assert [p.name for p in sharded.mod["main"].params] == ["x", "w1", "w2"]


def test_one_worker_runs_the_same_program():
    sharded = spmd.shard(Mlp, 1)
    assert sharded.plan.collectives == []
    tvm.ir.assert_structural_equal(tvm.relax.transform.CanonicalizeBindings()(sharded.mod), Mlp)


def test_weights_are_cut_by_name_and_in_order():
    sharded = spmd.shard(Mlp, 2, SPECS)
    w1, w2 = np.arange(512, dtype="float32").reshape(16, 32), np.arange(512, dtype="float32").reshape(32, 16)
    parts = sharded.partition({"w2": w2, "w1": w1})
    assert [list(p) for p in parts] == [["w1", "w2"]] * 2
    np.testing.assert_array_equal(parts[1]["w1"], w1[:, 16:])
    np.testing.assert_array_equal(parts[1]["w2"], w2[16:])
    one = sharded.partition([w1, w2], rank=0)
    np.testing.assert_array_equal(one["w1"], w1[:, :16])
    with pytest.raises(ShardingError, match=r"weight 'w2' is missing"):
        sharded.partition({"w1": w1})
    with pytest.raises(ShardingError, match=r"the module has no weight 'w3'\. Did you mean 'w"):
        sharded.partition({"w1": w1, "w2": w2, "w3": w1})
    with pytest.raises(ShardingError, match=r"1 weights for 2 parameters"):
        sharded.partition([w1])
    with pytest.raises(ShardingError, match=r"weight 'w1' is float32\[32, 16\], the module has float32\[16, 32\]"):
        sharded.partition([w1.T, w2])
    with pytest.raises(ShardingError, match=r"weight 'w1' is float64"):
        sharded.partition([w1.astype("float64"), w2])


def test_sizes_and_profile_move_the_prediction():
    slow, fast = spmd.plan(Two, 2, profile="a10g"), spmd.plan(Two, 2, profile="h100")
    assert (slow.profile, fast.profile) == ("a10g", "h100")
    assert slow.predicted["second"] > fast.predicted["second"]
    assert spmd.plan(Two, 2, sizes={"n": 4096}).predicted["second"] > spmd.plan(Two, 2, sizes={"n": 1}).predicted["second"]


SCRIPT = """
import spmd
from tests.models.mlc_llama import TINY, mlc_llama
for quantization in ("q0f16", "q4f16_1"):
    sharded = spmd.shard(mlc_llama(TINY, quantization, layers=1)[0], 4)
    print(sharded.plan.to_json())
    print(sharded.mod.script())
"""


def test_two_processes_give_the_same_bytes():
    """Neither the order of sets nor addresses reach the result."""
    root = Path(__file__).parents[1]
    started = [
        subprocess.Popen([sys.executable, "-c", SCRIPT], cwd=root, env={**os.environ, "PYTHONHASHSEED": seed}, stdout=subprocess.PIPE)
        for seed in ("0", "12345")
    ]
    first, second = (p.communicate(timeout=120)[0] for p in started)
    assert len(first) > 10_000
    assert first == second


def test_the_price_of_specs():
    """Nothing where they are the optimum, and time where they are not."""
    assert not spmd.price(Mlp, 2, {"w1": P(None, None)})
    dear = spmd.price(Mlp, 2, {"w1": P("tp", None), "w2": P("tp", None)})
    (before, after) = dear.predicted["main"]
    assert after > before and dear.params.keys() == {"w1", "w2"}
