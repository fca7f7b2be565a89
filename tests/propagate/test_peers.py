"""What other compilers of sharded programs were measured to do on the same work: bytes that each worker brings, a layer."""

import re

import pytest

import spmd
from spmd import Mesh, P
from spmd.testing import assert_equivalent
from tests.models.llama_block import WEIGHTS, llama_blocks, with_gradients

COLUMNS, ROWS = ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj"), ("o_proj", "down_proj")
LAYERS = 2


def specs(mesh, names, *, gradients=False):
    """Megatron's specs for the weights in `names`; on a mesh of 8 the 4 KV heads are split over the major part of the axis."""
    found = {}
    for name in names:
        axis = "tp(1)4" if mesh.axes["tp"] == 8 and name in ("k_proj", "v_proj") else "tp"
        found[f"*.{name}"] = P(None, axis) if name in COLUMNS else P(axis, None)
    if "dp" in mesh.axes:
        found["*.x"] = P("dp", None, None)
        if not gradients:
            found["main.return"] = P("dp", None, None)
    if gradients:
        order = ["x", *WEIGHTS]
        found |= {f"main_adjoint.return[[]1][[]{order.index(k[2:])}]": v for k, v in found.items() if k[2:] in WEIGHTS}
    return found


def bytes_a_layer(plan, layers=LAYERS):
    return sum(c.bytes for c in plan.collectives) / layers


@pytest.mark.parametrize("names", [(*COLUMNS, *ROWS), COLUMNS, ("q_proj", "gate_proj", "up_proj")], ids=["all", "columns", "some"])
@pytest.mark.parametrize(
    ("mesh", "shardy"),
    [(Mesh(tp=2), 131_072), (Mesh(tp=4), 131_072), (Mesh(tp=8), 163_840), (Mesh(dp=2, tp=4), 65_536)],
    ids=str,
)
def test_a_llama_block_sends_no_more_than_shardy(mesh, shardy, names):
    plan = spmd.plan(llama_blocks(LAYERS), mesh, specs(mesh, names))
    assert bytes_a_layer(plan) <= min(shardy, 131_072)
    assert {c.kind for c in plan.collectives} == {"all_reduce"} and len(plan.collectives) == 2 * LAYERS


@pytest.mark.parametrize("mesh", [Mesh(tp=2), Mesh(tp=8), Mesh(dp=2, tp=4)], ids=str)
def test_with_nothing_annotated_it_sends_no_more_either(mesh):
    assert bytes_a_layer(spmd.plan(llama_blocks(LAYERS), mesh)) <= 65_536


def test_a_wide_mesh_leaves_no_weight_silently_whole():
    """Forward, from q, k, v, gate and up alone: with the KV heads in groups, what follows them is split too."""
    mesh = Mesh(tp=8)
    plan = spmd.plan(llama_blocks(1), mesh, specs(mesh, COLUMNS))
    assert str(plan.params["layers.0.o_proj"]) == str(plan.params["layers.0.down_proj"]) == "[tp, -]"


def test_kv_heads_are_held_in_groups_when_the_mesh_is_wider_than_they_are():
    plan = spmd.plan(llama_blocks(1), 8, {"*.q_proj": P(None, "tp")})
    assert str(plan.params["layers.0.k_proj"]) == str(plan.params["layers.0.v_proj"]) == "[-, tp(1)4]"
    assert_equivalent(llama_blocks(1), 8, {"*.q_proj": P(None, "tp")}, tolerance=1e-4)


def test_the_backward_pass_reduces_four_tensors():
    """Shardy reduces seven, 458,752 bytes: the gradients of what q, k and v, or gate and up, share are added before they are reduced."""
    mesh = Mesh(tp=4)
    plan = spmd.plan(with_gradients(1), mesh, specs(mesh, (*COLUMNS, *ROWS), gradients=True))
    assert [(c.kind, c.bytes) for c in plan.collectives] == [("all_reduce", 65_536)] * 4


@pytest.mark.parametrize("mesh", [Mesh(tp=4), Mesh(dp=2, tp=2)], ids=str)
def test_the_block_and_its_gradients_are_right(mesh):
    assert_equivalent(llama_blocks(1), mesh, specs(mesh, (*COLUMNS, *ROWS)), tolerance=1e-4)
    assert_equivalent(with_gradients(1), mesh, specs(mesh, (*COLUMNS, *ROWS), gradients=True), tolerance=1e-3)


def test_a_constraint_that_does_not_divide_is_obeyed():
    """Shardy weakens it without a word: 6 columns of heads over 4 workers."""
    plan = spmd.plan(llama_blocks(1), Mesh(tp=3), {"*.down_proj": P("tp", None)})
    assert re.fullmatch(r"\[tp(:1408~\d+)?, -\]", str(plan.params["layers.0.down_proj"]))
    assert_equivalent(llama_blocks(1), Mesh(tp=3), {"*.down_proj": P("tp", None)}, tolerance=1e-4)
