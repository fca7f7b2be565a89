"""Hardware profiles."""

import dataclasses
import json

import pytest

from spmd import Link, Profile, ShardingError
from spmd.costs.profile import profile_of


def test_a_profile_stands_for_itself_and_a_name_for_a_known_one():
    mine = Profile("mine", 1e12, 1e11, 1e10, 1e-6)
    assert profile_of(mine) is mine
    assert profile_of("h100").name == "h100" and mine.kernel_latency == 0


NAMES = ["generic", "rtx-4090", "rx-7900-xtx", "a10g", "a100-pcie-40", "a100-pcie", "a100-sxm", "h100", "h200", "mi300x", "cpu"]


@pytest.mark.parametrize("name", NAMES)
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


@pytest.mark.parametrize("name", NAMES)
def test_every_profile_says_where_its_numbers_come_from_and_is_whole(name):
    p = profile_of(name)
    assert p.source and (".com/" in p.source or ".org/" in p.source or name in ("generic", "cpu")) and "network" in p.links
    assert (p.memory is None) == (name in ("generic", "cpu"))
    assert p.links["network"].bandwidth <= p.link_bandwidth and p.links["network"].latency >= p.link_latency
    assert all(rate > 0 for rate in p.rates.values()) and p.rate("float64") <= p.rate("float32") <= p.flops


def test_rates_by_dtype():
    p = profile_of("h100")
    assert p.rate("float16") == p.rate("bfloat16") == p.flops == 989e12
    assert p.rate("float8_e4m3fn") == p.rate("float8_e5m2") == p.rate("int8") == 1979e12
    assert p.rate("float32") == 66.9e12
    assert profile_of("generic").rate("float32") == 300e12


def test_links_by_name():
    p = profile_of("h100")
    assert p.link() == p.link("nvlink") == Link(450e9, 6e-6, 0.6e-6) and p.link("network") == Link(50e9, 25e-6, 5e-6)
    any_link = Profile("any", 1e12, 1e11, 1e10, 1e-6, links={"*": Link(1e9, 1e-5)})
    assert any_link.link("whatever") == Link(1e9, 1e-5)
    with pytest.raises(ShardingError, match=r"profile 'one': there is no link 'network', which the mesh runs over\. It has one link"):
        Profile("one", 1e12, 1e11, 1e10, 1e-6).link("network")


@pytest.mark.parametrize("name", NAMES)
def test_profiles_are_saved_and_loaded(name, tmp_path):
    path = tmp_path / "profile.json"
    profile_of(name).save(path)
    assert Profile.load(path) == profile_of(name)


GOOD = {"name": "mine", "flops": 1e12, "memory_bandwidth": 1e11, "link_bandwidth": 1e10, "link_latency": 1e-6}


def test_a_file_written_by_hand_needs_the_first_fields_only():
    text = json.dumps({**GOOD, "links": {"ib": {"bandwidth": 2, "latency": 0}, "nvlink": {"bandwidth": 3, "latency": 1, "hop": 4}}})
    links = {"ib": Link(2, 0), "nvlink": Link(3, 1, 4)}
    assert Profile.from_json(text) == Profile("mine", 1e12, 1e11, 1e10, 1e-6, links=links)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"flop": 1}, r"there is no field 'flop'\. Did you mean 'flops'"),
        ({"flops": None}, r"flops is None\. It is a number above 0"),
        ({"flops": -1.0}, r"flops is -1\.0\. It is a number above 0"),
        ({"link_latency": "5us"}, r"link_latency is '5us'\. It is a number of seconds, 0 or more"),
        ({"efficiency": 0}, r"efficiency is 0\. It is a number above 0"),
        ({"ramp": -1}, r"ramp is -1\. It is a number of seconds, 0 or more"),
        (
            {"links": {"ib": {"bandwidth": 1, "latency": 1, "hop": "2"}}},
            r"links\['ib'\]\.hop is '2'\. It is a number of seconds, 0 or more",
        ),
        ({"memory": 0}, r"memory is 0\. It is a number above 0"),
        ({"rates": {"float32": "fast"}}, r"rates\['float32'\] is 'fast'"),
        ({"links": {"ib": 3}}, r"links\['ib'\]\.bandwidth is None"),
        ({"links": [1]}, r"links is \[1\]\. It is an object"),
        ({"name": 3}, r"name is 3\. It is a text"),
    ],
)
def test_a_bad_file_is_refused(change, message):
    with pytest.raises(ShardingError, match=f"Profile.from_json: {message}"):
        Profile.from_json(json.dumps({**GOOD, **change}))


def test_what_is_no_profile_is_refused():
    with pytest.raises(ShardingError, match=r"this is no JSON \(Expecting value"):
        Profile.from_json("h100")
    with pytest.raises(ShardingError, match=r"this is no JSON object\. Its fields are name, flops, "):
        Profile.from_json("[]")
    with pytest.raises(ShardingError, match=r"the field 'link_latency' is missing\. Needed are name, flops, memory_band"):
        Profile.from_json(json.dumps({k: v for k, v in GOOD.items() if k != "link_latency"}))
