"""DTensor's placements as specs, and shardings as placements."""

import sys
from dataclasses import dataclass
from types import SimpleNamespace

import pytest

from spmd import Mesh, P, Sharding, ShardingError
from spmd.annotate.importers import from_dtensor, to_dtensor


@dataclass
class Shard:
    dim: int


class Replicate:
    pass


class Partial:
    def __repr__(self):
        return "Partial(sum)"


@pytest.mark.parametrize(
    ("placements", "spec"),
    [
        ([Replicate(), Shard(1)], P(None, "tp", others=None)),
        ([Shard(0), Shard(0)], P(("dp", "tp"), others=None)),
        ([Shard(1), Shard(0)], P("tp", "dp", others=None)),
        ([Replicate(), Replicate()], P(others=None)),
    ],
)
def test_placements(placements, spec):
    assert from_dtensor({"w": placements}, ["dp", "tp"]) == {"w": spec}
    tensor = SimpleNamespace(placements=placements, device_mesh=SimpleNamespace(mesh_dim_names=("dp", "tp")))
    assert from_dtensor({"w": tensor}) == {"w": spec}


@pytest.mark.parametrize(
    ("given", "axes", "message"),
    [
        ([Partial()], ["tp"], r"from_dtensor: 'w': Partial\(sum\) is no spec"),
        ([Shard(-1)], ["tp"], r"Shard\(dim=-1\) is no spec"),
        ([Shard(0)], ["dp", "tp"], "it has 1 placements for the axes dp, tp"),
        ([Shard(0)], None, "nothing says how the axes of its mesh are called"),
        (3, ["tp"], "its placements are int 3"),
    ],
)
def test_what_no_spec_says(given, axes, message):
    with pytest.raises(ShardingError, match=message):
        from_dtensor({"w": given}, axes)


def test_back_again():
    tensor = pytest.importorskip("torch.distributed.tensor")
    mesh = Mesh(dp=2, tp=2)
    for placements in ([tensor.Shard(0), tensor.Shard(0)], [tensor.Replicate(), tensor.Shard(1)], [tensor.Shard(1), tensor.Replicate()]):
        spec = from_dtensor({"w": placements}, ["dp", "tp"])["w"]
        sharding = Sharding(spec.constraint((8, 8), mesh, "w").dims)
        assert to_dtensor(sharding, mesh) == placements
    assert to_dtensor(Sharding.parse("[-, -] sum@tp", (8, 8)), mesh) == [tensor.Replicate(), tensor.Partial("sum")]
    for text in ("[tp+dp, -]", "[tp:4|4, -]"):
        with pytest.raises(ShardingError, match="to_dtensor: DTensor cannot say"):
            to_dtensor(Sharding.parse(text, (8, 8)), mesh)


def test_placements_need_pytorch(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.distributed.tensor", None)
    with pytest.raises(ShardingError, match=r"to_dtensor: PyTorch is not installed. pip install torch"):
        to_dtensor(Sharding.parse("[tp]", (8,)), Mesh(tp=2))
