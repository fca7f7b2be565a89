"""Predicted times over numbers of workers, as a table and as a plot."""

import itertools
from xml.etree import ElementTree

import pytest
from tvm.relax.frontend import nn

import spmd
from spmd import Mesh, P
from tests.programs import Mlp

SVG = "{http://www.w3.org/2000/svg}"


class Large(nn.Module):
    """Its products pay for a collective on some workers, not on any number."""

    def __init__(self):
        self.up, self.down = nn.Linear(1024, 4096, bias=False), nn.Linear(4096, 1024, bias=False)

    def forward(self, x: nn.Tensor) -> nn.Tensor:
        return self.down(nn.op.silu(self.up(x)))


@pytest.fixture(scope="module")
def mod():
    return Large().export_tvm({"forward": {"x": nn.spec.Tensor(["batch", 1024], "float32")}})[0]


@pytest.fixture(scope="module")
def found(mod):
    return spmd.scaling(mod)


def test_one_to_sixty_four_workers_by_default(mod, found):
    assert [point.mesh for point in found.points] == [Mesh(tp=1 << i) for i in range(7)] and found.functions == ["forward"]
    for point in found.points[:3]:
        plan = spmd.plan(mod, point.mesh)
        assert point.predicted == plan.predicted and point.memory == plan.memory["forward"].peak


def test_where_the_plan_changes(found):
    first = found.changes[0]
    assert first.mesh == Mesh(tp=2)
    assert first.lines == (
        "up.weight: [-, -] -> [tp, -]",
        "down.weight: [-, -] -> [-, tp]",
        "forward(): no collectives -> 1 all_reduce",
    )
    decided = [point.decided for point in found.points]
    assert {change.mesh.size for change in found.changes} == {
        after.mesh.size for before, after in itertools.pairwise(found.points) if before.decided != after.decided
    }
    assert len(found.changes) < len(decided) - 1, "more workers alone are no change"
    assert "\nfrom Mesh(tp=2) on:\n  up.weight: [-, -] -> [tp, -]\n" in str(found)


def test_the_plot(found, tmp_path):
    found.save(tmp_path / "plot.svg")
    root = ElementTree.parse(tmp_path / "plot.svg").getroot()
    (line,) = [path for path in root.iter(f"{SVG}path") if path.get("class") == "line"]
    dots = [(float(dot.get("cx")), float(dot.get("cy"))) for dot in root.iter(f"{SVG}circle")]
    times = [point.predicted["forward"] for point in found.points]
    assert line.get("d").count("L") == 6 and dots == sorted(dots)
    apart = {round(b[0] - a[0]) for a, b in itertools.pairwise(dots)}
    assert max(apart) - min(apart) <= 1, "twice the workers are as far apart everywhere"
    assert all((a[1] > b[1]) == (s < t) for a, b, s, t in zip(dots, dots[1:], times, times[1:], strict=False) if s != t)
    width, height = float(root.get("width")), float(root.get("height"))
    assert all(0 < x < width and 0 < y < height for x, y in dots)
    marks = [group.find(f"{SVG}title").text for group in root.iter(f"{SVG}g") if group.get("class") == "change"]
    assert marks == ["\n".join(change.lines) for change in found.changes]
    assert found._repr_html_().startswith("<svg") and repr(found) == str(found)


def test_too_little_memory_is_a_point_with_its_problem(mod):
    found = spmd.scaling(mod, [1, 4, Mesh(dp=2, tp=4)], memory=12e6)
    assert "no plan fits into 12.00 MB" in found.points[0].problem
    assert [bool(point.problem) for point in found.points] == [True, False, False]
    assert "Mesh(tp=1): no plan: " in str(found) and 'class="missing"' in found.svg()
    assert ElementTree.fromstring(found.svg()) is not None


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"meshes": []}, r"scaling\(\), meshes: it is empty. Write meshes=\[1, 2, 4\]"),
        ({"meshes": 4}, r"scaling\(\), meshes: it takes a list, and got int 4"),
        ({"meshes": [0]}, r"axis 'tp' has size 0"),
        ({"specs": {"w1": P("dp", None)}, "meshes": [1, 2]}, r"names mesh axis 'dp'"),
        ({"profile": "h200x"}, r"there is no hardware profile 'h200x'"),
        ({"mod": 3}, r"scaling\(\), mod: it takes an IRModule, and got int 3"),
    ],
)
def test_errors(given, message):
    with pytest.raises(spmd.ShardingError, match=message):
        spmd.scaling(**{"mod": Mlp, **given})
