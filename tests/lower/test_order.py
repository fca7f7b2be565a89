"""The lowered program takes the steps of its plan in their order: its collectives are those of the plan, one after another."""

import pytest
import tvm
import tvm_ffi
from hypothesis import given
from hypothesis import strategies as st

import spmd
from spmd import Mesh, P
from spmd.costs.planning_sizes import symbols_of
from spmd.testing import FREE_LINKS
from spmd.testing.programs import DIVISIBLE, SIZES, meshes, programs, specs
from tests.lower.test_branch import Convert
from tests.lower.test_bundles import SPLIT, Products
from tests.test_programs import LIFT


def written(function):
    """The collectives of a lowered function: the operator, the axis, the values that it moves."""
    found = []

    def visit(call):
        if isinstance(call.op, tvm.ir.Op) and call.op.name.startswith("relax.spmd.") and "value" in call.attrs:
            found.append((call.op.name.removeprefix("relax.spmd."), str(call.attrs["axis"]), str(call.attrs["value"])))

    tvm_ffi.structural_walk(function.body, [((tvm.relax.Call,), visit)])
    return found


def planned(plan, function):
    """The same of the plan; what goes in one call is one."""
    calls = []
    for c in (c for c in plan.collectives if c.function == function):
        if c.bundle and calls and calls[-1][0] == c.bundle:
            calls[-1][-1] += f", {c.value}"
        else:
            calls.append([c.bundle, c.kind, c.axis, c.value])
    return [tuple(call[1:]) for call in calls]


def same_order(sharded):
    for name in sharded.plan.functions:
        assert written(sharded.mod[name]) == planned(sharded.plan, name)


@pytest.mark.parametrize(
    ("mod", "asked"),
    [(Products, SPLIT), (Convert, {"main.x": P("tp", None), "main.return[[]*": P(None, "tp")})],
    ids=["bundle", "branches"],
)
def test_collectives_stand_in_the_order_of_the_steps(mod, asked):
    sharded = spmd.shard(mod, Mesh(tp=2), asked, profile=FREE_LINKS)
    assert written(sharded.mod["main"])
    same_order(sharded)


@given(st.data())
def test_collectives_of_random_programs_stand_in_the_order_of_the_steps(data):
    mod, mesh = data.draw(programs(functions=2)), data.draw(meshes())
    symbols = symbols_of(mod)
    sizes, divisible = ({n: told[n] for n in symbols if n in told} for told in (SIZES, DIVISIBLE))
    same_order(
        spmd.shard(mod, mesh, data.draw(specs(mod, mesh, DIVISIBLE, LIFT)), profile=FREE_LINKS, sizes=sizes, divisible=divisible, lift=LIFT)
    )
