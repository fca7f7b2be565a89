"""Profiles of hardware that many have: peaks of vendors' data sheets, dense, and what programs reach of them.

What kernels and collectives reach is fitted to published speeds of decoding, with few numbers for a family of GPUs and a kind of link
(`python -m benchmarks.backtest`). "network" is what a worker has for itself of the usual adapter of its host, one direction.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from spmd.errors import ShardingError, nearest

from .model import Link, Profile

_PCIE4, _PCIE5 = Link(24e9, 32e-6, 2.1e-6), Link(48e9, 32e-6, 2.1e-6)
"""16 lanes, one direction, as NCCL counts them; peaks are 32 and 64 GB/s. The seconds are fitted, over PCIe 4."""
_PCIE_OF_GUEST = Link(12e9, 32e-6, 2.1e-6)
_FABRIC = Link(336e9, 15e-6)
_NVLINK_LATENCY, _NVLINK_HOP = 6e-6, 0.6e-6
"""Reductions in one shot take 4 to 12 us, as several peers publish; 0.6 us is a step over NVLink in NCCL's own model (tuning.cc)."""
_NETWORK_HOP = 5e-6
"""A step between hosts in that model."""
_RAMP = 2e-6


class _Family(NamedTuple):
    """What kernels reach on a family of GPUs."""

    kernel_latency: float
    efficiency: float


_AMPERE, _ADA, _RDNA3 = _Family(5e-6, 0.77), _Family(2.5e-6, 0.92), _Family(3.5e-6, 0.84)
_LIKE_AMPERE = _AMPERE
"""The numbers of families of which too little is published: large memory of many channels, as Ampere's."""
_AMPERE_RATES = {"float32": 19.5e12, "float64": 19.5e12, "int8": 624e12}
_HOPPER_RATES = {"float32": 66.9e12, "float64": 66.9e12, "float8": 1979e12, "int8": 1979e12}
_LARGE_HOST = Link(50e9, 25e-6, _NETWORK_HOP)  # one adapter of 400 Gb/s a GPU
_A100 = "www.nvidia.com/content/dam/en-zz/Solutions/Data-Center/a100/pdf/nvidia-a100-datasheet-us-nvidia-1758950-r4-web.pdf"


def _nvlink(bandwidth: float) -> Link:
    return Link(bandwidth, _NVLINK_LATENCY, _NVLINK_HOP)


def _gpu(
    name: str,
    family: _Family,
    flops: float,
    memory_bandwidth: float,
    memory: float,
    rates: Mapping[str, float],
    link: Link,
    links: Mapping[str, Link],
    source: str,
) -> Profile:
    """A row of the table: 16-bit matrix products, memory, the link between workers where a mesh names none, other links."""
    return Profile(
        name, flops, memory_bandwidth, link.bandwidth, link.latency, family.kernel_latency, memory, rates, links, source,
        link.hop, family.efficiency, _RAMP,
    )  # fmt: skip


