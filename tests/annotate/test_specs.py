"""Specs by name: what they match, what they make of it, and every way in which they are refused."""

import pytest
import tvm
from tvm.script import ir as I
from tvm.script import relax as R

import spmd
from spmd import Mesh, P, ShardingError
from spmd.annotate import annotate
from spmd.program.build import build_graph
from tests.models.mlc_llama import TINY, mlc_llama
from tests.programs import Mlp, Two


@I.ir_module
class Free:
    """No `num_input`: the planner may place the arguments."""

    @R.function
    def main(x: R.Tensor((4, 16), "float32"), w: R.Tensor((16, 32), "float32")):
        with R.dataflow():
            y = R.matmul(x, w)
            R.output(y)
        return y


def wanted(mod, specs, mesh=2):
    """The constraint and its reason by the name that specs use."""
    graph = annotate(build_graph(mod), Mesh.of(mesh), specs)
    found = {v.name if v.role == "weight" else f"{v.function}.{v.name}": (str(v.wanted), v.reason) for v in graph.values if v.wanted}
    for f in graph.functions.values():
        for i, (_, sharding, reason) in enumerate(f.at_end):
            found[f"{f.name}.return[{i}]"] = (str(sharding), reason)
    return found


def test_weights_inputs_values_and_results():
    found = wanted(
        Mlp,
        {"w1": P(None, "tp"), "main.x": P("tp", None), "main.active": P(..., "tp"), "main.return": P("tp", None)},
    )
    assert found == {
        "w1": ("[-, tp]", "specs['w1'] asks for P(None, 'tp')"),
        "main.x": ("[tp, -]", "specs['main.x'] asks for P('tp', None)"),
        "main.active": ("[-, tp]", "specs['main.active'] asks for P(..., 'tp')"),
        "main.return[0]": ("[tp, -]", "specs['main.return'] asks for [tp, -] at the end"),
    }


def test_patterns_are_those_of_file_names():
    found = wanted(Mlp, {"w?": P("tp", None)})
    assert found["w1"][0] == found["w2"][0] == "[tp, -]"
    assert "w2" not in wanted(Mlp, {"w[1]": P("tp", None)})
    found = wanted(Two, {"*.x": P(None, "tp")})
    assert found["first.x"][0] == found["second.x"][0] == "[-, tp]"
    assert "w" not in wanted(Two, {"second.*": P(others=None)}), "a weight has no function in its name"


def test_results_of_a_tuple_are_numbered():
    found = wanted(Two, {"second.return[[]0]": P(None, "tp")})
    assert found["second.return[0]"][0] == "[-, tp]"
    found = wanted(Two, {"second.return[1]": P(None)})
    assert found["second.return[1]"][1].startswith("specs['second.return[1]']")


def test_without_specs_inputs_and_results_are_whole():
    assert wanted(Mlp, None) == {
        "main.x": ("[-, -]", "inputs are whole unless specs say otherwise"),
        "main.return[0]": ("[-, -]", "results are whole unless specs say otherwise"),
    }


def test_without_num_input_arguments_are_free():
    assert list(wanted(Free, None)) == ["main.return[0]"]


def test_segments():
    assert wanted(Mlp, {"w1": P(None, ("tp", 20, 8, 4))})["w1"][0] == "[-, tp:20|8|4]"


def test_the_same_wish_twice_is_one():
    assert wanted(Mlp, {"w1": P(None, "tp"), "w*1": P(..., "tp")})["w1"][0] == "[-, tp]"


