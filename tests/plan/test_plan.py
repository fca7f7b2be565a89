"""The plan as data: its text, its JSON, and that a plan read back lowers to the same program."""

from dataclasses import replace

import pytest
import tvm

import spmd
from examples.llm.config import LlamaConfig
from examples.llm.model import build_module
from spmd import P, Plan, ShardingError
from tests.models.mlc_llama import TINY, mlc_llama
from tests.programs import Mlp, Two

COLUMNS_THEN_ROWS = {"w1": P(None, "tp"), "w2": P("tp", None)}


@pytest.fixture(scope="module")
def mlp():
    return spmd.plan(Mlp, 2, COLUMNS_THEN_ROWS)


def llama(packed=False):
    if packed:
        return mlc_llama(TINY, "q4f16_1")[0]
    return build_module(replace(LlamaConfig.preset("tiny"), num_hidden_layers=1))[0]


@pytest.mark.parametrize("mod", [Mlp, Two, llama(), llama(packed=True)], ids=["mlp", "two functions", "llama", "packed"])
def test_a_plan_survives_its_file_and_lowers_to_the_same_program(mod, tmp_path):
    sharded = spmd.shard(mod, 3)
    sharded.plan.save(tmp_path / "plan.json")
    loaded = Plan.load(tmp_path / "plan.json")
    assert loaded == sharded.plan
    assert loaded.to_json() == sharded.plan.to_json()
    again = spmd.lower(mod, loaded)
    tvm.ir.assert_structural_equal(again, sharded.mod)
    assert again.script() == sharded.mod.script()


def test_what_a_plan_holds(mlp):
    assert {n: str(s) for n, s in mlp.params.items()} == {"w1": "[-, tp]", "w2": "[tp, -]"}
    assert {n: str(s) for n, s in mlp.inputs.items()} == {"main.x": "[-, -]"}
    assert {n: str(s) for n, s in mlp.outputs.items()} == {"main": "[-, -]"}
    assert str(mlp.values["main.active"]) == "[-, tp]"
    assert [(c.kind, c.axis, c.bytes, c.function, c.value) for c in mlp.collectives] == [("all_reduce", "tp", 4 * 16 * 4, "main", "down")]
    assert mlp.functions["main"].num_input == 1
    assert [leaf.name for leaf in mlp.functions["main"].params] == ["x", "w1", "w2"]
    assert [c.op for c in mlp.choices["main"]] == ["relax.matmul", "relax.nn.relu", "relax.matmul"]
    assert mlp.predicted["main"] > 0 and mlp.width >= 1 and mlp.notes == []


def test_outputs_of_a_tuple_are_numbered():
    assert list(spmd.plan(Two, 2).outputs) == ["first", "second[0]", "second[1]"]


def test_explain_says_why_a_value_is_where_it_is(mlp):
    assert mlp.explain("w1").splitlines() == [
        "w1: [-, tp]",
        "  float32 16 x 32, each of 2 workers holds 16 x 16: 1,024 bytes of 2,048",
        "  because specs['w1'] asks for P(None, 'tp')",
        "  without that it would be the same",
        "  taken by relax.matmul 'up' of 'main' as [-, tp]",
    ]
    assert "inputs are whole unless specs say otherwise" in mlp.explain("main.x")
    down = mlp.explain("main.down").splitlines()
    assert down[0].startswith("main.down: [-, -]")
    assert down[-1].startswith("  all_reduce over tp, 256 bytes, in main: ") and "sum@tp" in down[-1]
    assert mlp.explain("main").startswith("main: [-, -]")


def test_explain_of_an_unknown_name_gives_the_nearest(mlp):
    with pytest.raises(ShardingError, match=r"there is no value 'main\.actve'\. Did you mean 'main\.active'"):
        mlp.explain("main.actve")


def test_the_summary_is_a_page(mlp):
    lines = mlp.explain().splitlines()
    assert lines[0] == f"Mesh(tp=2), profile generic, elimination width {mlp.width}"
    assert lines[1:3] == ["  w1  [-, tp]", "  w2  [tp, -]"]
    assert lines[3].startswith("main: 1 all_reduce, 256 bytes, ")


def test_a_collective_of_a_value_does_not_explain_another_of_the_same_end():
    """``other.y`` is no ``first.y``, though both are called y."""
    plan = spmd.plan(Two, 2, {"w": P("tp", None), "second.y": P(None, None)}, sizes={"n": 4})
    assert [(c.function, c.value) for c in plan.collectives] == [("first", "y"), ("second", "y")]
    assert " in first: " in plan.explain("first.y") and " in second: " not in plan.explain("first.y")
    assert " in second: " in plan.explain("second.y") and " in first: " not in plan.explain("second.y")


def test_a_plan_for_another_module_is_refused(mlp):
    with pytest.raises(ShardingError, match=r"plan: it is for the functions \['main'\], the module has \['first', 'second'\]"):
        spmd.lower(Two, mlp)
    plan = spmd.plan(Mlp, 2)
    plan.steps["main"].remove(plan.choices["main"][-1])
    with pytest.raises(ShardingError, match=r"plan for 'main': it has 2 operators where the module has 3\. Plan this module"):
        spmd.lower(Mlp, plan)
    plan = spmd.plan(Mlp, 2)
    plan.steps["main"] = [replace(step, op="relax.tanh") if step == plan.choices["main"][1] else step for step in plan.steps["main"]]
    with pytest.raises(ShardingError, match=r"it has relax\.tanh 'active' of main\.up where the module has relax\.nn\.relu 'active'"):
        spmd.lower(Mlp, plan)