_PROFILES = {
    p.name: p
    for p in (
        Profile(
            "generic", 300e12, 2e12, 300e9, 5e-6, 2e-6,
            links={"network": Link(25e9, 20e-6), "pcie": Link(24e9, 20e-6), "nvlink": Link(300e9, 5e-6)},
            source="of no vendor: a large accelerator with a fast link, and no limit of memory",
        ),
        _gpu(
            "rtx-4090", _ADA, 165.2e12, 1008e9, 24e9,
            {"float32": 82.6e12, "float64": 1.29e12, "float8": 330.3e12, "int8": 660.6e12},
            _PCIE4, {"pcie": _PCIE4, "network": Link(1.25e9, 40e-6, _NETWORK_HOP)},
            "NVIDIA Ada GPU architecture white paper, GeForce RTX 4090, sums in 32 bits; "
            "as in waredb.com/processor/nvidia-geforce-rtx-4090; PCIe 4.0 x16; 10 Gb/s Ethernet",
        ),
        _gpu(
            "rx-7900-xtx", _RDNA3, 122.8e12, 960e9, 24e9,
            {"float32": 61.4e12, "float64": 1.92e12, "int8": 122.8e12},
            _PCIE4, {"pcie": _PCIE4, "network": Link(1.25e9, 40e-6, _NETWORK_HOP)},
            "AMD Radeon RX 7900 XTX product page; as in en.wikipedia.org/wiki/RDNA_3; PCIe 4.0 x16; 10 Gb/s Ethernet",
        ),
        _gpu(
            "a10g", _AMPERE, 70e12, 600e9, 24e9,
            {"float32": 35e12, "float64": 0.55e12, "int8": 140e12},
            _PCIE_OF_GUEST, {"pcie": _PCIE_OF_GUEST, "network": Link(1.56e9, 40e-6, _NETWORK_HOP)},
            "NVIDIA A10G data sheet, d1.awsstatic.com/product-marketing/ec2/NVIDIA_AWS_A10G_DataSheet_FINAL_02_17_2022.pdf; "
            "PCIe 4.0 x16 by way of the memory of a virtual host; 100 Gb/s among 8 GPUs, as in docs.aws.amazon.com/AWSEC2 (G5)",
        ),
        _gpu(
            "a100-pcie-40", _AMPERE, 312e12, 1555e9, 40e9, _AMPERE_RATES,
            _PCIE4, {"pcie": _PCIE4, "nvlink": _nvlink(300e9), "network": Link(12.5e9, 40e-6, _NETWORK_HOP)},
            f"NVIDIA A100 data sheet, {_A100}; nvlink is the bridge between two cards; 100 Gb/s a GPU",
        ),
        _gpu(
            "a100-pcie", _AMPERE, 312e12, 1935e9, 80e9, _AMPERE_RATES,
            _PCIE4, {"pcie": _PCIE4, "nvlink": _nvlink(300e9), "network": Link(12.5e9, 40e-6, _NETWORK_HOP)},
            f"NVIDIA A100 data sheet, 80GB PCIe, {_A100}; nvlink is the bridge between two cards; 100 Gb/s a GPU",
        ),
        _gpu(
            "a100-sxm", _AMPERE, 312e12, 2039e9, 80e9, _AMPERE_RATES,
            _nvlink(300e9), {"nvlink": _nvlink(300e9), "pcie": _PCIE4, "network": Link(25e9, 25e-6, _NETWORK_HOP)},
            f"NVIDIA A100 data sheet, 80GB SXM, {_A100}: NVLink 600 GB/s, half of it in each direction; 200 Gb/s a GPU",
        ),
        _gpu(
            "h100", _LIKE_AMPERE, 989e12, 3350e9, 80e9, _HOPPER_RATES,
            _nvlink(450e9), {"nvlink": _nvlink(450e9), "pcie": _PCIE5, "network": _LARGE_HOST},
            "NVIDIA H100 data sheet, SXM, without sparsity, resources.nvidia.com/en-us-tensor-core/nvidia-tensor-core-gpu-datasheet: "
            "NVLink 900 GB/s, half of it in each direction; 400 Gb/s a GPU",
        ),
        _gpu(
            "h200", _LIKE_AMPERE, 989e12, 4800e9, 141e9, _HOPPER_RATES,
            _nvlink(450e9), {"nvlink": _nvlink(450e9), "pcie": _PCIE5, "network": _LARGE_HOST},
            "NVIDIA H200 data sheet, SXM, without sparsity, "
            "resources.nvidia.com/en-us-data-center-overview-mc/en-us-data-center-overview/hpc-datasheet-sc23-h200; links as H100",
        ),
        _gpu(
            "mi300x", _LIKE_AMPERE, 1307.4e12, 5300e9, 192e9,
            {"float32": 163.4e12, "float64": 163.4e12, "float8": 2614.9e12, "int8": 2614.9e12},
            _FABRIC, {"fabric": _FABRIC, "pcie": _PCIE5, "network": _LARGE_HOST},
            "AMD ROCm documentation, MI300 microarchitecture, rocm.docs.amd.com/en/latest/conceptual/gpu-arch/mi300.html; 7 links of "
            "64 GB/s in each direction, 48 usable, rocm.blogs.amd.com/software-tools-optimization/mi300x-rccl-xgmi; 400 Gb/s a GPU",
        ),
        Profile(
            "cpu", 50e9, 10e9, 4e9, 40e-6, 2e-6,
            rates={"float64": 25e9},
            links={"network": Link(1.25e9, 50e-6)},
            source="one of a few simulated workers on a small CPU, threads that share its memory; spmd.measure() says what yours has",
        ),
    )
}  # fmt: skip


def profile_taken(_: str, given: Any) -> Profile:
    """`profile_of` as a check of arguments."""
    return profile_of(given)


def profile_of(profile: Profile | str) -> Profile:
    """`profile` itself, or the known one of that name."""
    if isinstance(profile, Profile):
        return profile
    if not isinstance(profile, str) or profile not in _PROFILES:  # pyright: ignore[reportUnnecessaryIsInstance]
        near = " " + nearest(profile, _PROFILES) if isinstance(profile, str) else ""  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ShardingError(
            "profile", f"there is no hardware profile {profile!r}", f"Known: {', '.join(_PROFILES)}; or pass a spmd.Profile.{near}"
        )
    return _PROFILES[profile]
