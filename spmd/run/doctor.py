"""What of this library works on this machine, and what would have to be done for the rest."""

from __future__ import annotations

import importlib
import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version

import tvm

from spmd.collectives.cores import processors
from spmd.collectives.native.communicators import Library
from spmd.collectives.native.nccl import NCCL, RCCL, Vendor, present
from spmd.errors import ShardingError

from .launch import Launcher, find

_SECONDS = 300.0
"""The longest that the self-test of processes may take."""


@dataclass(frozen=True)
class Finding:
    """One thing that works or does not: what was found, and what mends it."""

    name: str
    works: bool
    found: str
    way_out: str = ""

    def __str__(self) -> str:
        mark = "works" if self.works else "no"
        return f"{self.name:10}{mark:7}{self.found}{f'. {self.way_out}' if self.way_out else ''}"


def examine(self_test: bool = True) -> list[Finding]:
    """All findings, in the order in which they matter. `self_test`: start two processes and let them meet."""
    looks: list[Callable[[], Finding]] = [_tvm, _linker, _threads, _pocl, lambda: _mpi(self_test), _gpus]
    looks += [partial(_of_gpus, vendor, self_test) for vendor in (NCCL, RCCL)]
    return [look() for look in looks]


def _tvm() -> Finding:
    found = f"TVM {version('apache-tvm')} with ffi {version('apache-tvm-ffi')}, {len(processors())} cores"
    return Finding("tvm", True, found)


def _linker() -> Finding:
    for name in (os.environ.get("CXX", ""), "g++", "clang++", "c++", "gcc", "cc"):
        if name and (path := shutil.which(name)):
            return Finding("linker", True, f"{path}: libraries can be exported")
    return Finding("linker", False, "there is no C++ compiler: libraries cannot be exported, and each process compiles", "Install g++.")


def _threads() -> Finding:
    return Finding("threads", True, "workers as threads of one process")


def _pocl() -> Finding:
    try:
        importlib.import_module("pyopencl")
        return Finding("pocl", True, f"code for GPUs on the CPU, by pocl {version('pocl-binary-distribution')}")
    except (ImportError, PackageNotFoundError) as error:
        return Finding("pocl", False, f"{error}", "pip install 'spmd[pocl]'.")


def _mpi(self_test: bool) -> Finding:
    try:
        launcher = find()
    except ShardingError as error:
        return Finding("mpi", False, f"{error}".removeprefix("run: ").rstrip("."))
    where = f"{launcher.family}, started by {launcher.path}"
    return _met("mpi", launcher, where) if self_test else Finding("mpi", True, where)


def _met(backend: str, launcher: Launcher, where: str) -> Finding:
    """Whether two processes of a backend meet."""
    command = launcher.command(2, ["-m", "spmd.run.self_test", backend])
    try:
        ended = subprocess.run(
            command, env=launcher.environment(2), capture_output=True, text=True, timeout=_SECONDS, check=False, start_new_session=True
        )
    except subprocess.TimeoutExpired:
        way_out = f"Run python -m spmd run -n 2 -m spmd.run.self_test {backend}."
        return Finding(backend, False, f"{where}: two processes did not end in {_SECONDS:g} seconds", way_out)
    if ended.returncode or ended.stdout.count("right") != 2:
        last = next((line for line in reversed(ended.stderr.splitlines()) if line.strip(" -")), f"exit code {ended.returncode}")
        return Finding(backend, False, f"{where}: two processes do not meet ({last})")
    return Finding(backend, True, f"{where}: two processes met")


def _gpus() -> Finding:
    kinds = [
        kind for kind in ("cuda", "rocm", "opencl", "vulkan", "metal") if tvm.get_global_func(f"device_api.{kind}", allow_missing=True)
    ]
    there = [f"{count} of {kind}" for kind in kinds if (count := present(kind))]
    found = f"this TVM sees {', '.join(there)}" if there else "this TVM sees none"
    return Finding("gpus", bool(there), found, "" if there else "Code for GPUs is compiled, and run by pocl.")


def _of_gpus(vendor: Vendor, self_test: bool) -> Finding:
    """A backend of GPUs: its library, a GPU for each of two workers, and MPI, which starts them."""
    try:
        library = Library(vendor, "doctor")
        launcher = find()
    except ShardingError as error:
        return Finding(vendor.name, False, f"{error}".removeprefix("doctor: ").removeprefix("run: ").rstrip("."))
    count = present(vendor.device)
    if not count:
        return Finding(vendor.name, False, f"{library} loads, and TVM sees no {vendor.device} device")
    where = f"{library}, {count} {vendor.device} devices"
    return _met(vendor.name, launcher, where) if self_test and count > 1 else Finding(vendor.name, True, where)