REFUSED = {
    "weight inside": (Free, {"w": P("tp", None)}, r"specs\['w'\]: it matches no .* result\. Did you mean 'main\.w'\?"),
    "pattern": (Mlp, {"*.w1": P("tp", None)}, r"specs\['\*\.w1'\]: it matches no .* result\. Did you mean 'w1'\?"),
    "name of a layer": (
        lambda: mlc_llama(TINY, functions=["get_logits"])[0],
        {"*.lm_haed.weight": P("tp", None)},
        r"specs\['\*\.lm_haed\.weight'\]: it matches no .* result\. Did you mean 'lm_head_weight'",
    ),
    "open against closed": (
        Mlp,
        {"w1": P("tp", None), "w*": P(...)},
        r"w1: specs\['w1'\] asks for P\('tp', None\), and specs\['w\*'\] asks for P\(\.\.\.\)\. Keep one",
    ),
    "gathered or not": (
        Mlp,
        {"w1": P("tp", None), "w*": P("tp", None, gather=False)},
        r"w1: specs\['w1'\] asks for P\('tp', None\), and specs\['w\*'\] asks for P\('tp', None, gather=False\)\. Keep one",
    ),
    "weight": (
        Mlp,
        {"w3": P("tp", None)},
        r"specs\['w3'\]: it matches no weight, input, value or result\. Did you mean 'w[12]' or 'w[12]'",
    ),
    "value": (Mlp, {"main.activ": P("tp", None)}, r"specs\['main\.activ'\]: it matches no .* Did you mean 'main\.active'"),
    "result": (Mlp, {"main.return[0]": P("tp", None)}, r"specs\['main\.return\[0\]'\]: it matches no .* Did you mean 'main\.return'"),
    "axis": (
        Mlp,
        {"w1": P("dp", None)},
        r"specs\['w1'\] on 'w1': P\('dp', None\) names mesh axis 'dp'\. The axes of Mesh\(tp=2\) are 'tp'",
    ),
    "rank": (
        Mlp,
        {"w1": P("tp")},
        r"specs\['w1'\] on 'w1': P\('tp'\) has 1 entries, the value has 2 dimensions \(16, 32\)\. Give one entry",
    ),
    "axis twice": (Mlp, {"w1": P("tp", "tp")}, r"specs\['w1'\] on 'w1': P\('tp', 'tp'\) uses mesh axis 'tp' twice"),
    "segments": (Mlp, {"w1": P(None, ("tp", 20, 8))}, r"'w1': the segments \(20, 8\) of dimension 1 add up to 28, and its size is 32"),
    "entry": (Mlp, {"w1": P(None, (8, 24))}, r"has the entry \(8, 24\)\. An entry is None, '\?', '\.\.\.', a mesh axis, or a tuple"),
    "symbolic": (
        Two,
        {"second.x": P(("tp", 2, 3), None)},
        r"whose size is symbolic, by segments\. ",
    ),
    "contradiction": (
        Mlp,
        {"w1": P("tp", None), "w*": P(None, "tp")},
        r"w1: specs\['w1'\] asks for P\('tp', None\), and specs\['w\*'\] asks for P\(None, 'tp'\)",
    ),
    "contradicting ends": (
        Mlp,
        {"main.return": P("tp", None), "main.ret*": P(None, "tp")},
        r"main\.return: specs\['main\.return'\] asks for P\('tp', None\), and specs\['main\.ret\*'\] asks for P\(None, 'tp'\)\. Keep one",
    ),
    "type": (Mlp, {"w1": ("tp", None)}, r"specs\['w1'\]: \('tp', None\) is no spmd\.P\. Write P\('tp', None\)"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(name):
    mod, specs, message = REFUSED[name]
    mod = mod() if not isinstance(mod, tvm.IRModule) else mod
    with pytest.raises(ShardingError, match=message):
        spmd.plan(mod, 2, specs)


def test_an_open_dimension_is_the_planners_choice():
    grid = Mesh(dp=2, tp=2)
    assert wanted(Mlp, {"w1": P("?", "tp"), "main.x": P(...), "main.return": P(..., "dp")}, grid) == {
        "w1": ("[?, tp]", "specs['w1'] asks for P('?', 'tp')"),
        "main.x": ("[?, ?]", "specs['main.x'] asks for P(...)"),
        "main.return[0]": ("[?, dp]", "specs['main.return'] asks for [?, dp] at the end"),
    }


def test_dots_stand_for_underscores_where_tvm_packs_weights():
    mod, _ = mlc_llama(TINY, functions=["get_logits"])
    assert wanted(mod, {"lm_head.weight": P(None, "tp")})["lm_head_weight"][0] == "[-, tp]"
    assert wanted(mod, {"*head.weight": P(None, "tp")})["lm_head_weight"][0] == "[-, tp]"


def test_what_is_asked_for_is_what_the_plan_has():
    plan = spmd.plan(Mlp, 2, {"w1": P("tp", None), "main.up": P("tp", None), "main.return": P(None, "tp")})
    assert str(plan.params["w1"]) == "[tp, -]"
    assert str(plan.values["main.up"]) == "[tp, -]"
    assert str(plan.outputs["main"]) == "[-, tp]"


def test_a_costly_wish_is_obeyed_at_its_price():
    plan = spmd.plan(Mlp, 2, {"w1": P("tp", None)})
    assert str(plan.params["w1"]) == "[tp, -]"
    assert any(c.value in ("w1", "up") for c in plan.collectives)
