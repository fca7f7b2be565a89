"""Hardware profiles."""

import dataclasses

import pytest

from spmd import Profile, ShardingError
from spmd.profile import profile_of


def test_a_profile_stands_for_itself_and_a_name_for_a_known_one():
    mine = Profile("mine", 1e12, 1e11, 1e10, 1e-6)
    assert profile_of(mine) is mine
    assert profile_of("h100").name == "h100" and mine.kernel_latency == 0


@pytest.mark.parametrize("name", ["generic", "rtx-4090", "rx-7900-xtx", "a10g", "a100-pcie", "h100", "h200", "mi300x", "cpu"])
def test_links_are_slower_than_memory_which_is_slower_than_arithmetic(name):
    p = profile_of(name)
    assert p.flops > p.memory_bandwidth > p.link_bandwidth > 0
    assert 0 < p.link_latency < 1e-3 and 0 <= p.kernel_latency < 1e-3


def test_an_unknown_name_is_refused_with_the_known_ones():
    with pytest.raises(ShardingError, match=r"there is no hardware profile 'h1000'\. Known: generic, .*h100.*; or pass a spmd\.Profile"):
        profile_of("h1000")


def test_a_profile_is_a_value():
    with pytest.raises(dataclasses.FrozenInstanceError):
        profile_of("h100").flops = 1.0
