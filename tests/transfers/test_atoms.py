"""Into how many parts mesh axes are cut."""

import pytest

from spmd import Mesh
from spmd.transfers.atoms import atoms_of


@pytest.mark.parametrize(
    ("mesh", "sizes"),
    [(Mesh(x=2, y=4), [2, 2, 2]), (Mesh(x=4, y=6), [2, 2, 2, 3]), (Mesh(x=4, y=4), [4, 4]), (Mesh(x=2, y=2, z=4), [2, 2, 4])],
    ids=str,
)
def test_two_axes_are_cut_where_they_share_sizes_and_three_are_not(mesh, sizes):
    assert [atom.size for atom in atoms_of(frozenset(mesh.axes), mesh)] == sizes


def test_what_names_ask_for_is_cut():
    assert [atom.size for atom in atoms_of(frozenset({"x", "y", "z(1)2"}), Mesh(x=2, y=2, z=4))] == [2, 2, 2]
