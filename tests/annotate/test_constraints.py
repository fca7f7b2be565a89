"""A constraint is obeyed or it is an error: open dimensions, closed ones, and values that are never gathered."""

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st
from tvm import relax

import spmd
from spmd import Mesh, P, ShardingError
from spmd.testing import FREE_LINKS, assert_equivalent
from tests.programs import Mlp

GRID = Mesh(dp=2, tp=2)
CUBE = Mesh(a=2, b=2, c=2)
SLOW = spmd.Profile("slow workers", flops=1e9, memory_bandwidth=1e9, link_bandwidth=1e7, link_latency=1e-6)


def largest(count, rows):
    """The `count` largest of 16, for each row."""
    bb = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType((rows, 16), "float32"))
    with bb.function("main", [x], {"num_input": 1}):
        with bb.dataflow():
            y = bb.emit(relax.op.nn.relu(x), "y")
            z = bb.emit_output(relax.op.topk(y, k=count, axis=1, ret_type="values"))
        bb.emit_func_output(z)
    return bb.finalize()


def found(plan, name):
    if name.endswith(".return"):
        return plan.outputs[name.removesuffix(".return")]
    return plan.params.get(name) or plan.inputs.get(name) or plan.values[name]


SHAPES = {"main.x": (4, 16), "w1": (16, 32), "w2": (32, 16), "main.up": (4, 32), "main.active": (4, 32), "main.return": (4, 16)}


@st.composite
def some_specs(draw, axes):
    """Specs for some of the values of `Mlp`, each axis at most once in each."""
    specs = {}
    for name in draw(st.lists(st.sampled_from(sorted(SHAPES)), min_size=1, max_size=4, unique=True)):
        entries = [draw(st.sampled_from([None, "?", "?"])) for _ in range(2)]
        for axis in axes:
            at = draw(st.integers(-2, 1))
            if at >= 0:
                entries[at] = axis if entries[at] in (None, "?") else (entries[at], axis) if isinstance(entries[at], str) else entries[at]
        specs[name] = P(*entries, gather=draw(st.integers(0, 4)) > 0)
    return specs


@settings(max_examples=60, deadline=None)
@given(st.data(), st.sampled_from([Mesh(tp=2), Mesh(tp=3), GRID, CUBE]), st.sampled_from(["generic", FREE_LINKS]))
def test_every_constraint_is_obeyed_or_it_is_an_error(data, mesh, profile):
    specs = data.draw(some_specs(list(mesh.axes)))
    plan = None
    try:
        plan = spmd.plan(Mlp, mesh, specs, profile=profile)
    except ShardingError:
        event("an error")
    if plan is None:
        assert any(not spec.gather for spec in specs.values()), "all else can be had"
        return
    for name, spec in specs.items():
        assert spec.constraint(SHAPES[name], mesh, name).allows(found(plan, name)), (name, spec, found(plan, name))
    kept = {name.removeprefix("main.") for name, spec in specs.items() if not spec.gather and not name.endswith("return")}
    assert not [c for c in plan.collectives if c.kind == "all_gather" and c.value in kept]


OPEN = {
    "input": {"main.x": P(...)},
    "result": {"main.return": P(...)},
    "half open": {"w1": P("?", "tp"), "main.up": P("dp", "?")},
    "never gathered": {"main.active": P("tp", None, gather=False), "main.return": P(..., gather=False)},
}


@pytest.mark.parametrize("mesh", [Mesh(tp=3), GRID], ids=str)
@pytest.mark.parametrize("name", OPEN)
def test_numbers_stay(name, mesh):
    specs = {key: spec for key, spec in OPEN[name].items() if "dp" in mesh.axes or "dp" not in spec.entries}
    assert_equivalent(Mlp, mesh, specs, profile=FREE_LINKS)


def test_a_result_that_is_open_is_returned_as_it_comes():
    closed, free = spmd.plan(Mlp, 2, {"w1": P(None, "tp")}), spmd.plan(Mlp, 2, {"w1": P(None, "tp"), "main.return": P(...)})
    assert [(c.kind, str(closed.outputs["main"])) for c in closed.collectives] == [("all_reduce", "[-, -]")]
    assert [c.kind for c in free.collectives] == ["reduce_scatter"]
    assert str(free.outputs["main"]) in ("[tp, -]", "[-, tp]"), "and is never partial"


def test_an_input_is_free_only_when_asked():
    specs = {"main.up": P("tp", None)}
    assert str(spmd.plan(Mlp, 2, specs).inputs["main.x"]) == "[-, -]"
    assert str(spmd.plan(Mlp, 2, {**specs, "main.x": P("?", None), "main.return": P(...)}).inputs["main.x"]) == "[tp, -]"


def test_what_is_kept_whole_stays_whole():
    plan = spmd.plan(Mlp, 2, {"w*": P(others=None), "main.up": P(None, None)}, profile=FREE_LINKS)
    assert {str(plan.params[w]) for w in ("w1", "w2")} == {str(plan.values["main.up"])} == {"[-, -]"}


def test_a_value_under_a_constraint_is_never_partial():
    """It is made as a partial sum, and reduced before anything else happens to it."""
    plan = spmd.plan(Mlp, 2, {"w1": P(None, "tp"), "main.x": P("tp", None), "main.down": P(...)}, profile=FREE_LINKS)
    assert "sum" in str(plan.choices["main"][-1].outputs[0])
    assert "sum" not in str(plan.values["main.down"])


def test_what_may_not_be_gathered_goes_another_way():
    split = {"main.x": P(None, "tp")}
    assert "x" in {c.value for c in spmd.plan(Mlp, 2, split).collectives if c.kind == "all_gather"}
    assert "x" not in {c.value for c in spmd.plan(Mlp, 2, {"main.x": P(None, "tp", gather=False)}).collectives if c.kind == "all_gather"}


IMPOSSIBLE = {
    "a result that is whole": (
        {"main.down": P("tp", None, gather=False)},
        r"main: 'down': there is no way from \[tp, -\] to \[-, -\]: results are whole unless specs say otherwise; "
        r"'down' may not be gathered, as specs\['main\.down'\] asks for P\('tp', None, gather=False\)\. Loosen the specs",
    ),
    "a result on its way out": (
        {"main.down": P("tp", None), "main.return": P(None, None, gather=False)},
        r"main: 'down': there is no way from \[tp, -\] to \[-, -\] never gathered: specs\['main\.return'\] asks for",
    ),
}


@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_what_cannot_be_had_is_an_error(name):
    specs, message = IMPOSSIBLE[name]
    with pytest.raises(ShardingError, match=message):
        spmd.plan(Mlp, 2, specs)


def test_an_operator_that_gathers_within_itself_is_one_way_of_gathering():
    def sent(count, rows, gather):
        plan = spmd.plan(largest(count, rows), 2, {"main.y": P(None, "tp", gather=gather)}, profile=SLOW)
        return [(c.kind, c.value) for c in plan.collectives]

    within = [("all_gather", "gv")]
    assert sent(2, 4, gather=True) == sent(2, 4, gather=False) == within, "two of each row are less than a worker's eight"
    assert sent(8, 4, gather=True) == within, "eight are all that a worker has"
    assert sent(8, 4, gather=False)[0] == ("all_to_all", "y")
    with pytest.raises(
        ShardingError, match=r"no placement obeys all that is asked of them; 'y' may not be gathered, as specs\['main\.y'\]"
    ):
        sent(8, 1, gather=False)
