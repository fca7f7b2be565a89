"""What a profile says: rates per second, latencies in seconds, sizes in bytes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, cast

from spmd import checks
from spmd.checks import door
from spmd.errors import ShardingError, nearest

_SECONDS = ("link_latency", "kernel_latency", "link_hop", "ramp")
_VECTOR = 16
"""How much faster matrix units are than vector units, where a profile has no rate of float32."""


@dataclass(frozen=True)
class Link:
    """What connects the workers along a mesh axis."""

    bandwidth: float
    """Bytes per second that a worker sends to others."""
    latency: float
    """The seconds that one collective of two workers takes whatever its size."""
    hop: float = 0.0
    """The seconds of each step that more workers add: around a ring within a host, on a tree between hosts; twice in an all-reduce."""

    def __post_init__(self) -> None:
        _check_rates("Link", self, ("bandwidth",), ("latency", "hop"))


@dataclass(frozen=True)
class Profile:
    """One worker and its links to the others. Rates are per second, latencies in seconds."""

    name: str
    flops: float
    """Multiply-adds count two; at the precision that the hardware is fastest in for 16-bit matrix products."""
    memory_bandwidth: float
    """Bytes per second between a worker and its memory."""
    link_bandwidth: float
    """Bytes per second that a worker sends to others, along mesh axes that name no link."""
    link_latency: float
    """The seconds that one collective along these axes takes whatever its size."""
    kernel_latency: float = 0.0
    """The seconds that starting one kernel takes."""
    memory: float | None = None
    """Bytes of memory of one worker: the budget of plans, where they are given none. None is no limit."""
    rates: Mapping[str, float] = field(default_factory=dict[str, float], hash=False)
    """dtype of a matrix product -> flops, where they differ from `flops`; ``"float8"`` stands for all of its kind."""
    links: Mapping[str, Link] = field(default_factory=dict[str, Link], hash=False)
    """Links by the names that a mesh gives them (``Mesh(dp=2, tp=4, links={"dp": "network"})``); ``"*"`` stands for any name."""
    source: str = ""
    """Where the numbers come from."""
    link_hop: float = 0.0
    """`Link.hop` along mesh axes that name no link."""
    efficiency: float = 1.0
    """The share of `memory_bandwidth` that large kernels reach."""
    ramp: float = 0.0
    """Seconds until a kernel has enough bytes in flight to do so; it moves half as many meanwhile."""

    def __post_init__(self) -> None:
        where = "Profile"
        _check_rates(where, self, ("flops", "memory_bandwidth", "link_bandwidth", "efficiency"), _SECONDS)
        checks.text(f"{where}, name", self.name)
        checks.maybe(checks.number(above=True))(f"{where}, memory", self.memory)
        checks.mapping("dtypes to rates", 'rates={"float32": 1e12}', checks.number(above=True))(f"{where}, rates", self.rates)
        links = checks.mapping("names to links", 'links={"network": spmd.Link(25e9, 20e-6)}', checks.instance(Link))
        links(f"{where}, links", self.links)

    @property
    def reached_bandwidth(self) -> float:
        """Bytes per second of a large kernel."""
        return self.memory_bandwidth * self.efficiency

    @property
    def vector_rate(self) -> float:
        """Arithmetic per second outside of matrix products."""
        return self.rates.get("float32") or self.flops / _VECTOR

    def rate(self, dtype: str) -> float:
        """Arithmetic per second on matrices of a dtype; that of none in particular where it is empty."""
        checks.instance(str)("Profile.rate(), dtype", dtype)
        return self.rates.get(dtype) or self.rates.get(dtype.partition("_")[0]) or self.flops

    def link(self, name: str = "") -> Link:
        """The link of this name; without one, that of axes that name none."""
        checks.instance(str)("Profile.link(), name", name)
        if not name:
            return Link(self.link_bandwidth, self.link_latency, self.link_hop)
        found = self.links.get(name) or self.links.get("*")
        if found is None:
            known = f"It has {', '.join(map(repr, self.links))}" if self.links else "It has one link, which needs no name"
            added = f'{{**profile.links, "{name}": spmd.Link(bandwidth, latency)}}'
            way_out = f"{known}; add one with dataclasses.replace(profile, links={added})."
            raise ShardingError(f"profile {self.name!r}", f"there is no link {name!r}, which the mesh runs over", way_out)
        return found

    def to_json(self) -> str:
        """The profile as JSON text."""
        return json.dumps(asdict(self), indent=1)

    @classmethod
    @door(text=checks.text)
    def from_json(cls, text: str) -> Profile:
        """Read back `to_json`; fields that are left out have their defaults."""
        try:
            raw: Any = json.loads(text)
        except ValueError as error:
            raise ShardingError("Profile.from_json", f"this is no JSON ({error})", "Write profiles with Profile.save.") from error
        known = [f.name for f in fields(cls)]
        if not isinstance(raw, dict):
            raise ShardingError("Profile.from_json", "this is no JSON object", f"Its fields are {', '.join(known)}.")
        given = dict(cast("dict[str, Any]", raw))
        for name in given:
            if name not in known:
                raise ShardingError("Profile.from_json", f"there is no field {name!r}", nearest(name, known))
        for name in known[:5]:
            if name not in given:
                raise ShardingError("Profile.from_json", f"the field {name!r} is missing", f"Needed are {', '.join(known[:5])}.")
        for name in ("flops", "memory_bandwidth", "link_bandwidth", "memory", "efficiency", *_SECONDS):
            if name in given and not (name == "memory" and given[name] is None):
                _check_number(name, given[name], name in _SECONDS)
        for name, kind, what in (
            ("name", str, "a text"),
            ("source", str, "a text"),
            ("rates", dict, "an object"),
            ("links", dict, "an object"),
        ):
            if name in given and not isinstance(given[name], kind):
                raise ShardingError("Profile.from_json", f"{name} is {given[name]!r}", f"It is {what}.")
        for dtype, rate in given.get("rates", {}).items():
            _check_number(f"rates[{dtype!r}]", rate)
        given["links"] = {name: _link(name, link) for name, link in given.get("links", {}).items()}
        return cls(**given)

    @door(path=checks.path)
    def save(self, path: str | Path) -> None:
        """Write the profile to a file as JSON."""
        Path(path).write_text(self.to_json() + "\n")

    @classmethod
    @door(path=checks.path)
    def load(cls, path: str | Path) -> Profile:
        """Read a profile from a file."""
        return cls.from_json(checks.read("Profile.load", path))


def _check_rates(where: str, given: Any, above: Sequence[str], least: Sequence[str]) -> None:
    """Raise `ShardingError` unless these are numbers: rates above 0, latencies of 0 or more."""
    for names, check in ((above, checks.number(above=True)), (least, checks.number())):
        for name in names:
            check(f"{where}, {name}", getattr(given, name))


def _link(name: str, raw: Any) -> Link:
    given = cast("dict[str, Any]", raw) if isinstance(raw, dict) else {}
    for part in ("bandwidth", "latency"):
        _check_number(f"links[{name!r}].{part}", given.get(part), part == "latency")
    hop = given.get("hop", 0.0)
    _check_number(f"links[{name!r}].hop", hop, is_time=True)
    return Link(given["bandwidth"], given["latency"], hop)


def _check_number(name: str, value: object, is_time: bool = False) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or value < 0 or (value == 0 and not is_time):
        wanted = "a number of seconds, 0 or more" if is_time else "a number above 0"
        raise ShardingError("Profile.from_json", f"{name} is {value!r}", f"It is {wanted}.")
