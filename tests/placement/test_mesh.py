import pytest
from hypothesis import given
from hypothesis import strategies as st

from spmd.errors import ShardingError
from spmd.placement.mesh import Mesh

AXES = st.dictionaries(st.sampled_from(["dp", "tp", "pp", "ep"]), st.integers(1, 4), min_size=1)
MESHES = AXES.map(lambda axes: Mesh(**axes))


@st.composite
def machines(draw: st.DrawFn) -> Mesh:
    """Workers on several hosts, in any order of devices."""
    axes = draw(AXES)
    size = Mesh(**axes).size
    hosts = draw(st.sampled_from([n for n in range(1, size + 1) if size % n == 0]))
    return Mesh(**axes, hosts=hosts, devices=draw(st.none() | st.permutations(range(size))))


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


@given(machines())
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


def test_workers_stand_on_hosts_in_order_of_rank():
    mesh = Mesh(dp=2, tp=4, hosts=2)
    assert [mesh.host(rank) for rank in range(8)] == [0, 0, 0, 0, 1, 1, 1, 1]
    assert mesh.devices == tuple(range(8)) and mesh.hosts == 2
    assert [mesh.crosses_hosts(a) for a in ("dp", "tp", "dp+tp", "tp+dp")] == [True, False, True, True]
    assert not Mesh(dp=2, tp=4).crosses_hosts("dp")
    assert str(mesh) == "Mesh(dp=2, tp=4, hosts=2)" and str(Mesh(dp=2, tp=4, hosts=1)) == "Mesh(dp=2, tp=4)"


def test_a_part_of_an_axis_may_stay_within_a_host():
    mesh = Mesh(tp=8, hosts=2)
    crossing = {part: mesh.crosses_hosts(part) for part in ("tp", "tp(1)2", "tp(1)4", "tp(2)4", "tp(2)2", "tp(4)2")}
    assert crossing == {"tp": True, "tp(1)2": True, "tp(1)4": True, "tp(2)4": False, "tp(2)2": False, "tp(4)2": False}


def test_the_order_of_devices_decides_the_host():
    turned = Mesh(dp=2, tp=4, hosts=2, devices=[0, 4, 1, 5, 2, 6, 3, 7])
    assert [turned.host(rank) for rank in range(8)] == [0, 1, 0, 1, 0, 1, 0, 1]
    assert turned.crosses_hosts("tp") and turned.crosses_hosts("tp(2)2") and not turned.crosses_hosts("dp")
    assert not turned.crosses_hosts("tp(1)2")
    assert str(turned) == "Mesh(dp=2, tp=4, hosts=2, devices=[0, 4, 1, 5, 2, 6, 3, 7])"
    assert turned != Mesh(dp=2, tp=4, hosts=2) != Mesh(dp=2, tp=4)


def test_a_mesh_may_use_some_of_the_devices_of_its_hosts():
    assert [Mesh(tp=4, hosts=2, devices=[8, 0, 9, 1]).host(rank) for rank in range(4)] == [1, 0, 1, 0]
    assert Mesh(tp=2, devices=(6, 7)).devices == (6, 7) and Mesh(tp=2, devices=(6, 7)).host(1) == 0


@given(machines())
def test_an_axis_crosses_hosts_where_two_of_its_workers_stand_apart(mesh: Mesh):
    assert sorted(mesh.host(rank) for rank in range(mesh.size)) == sorted(list(range(mesh.hosts)) * (mesh.size // mesh.hosts))
    for axis in mesh.axes:
        assert mesh.crosses_hosts(axis) == any(mesh.host(g[0]) != mesh.host(rank) for g in mesh.groups(axis) for rank in g)
    assert mesh.crosses_hosts("+".join(mesh.axes)) == any(map(mesh.crosses_hosts, mesh.axes)) == (mesh.hosts > 1)


def test_what_crosses_hosts_runs_over_the_network_but_for_links_of_its_own():
    mesh = Mesh(dp=2, tp=8, hosts=4)
    assert [mesh.link(a) for a in ("dp", "tp", "tp(1)2", "tp(2)4")] == ["network", "network", "network", ""]
    named = Mesh(dp=2, tp=8, hosts=4, links={"tp": "fabric"})
    assert [named.link(a) for a in ("dp", "tp", "tp(2)4")] == ["network", "fabric", "fabric"]
    assert [named.is_slow(a) for a in ("dp", "tp", "tp(2)4")] == [True, True, False]
    assert Mesh(dp=2, tp=4, links={"dp": "network"}).is_slow("dp") and not Mesh(dp=2, tp=4, links={"dp": "nvlink"}).is_slow("dp")


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"hosts": 3}, r"8 workers cannot stand on 3 hosts, as many on each\. The number of hosts divides"),
        ({"hosts": 0}, r"8 workers cannot stand on 0 hosts"),
        ({"hosts": True}, r"8 workers cannot stand on True hosts"),
        ({"devices": [0, 1, 2]}, r"devices is \[0, 1, 2\]\. It has a device for each of 8 workers"),
        ({"devices": [0, 1, 2, 3, 4, 5, 6, 6]}, r"devices is \[0, 1, 2, 3, 4, 5, 6, 6\]\. .* no two the same"),
        ({"devices": [0, 1, 2, 3, 4, 5, 6, -1]}, r"devices is .*-1\]\. .* numbers from 0 on"),
        ({"devices": 8}, r"devices is 8\."),
    ],
)
def test_hosts_and_devices_that_cannot_be(said, message):
    with pytest.raises(ShardingError, match=f"Mesh: {message}"):
        Mesh(dp=2, tp=4, **said)
