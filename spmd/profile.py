"""Hardware profiles: the numbers behind predicted times, as data."""

from __future__ import annotations

from dataclasses import dataclass

from .errors import ShardingError


@dataclass(frozen=True)
class Profile:
    """One worker and its link to the others. Rates are per second, latencies in seconds."""

    name: str
    flops: float
    """Multiply-adds count two; at the precision that the hardware is fastest in for 16-bit matrix products."""
    memory_bandwidth: float
    """Bytes per second between a worker and its memory."""
    link_bandwidth: float
    """Bytes per second that a worker sends to others."""
    link_latency: float
    """Of one collective."""
    kernel_latency: float = 0.0
    """Of one operator."""


_PROFILES = {
    p.name: p
    for p in (
        # Of no vendor: a large accelerator with a fast link.
        Profile("generic", 300e12, 2e12, 300e9, 5e-6),
        # Vendors' data sheets; latencies of a small all-reduce as published.
        Profile("rtx-4090", 165e12, 1008e9, 25e9, 20e-6, 3e-6),
        Profile("rx-7900-xtx", 123e12, 960e9, 25e9, 25e-6, 4e-6),
        Profile("a10g", 70e12, 600e9, 12e9, 20e-6, 3e-6),
        Profile("a100-pcie", 312e12, 1935e9, 25e9, 20e-6, 3e-6),
        Profile("h100", 989e12, 3350e9, 450e9, 12e-6, 2e-6),
        Profile("h200", 989e12, 4800e9, 450e9, 12e-6, 2e-6),
        Profile("mi300x", 1307e12, 5300e9, 448e9, 15e-6, 3e-6),
        # One of a few simulated workers on a small CPU: threads that share its memory.
        Profile("cpu", 50e9, 10e9, 4e9, 40e-6, 2e-6),
    )
}


def profile_of(profile: Profile | str) -> Profile:
    """`profile` itself, or the known one of that name."""
    if isinstance(profile, Profile):
        return profile
    if profile not in _PROFILES:
        raise ShardingError(
            "profile", f"there is no hardware profile {profile!r}", f"Known: {', '.join(_PROFILES)}; or pass a spmd.Profile."
        )
    return _PROFILES[profile]
