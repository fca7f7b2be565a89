"""A backend that is not of this repository: registered by one call, by class or by name, and used like any other."""

from collections.abc import Iterator

import numpy as np
import pytest

import spmd
from spmd import P, ShardingError
from spmd.collectives import Backend, Communicator, backend, make_backend, register_backend
from spmd.collectives.threads import ThreadBackend, ThreadCommunicator
from spmd.placement.mesh import Mesh
from spmd.testing import difference
from tests.lower.test_bundles import SPLIT, Products
from tests.programs import Mlp

COLUMNS = {"w1": P(None, "tp"), "w2": P("tp", None)}


class Counting(ThreadCommunicator):
    """Threads that count the bytes of their sums."""

    def all_reduce(self, x, axis, kind, value, out):
        self._backend.summed[self.rank] = self._backend.summed.get(self.rank, 0) + 4 * int(np.prod(x.shape))
        super().all_reduce(x, axis, kind, value, out)


class CountingBackend(ThreadBackend):
    def __init__(self, mesh: Mesh, timeout: float) -> None:
        super().__init__(mesh, timeout)
        self.summed: dict[int, int] = {}

    def communicator(self, rank: int) -> Communicator:
        return Counting(self, rank)


@pytest.fixture(autouse=True)
def _registered(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(backend, "_FACTORIES", dict(backend._FACTORIES))


def run(program, **options):
    arrays = [np.random.default_rng(0).standard_normal(shape, np.float32) for shape in ((4, 16), (16, 32), (32, 16))]
    with spmd.workers(program, **options) as w:
        return w["main"](*arrays), w


@pytest.mark.parametrize("factory", [CountingBackend, f"{__name__}:CountingBackend"], ids=["class", "text"])
def test_a_program_runs_on_it(factory):
    register_backend("counting", factory)
    sharded = spmd.shard(Mlp, 2, COLUMNS)
    found, w = run(sharded, backend="counting")
    assert type(w.backend).__name__ == "CountingBackend" and isinstance(w.backend, Backend)
    assert w.backend.summed == {0: 256, 1: 256} and sum(c.bytes for c in sharded.plan.collectives) == 256
    assert not difference(run(Mlp)[0], found)


def test_its_own_operation_is_done_to_each_tensor_of_a_bundle():
    register_backend("counting", CountingBackend)
    sharded = spmd.shard(Products, 2, SPLIT)
    assert [c.bundle for c in sharded.plan.collectives] == [1, 1]
    arrays = [np.random.default_rng(0).standard_normal(shape, np.float32) for shape in ((8, 16), (16, 12), (16, 6))]
    with spmd.workers(sharded, backend="counting") as w, spmd.workers(Products) as whole:
        assert not difference(whole["main"](*arrays), w["main"](*arrays))
        assert w.backend.summed == {rank: sum(c.bytes for c in sharded.plan.collectives) for rank in range(2)}


def test_a_later_registration_replaces_an_earlier_one():
    register_backend("counting", ThreadBackend)
    register_backend("counting", CountingBackend)
    assert isinstance(make_backend("counting", Mesh(tp=2), 1.0), CountingBackend)


def test_a_name_that_nobody_registered():
    register_backend("counting", CountingBackend)
    with pytest.raises(ShardingError, match=r"no backend 'gloo'\. Known are 'threads',.* 'counting'; spmd\.collectives\.register_backend"):
        spmd.workers(Mlp, backend="gloo")
