"""Simulated GPUs, where there are any."""

import pytest
import tvm

import spmd
from spmd.run.workers import Workers


def need_pocl() -> None:
    """Skip the test where pocl has no wheel for the platform."""
    pytest.importorskip("pocl_binary_distribution", reason="pocl has no wheel for this platform")


def on_pocl(program: spmd.ShardedModule | tvm.IRModule) -> Workers:
    """The workers of a program, each a GPU."""
    need_pocl()
    return spmd.workers(program, backend="pocl", target="opencl")
