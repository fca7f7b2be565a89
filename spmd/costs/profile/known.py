"""Profiles of hardware that many have. Peaks of vendors' data sheets, dense; latencies of a small all-reduce as published.

A row: 16-bit matrix products, memory bandwidth, link between workers (bytes a second that one sends, seconds of a collective),
seconds of a kernel, memory. "network" is what a worker has for itself of the usual adapter of its host, one direction.
"""

from __future__ import annotations

from typing import Any

from spmd.errors import ShardingError, nearest

from .model import Link, Profile

_PCIE4, _PCIE5 = Link(24e9, 20e-6), Link(48e9, 20e-6)
"""16 lanes, one direction, as NCCL counts them; peaks are 32 and 64 GB/s."""
_AMPERE = {"float32": 19.5e12, "float64": 19.5e12, "int8": 624e12}
_HOPPER = {"float32": 66.9e12, "float64": 66.9e12, "float8": 1979e12, "int8": 1979e12}
_LARGE_HOST = Link(50e9, 25e-6)  # one adapter of 400 Gb/s a GPU
_A100 = "www.nvidia.com/content/dam/en-zz/Solutions/Data-Center/a100/pdf/nvidia-a100-datasheet-us-nvidia-1758950-r4-web.pdf"

_PROFILES = {
    p.name: p
    for p in (
        Profile(
            "generic", 300e12, 2e12, 300e9, 5e-6,
            links={"network": Link(25e9, 20e-6), "pcie": _PCIE4, "nvlink": Link(300e9, 5e-6)},
            source="of no vendor: a large accelerator with a fast link, and no limit of memory",
        ),
        Profile(
            "rtx-4090", 165.2e12, 1008e9, 24e9, 20e-6, 3e-6, 24e9,
            {"float32": 82.6e12, "float64": 1.29e12, "float8": 330.3e12, "int8": 660.6e12},
            {"pcie": _PCIE4, "network": Link(1.25e9, 40e-6)},
            "NVIDIA Ada GPU architecture white paper, GeForce RTX 4090, sums in 32 bits; "
            "as in waredb.com/processor/nvidia-geforce-rtx-4090; PCIe 4.0 x16; 10 Gb/s Ethernet",
        ),
        Profile(
            "rx-7900-xtx", 122.8e12, 960e9, 24e9, 25e-6, 4e-6, 24e9,
            {"float32": 61.4e12, "float64": 1.92e12, "int8": 122.8e12},
            {"pcie": _PCIE4, "network": Link(1.25e9, 40e-6)},
            "AMD Radeon RX 7900 XTX product page; as in en.wikipedia.org/wiki/RDNA_3; PCIe 4.0 x16; 10 Gb/s Ethernet",
        ),
        Profile(
            "a10g", 70e12, 600e9, 12e9, 20e-6, 3e-6, 24e9,
            {"float32": 35e12, "float64": 0.55e12, "int8": 140e12},
            {"pcie": Link(12e9, 20e-6), "network": Link(1.56e9, 40e-6)},
            "NVIDIA A10G data sheet, d1.awsstatic.com/product-marketing/ec2/NVIDIA_AWS_A10G_DataSheet_FINAL_02_17_2022.pdf; "
            "PCIe 4.0 x16 by way of the memory of a virtual host; 100 Gb/s among 8 GPUs, as in docs.aws.amazon.com/AWSEC2 (G5)",
        ),
        Profile(
            "a100-pcie-40", 312e12, 1555e9, 24e9, 20e-6, 3e-6, 40e9, _AMPERE,
            {"pcie": _PCIE4, "nvlink": Link(300e9, 12e-6), "network": Link(12.5e9, 30e-6)},
            f"NVIDIA A100 data sheet, {_A100}; nvlink is the bridge between two cards; 100 Gb/s a GPU",
        ),
        Profile(
            "a100-pcie", 312e12, 1935e9, 24e9, 20e-6, 3e-6, 80e9, _AMPERE,
            {"pcie": _PCIE4, "nvlink": Link(300e9, 12e-6), "network": Link(12.5e9, 30e-6)},
            f"NVIDIA A100 data sheet, 80GB PCIe, {_A100}; nvlink is the bridge between two cards; 100 Gb/s a GPU",
        ),
        Profile(
            "a100-sxm", 312e12, 2039e9, 300e9, 12e-6, 2.5e-6, 80e9, _AMPERE,
            {"nvlink": Link(300e9, 12e-6), "pcie": _PCIE4, "network": Link(25e9, 25e-6)},
            f"NVIDIA A100 data sheet, 80GB SXM, {_A100}: NVLink 600 GB/s, half of it in each direction; 200 Gb/s a GPU",
        ),
        Profile(
            "h100", 989e12, 3350e9, 450e9, 12e-6, 2e-6, 80e9, _HOPPER,
            {"nvlink": Link(450e9, 12e-6), "pcie": _PCIE5, "network": _LARGE_HOST},
            "NVIDIA H100 data sheet, SXM, without sparsity, resources.nvidia.com/en-us-tensor-core/nvidia-tensor-core-gpu-datasheet: "
            "NVLink 900 GB/s, half of it in each direction; 400 Gb/s a GPU",
        ),
        Profile(
            "h200", 989e12, 4800e9, 450e9, 12e-6, 2e-6, 141e9, _HOPPER,
            {"nvlink": Link(450e9, 12e-6), "pcie": _PCIE5, "network": _LARGE_HOST},
            "NVIDIA H200 data sheet, SXM, without sparsity, "
            "resources.nvidia.com/en-us-data-center-overview-mc/en-us-data-center-overview/hpc-datasheet-sc23-h200; links as H100",
        ),
        Profile(
            "mi300x", 1307.4e12, 5300e9, 336e9, 15e-6, 3e-6, 192e9,
            {"float32": 163.4e12, "float64": 163.4e12, "float8": 2614.9e12, "int8": 2614.9e12},
            {"fabric": Link(336e9, 15e-6), "pcie": _PCIE5, "network": _LARGE_HOST},
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
