"""A profile of this machine. No number of it is asserted, only that it is one that plans can be made with."""

import pytest

import spmd
from spmd import Profile, ShardingError
from tests.programs import Mlp


def test_what_is_measured_is_a_profile_that_can_be_saved(tmp_path):
    found = spmd.measure(2, seconds=0.5, name="here")
    assert found.name == "here" and found.source.startswith("spmd.measure() with 2 workers on ")
    numbers = [found.flops, found.memory_bandwidth, found.link_bandwidth, found.link_latency, found.kernel_latency, *found.rates.values()]
    assert all(number > 0 for number in numbers)
    assert set(found.rates) == {"float64", "float16"} and found.rate("float32") == found.flops
    found.save(tmp_path / "here.json")
    assert Profile.load(tmp_path / "here.json") == found
    assert spmd.plan(Mlp, 2, profile=found).profile == "here"


@pytest.mark.parametrize(("workers", "seconds"), [(1, 1.0), (2, 0.0)])
def test_what_cannot_be_measured(workers, seconds):
    with pytest.raises(ShardingError, match=rf"measure: {workers} workers for {seconds:g} seconds\. A link needs two workers"):
        spmd.measure(workers, seconds=seconds)
