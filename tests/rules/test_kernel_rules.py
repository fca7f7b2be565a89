"""The rule read off a kernel against the written rule of the operator that it was made from: what both say, and that both are right."""

import importlib

import pytest
import tvm
from tvm import relax

from spmd import Mesh
from spmd.program.build import build_graph
from spmd.propagate.axes_together import find_candidates
from spmd.testing import prove
from tests.operators import document
from tests.operators.kernels import MODULE, Operators

LESS = {
    "k_take": "a table split over its rows needs a mask, which the kernel does not say",
    "k_merge": "a kernel's minor factors stay whole",
    "k_reshape": "a kernel's minor factors stay whole",
    "k_concat": "what a kernel reads elsewhere than where it writes stays whole",
    "k_slice": "what a kernel reads elsewhere than where it writes stays whole",
    "k_split": "what a kernel reads elsewhere than where it writes stays whole",
    "k_flip": "what a kernel reads elsewhere than where it writes stays whole",
    "k_convolution": "what a kernel reads elsewhere than where it writes stays whole",
    "k_max": "where a NaN stands among floats that a kernel compares, no other worker would know",
    "k_argmax": "a reduction of pairs stays whole",
    "k_mean": "what a kernel does after its last reduction is done to a whole sum, where the operator leaves a partial",
    "k_variance": "what a kernel does after its last reduction is done to a whole sum, where the operator leaves a partial",
    "k_group_norm": "a kernel's minor factors stay whole",
}
"""Function -> why its kernel's rule offers less than the written one."""


def offered(module):
    """For each function, the placements of inputs and outputs that its operator can be run in."""
    graph = build_graph(module)
    strategies = find_candidates(graph, Mesh(tp=2)).strategies
    return {
        n.function: {" , ".join(map(str, s.inputs)) + " -> " + " , ".join(map(str, s.outputs)) for s in found}
        for n, found in strategies.items()
    }


WRITTEN, READ = offered(Operators), offered(MODULE)


@pytest.mark.parametrize("name", sorted(WRITTEN))
def test_a_kernel_splits_as_its_operator_does(name):
    lacking = WRITTEN[name] - READ[name]
    assert bool(lacking) == (name in LESS), f"{sorted(lacking)}; the kernel offers {sorted(READ[name])}"


def test_every_operator_of_the_table_became_a_kernel():
    kernels = [n for gv, f in MODULE.functions.items() if isinstance(f, relax.Function) for n in [gv.name_hint]]
    graph = build_graph(MODULE)
    assert {graph.functions[n].nodes[0].op for n in kernels} <= {"relax.call_tir", "relax.call_tir_inplace"}


def legalized(family):
    """The functions of a family that become a call of one readable kernel, before and after, and the family."""
    rows, before, after = importlib.import_module(f"tests.operators.{family}"), {}, {}
    for var, function in rows.MODULE.functions.items():
        if not isinstance(function, relax.Function):
            continue
        try:
            made = relax.transform.LegalizeOps()(tvm.IRModule({var.name_hint: function}))
        except (tvm.error.InternalError, RuntimeError, AttributeError):
            continue  # what TVM cannot lower
        nodes = build_graph(made).functions[var.name_hint].nodes
        if [n.op for n in nodes] == ["relax.call_tir"] and not nodes[0].no_rule:
            before[var.name_hint] = function
    if before:
        after = relax.transform.LegalizeOps()(tvm.IRModule(before))
    return tvm.IRModule(before), after, rows


def strategies(module):
    """For each function, its operator's strategies."""
    return {n.function: found for n, found in find_candidates(build_graph(module), Mesh(tp=2)).strategies.items()}


@pytest.mark.parametrize("family", [f for f in document.families() if f not in ("kernels", "packed", "unlowered")])
def test_where_both_split_their_inputs_alike_they_split_their_outputs_alike(family):
    """A sum that the one leaves partial may be whole after the other, and so may what does not hang on the split inputs."""
    before, after, _ = legalized(family)
    if not before.functions:
        pytest.skip("none of its operators becomes one kernel")
    read = strategies(after)
    for name, written in strategies(before).items():
        for strategy in written:
            alike = [s for s in read[name] if s.inputs == strategy.inputs and not all(i.is_replicated for i in s.inputs)]
            agree = [s for s in alike if all(map(compatible, s.outputs, strategy.outputs))]
            assert bool(agree) == bool(alike), f"{name}: {strategy.inputs} -> {strategy.outputs}, by its kernel {alike[0].outputs}"


def compatible(one, other):
    """Whether two ways of holding a result can both be right: the same splits, or none in one of them."""
    return one.dims == other.dims or not any(one.dims) or not any(other.dims)


@pytest.mark.slow
@pytest.mark.parametrize("family", [f for f in document.families() if f not in ("kernels", "packed", "unlowered")])
def test_what_is_read_off_the_kernel_of_an_operator_is_right(family):
    before, after, rows = legalized(family)
    if not before.functions:
        pytest.skip("none of its operators becomes one kernel")
    arguments = {name: given for name, given in rows.ARGUMENTS.items() if name in strategies(before)}
    wrong = [v for v in prove(after, 3, arguments=arguments) if v.status != "right"]
    assert not wrong, "\n".join(map(str, wrong))
