"""Random programs with random specs on random meshes give what they give unsharded."""

from hypothesis import given
from hypothesis import strategies as st

from spmd.testing import assert_equivalent
from spmd.testing.programs import meshes, programs, specs


@given(st.data())
def test_random_programs(data):
    mod = data.draw(programs())
    assert_equivalent(mod, data.draw(meshes()), data.draw(specs(mod)), tolerance=1e-9)
