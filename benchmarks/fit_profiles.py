"""Fits the few numbers of hardware profiles that data sheets do not have to published decode speeds, and validates them across points.

    python -m benchmarks.fit_profiles

For each family of GPUs these are the seconds to start a kernel and the share of the memory's bandwidth that is reached, and for PCIe the
seconds of a collective and of each further step. The time of a token is nearly linear in them; the slopes come from plans of 2 and 4
layers. What is minimized is the squared relative error of the points marked `fit`, and the distance from what is expected of the hardware.
Then each point is predicted by a fit to the others, and each family by a fit without it: its own numbers are then what was expected.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import mean

import numpy as np

import spmd
from benchmarks.backtest import METHODS, POINTS, SIZES, Point, module, read
from examples.llm.config import LlamaConfig
from examples.llm.report import table
from spmd.costs.profile import profile_of

FAMILIES = {"rtx-4090": "ada", "rx-7900-xtx": "rdna3", "a10g": "ampere", "a100-sxm": "ampere", "a100-pcie": "ampere"}
EXPECTED = {
    "ampere kernel": (4e-6, 1.0),
    "ampere share": (0.80, 0.3),
    "ada kernel": (2.5e-6, 0.4),
    "ada share": (0.92, 0.1),
    "rdna3 kernel": (3.5e-6, 0.6),
    "rdna3 share": (0.85, 0.2),
    "pcie collective": (30e-6, 2.0),
    "pcie step": (1e-6, 2.0),
}
"""What is expected of each number, and how far it may be from that, as a logarithm: bandwidths are well known, latencies are not."""
STEP = 0.05
Numbers = Mapping[str, float]


@dataclass(frozen=True)
class Line:
    """The time of a token at a point, and how it grows with each number."""

    point: Point
    at: float
    slopes: Numbers
    """By name, seconds for a number, or the inverse of a share, that is twice as large."""

    def seconds(self, numbers: Numbers, shipped: Numbers) -> float:
        """The time under other numbers than those that are shipped; it is linear in seconds and in the inverse of the share."""
        return self.at + sum(
            slope * (_linear(name, numbers[name]) / _linear(name, shipped[name]) - 1) for name, slope in self.slopes.items()
        )


def _linear(name: str, number: float) -> float:
    return 1 / number if name.endswith("share") else number


def shipped() -> dict[str, float]:
    """The numbers of the profiles as they are."""
    found = {}
    for profile, family in FAMILIES.items():
        found[f"{family} kernel"], found[f"{family} share"] = profile_of(profile).kernel_latency, profile_of(profile).efficiency
    pcie = profile_of("a100-pcie").link("pcie")
    return {**found, "pcie collective": pcie.latency, "pcie step": pcie.hop}


def changed(profile: spmd.Profile, what: str, by: float) -> spmd.Profile:
    """A profile with one of its numbers so many times as large."""
    if what == "kernel":
        return replace(profile, kernel_latency=profile.kernel_latency * by)
    if what == "share":
        return replace(profile, efficiency=profile.efficiency / by)
    field = {"collective": "latency", "step": "hop"}[what]
    return replace(profile, links={n: replace(link, **{field: getattr(link, field) * by}) for n, link in profile.links.items()})


def token(point: Point, profile: spmd.Profile) -> float:
    """Seconds of a token, from those of 2 and of 4 layers."""
    two, four = (
        sum(spmd.plan(module(point.model, point.form, n), point.mesh, profile=profile, sizes=SIZES).predicted[f] for f in METHODS[:2])
        for n in (2, 4)
    )
    return two + (LlamaConfig.preset(point.model).num_hidden_layers - 2) * (four - two) / 2


def line(point: Point) -> Line:
    """The time of a point around the profile that is shipped."""
    profile = profile_of(point.profile)
    names = [f"{FAMILIES[point.profile]} kernel", f"{FAMILIES[point.profile]} share"]
    names += ["pcie collective", "pcie step"] if "PCIe" in point.link else []
    at = token(point, profile)
    return Line(point, at, {name: (token(point, changed(profile, name.split()[1], 1 + STEP)) - at) / STEP for name in names})


def fitted(lines: Sequence[Line]) -> dict[str, float]:
    """The numbers of least error, by Gauss and Newton on logarithms."""
    start, names = shipped(), list(EXPECTED)
    expected = np.log([EXPECTED[name][0] for name in names])
    widths = np.array([EXPECTED[name][1] for name in names])

    def errors(logs: np.ndarray) -> np.ndarray:
        numbers = dict(zip(names, np.exp(logs), strict=True))
        found = [math.log(one.seconds(numbers, start) * one.point.tokens_per_s) for one in lines]
        return np.concatenate([np.array(found) / 0.05, (logs - expected) / widths])

    logs = expected
    for _ in range(20):
        now = errors(logs)
        slopes = np.stack([(errors(logs + 1e-6 * unit) - now) / 1e-6 for unit in np.eye(len(names))], axis=1)
        logs = logs - np.linalg.lstsq(slopes, now, rcond=None)[0]
    return dict(zip(names, map(float, np.exp(logs)), strict=True))


def error(one: Line, numbers: Numbers) -> float:
    """How far a predicted speed is from the published one, in its units."""
    return abs(1 / (one.seconds(numbers, shipped()) * one.point.tokens_per_s) - 1)


def main() -> None:
    """Print the numbers and the errors."""
    lines = [line(point) for point in read(POINTS) if point.is_fit]
    numbers = fitted(lines)
    rows = [(name, f"{EXPECTED[name][0]:.3g}", f"{numbers[name]:.3g}", f"{shipped()[name]:.3g}") for name in EXPECTED]
    print(table(("number", "expected", "fitted", "shipped"), rows) + "\n")
    print(f"mean error: fitted {mean(error(one, numbers) for one in lines):.1%}, ", end="")
    print(f"shipped {mean(error(one, shipped()) for one in lines):.1%}, ", end="")
    alone = [error(one, fitted([other for other in lines if other is not one])) for one in lines]
    print(f"each point by a fit to the others {mean(alone):.1%}, at most {max(alone):.1%}")
    for what, of in (("family", lambda p: FAMILIES[p.profile]), ("GPU", lambda p: p.gpu), ("source", lambda p: p.source)):
        for name in dict.fromkeys(of(one.point) for one in lines):
            rest, left = ([one for one in lines if (of(one.point) == name) == is_left] for is_left in (False, True))
            if rest:
                print(f"{what} {name} by a fit without it: {mean(error(one, fitted(rest)) for one in left):.1%}")


if __name__ == "__main__":
    main()
