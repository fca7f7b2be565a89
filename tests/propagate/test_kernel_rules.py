"""The rule read off a kernel offers what the written rule of the operator that it was made from offers."""

import pytest
from tvm import relax

from spmd import Mesh
from spmd.propagate import build_graph
from spmd.propagate.candidates import find_candidates
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
