import pytest
from hypothesis import given
from hypothesis import strategies as st

from spmd.errors import ShardingError
from spmd.mesh import Mesh

MESHES = st.dictionaries(st.sampled_from(["dp", "tp", "pp", "ep"]), st.integers(1, 4), min_size=1).map(lambda a: Mesh(**a))


def test_coordinates_are_first_axis_major() -> None:
    mesh = Mesh(dp=2, tp=4)
    assert mesh.size == 8
    assert mesh.coordinates(5) == {"dp": 1, "tp": 1}
    assert [mesh.index(r, ("tp", "dp")) for r in range(8)] == [0, 2, 4, 6, 1, 3, 5, 7]
    assert mesh.groups("tp") == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert mesh.groups("dp") == [[0, 4], [1, 5], [2, 6], [3, 7]]
    assert mesh.axis_size("tp", "dp") == 8
    assert mesh.axis_size() == 1


@given(MESHES)
def test_every_worker_has_its_place(mesh: Mesh) -> None:
    axes = tuple(mesh.axes)
    assert [mesh.index(rank, axes) for rank in range(mesh.size)] == list(range(mesh.size))
    for axis in axes:
        groups = mesh.groups(axis)
        assert sorted(rank for group in groups for rank in group) == list(range(mesh.size))
        for group in groups:
            assert [mesh.index(rank, (axis,)) for rank in group] == list(range(mesh.axes[axis]))
            others = {tuple(i for a, i in mesh.coordinates(rank).items() if a != axis) for rank in group}
            assert len(others) == 1


@given(MESHES)
def test_text_reads_back(mesh: Mesh) -> None:
    again = eval(repr(mesh), {"Mesh": Mesh})
    assert again == mesh
    assert hash(again) == hash(mesh)


def test_the_order_of_axes_counts() -> None:
    assert Mesh(dp=2, tp=2) != Mesh(tp=2, dp=2)
    assert Mesh(tp=2) != "Mesh(tp=2)"


def test_a_number_is_a_mesh_of_tp() -> None:
    assert Mesh.of(2) == Mesh(tp=2)
    mesh = Mesh(dp=3)
    assert Mesh.of(mesh) is mesh


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        (lambda: Mesh(), "Mesh(): a mesh needs at least one axis. Write Mesh(tp=2), or pass mesh=2 to shard()."),
        (lambda: Mesh(tp=0), "Mesh: axis 'tp' has size 0. An axis size is a whole number of workers, 1 or more."),
        (lambda: Mesh(tp=True), "Mesh: axis 'tp' has size True. An axis size is a whole number of workers, 1 or more."),
        (lambda: Mesh(tp=1.5), "Mesh: axis 'tp' has size 1.5. An axis size is a whole number of workers, 1 or more."),
        (lambda: Mesh(tp=2).coordinates(2), "Mesh(tp=2): there is no worker 2. Workers are 0 to 1."),
        (lambda: Mesh(tp=2).coordinates(-1), "Mesh(tp=2): there is no worker -1. Workers are 0 to 1."),
        (lambda: Mesh(tp=2).axis_size("dp"), "Mesh(tp=2): there is no mesh axis 'dp'. Its axes are 'tp'."),
        (lambda: Mesh(a=2, b=1).index(0, ("c",)), "Mesh(a=2, b=1): there is no mesh axis 'c'. Its axes are 'a', 'b'."),
        (lambda: Mesh(tp=2).groups("dp"), "Mesh(tp=2): there is no mesh axis 'dp'. Its axes are 'tp'."),
    ],
)
def test_errors(wrong, text: str) -> None:
    with pytest.raises(ShardingError) as error:
        wrong()
    assert str(error.value) == text


def test_axes_may_name_what_they_run_over():
    mesh = Mesh(dp=2, tp=4, links={"dp": "network"})
    assert mesh.links == {"dp": "network"} and mesh.axes == {"dp": 2, "tp": 4}
    assert str(mesh) == "Mesh(dp=2, tp=4, links={'dp': 'network'})"
    assert mesh == Mesh(dp=2, tp=4, links={"dp": "network"}) != Mesh(dp=2, tp=4)
    assert Mesh(dp=2, tp=4).links == {}


@pytest.mark.parametrize(
    ("links", "message"),
    [
        ({"pp": "network"}, r"links names 'pp', which is no axis\. Its axes are 'dp', 'tp'"),
        ({"dp": ""}, r"the link of axis 'dp' is ''\. A link has a name"),
        ({"dp": 3}, r"the link of axis 'dp' is 3\. A link has a name"),
        (2, r"links is 2\. It maps axes to links.*No axis can have that name"),
    ],
)
def test_links_that_mean_nothing(links, message):
    with pytest.raises(ShardingError, match=f"Mesh: {message}"):
        Mesh(dp=2, tp=4, links=links)
