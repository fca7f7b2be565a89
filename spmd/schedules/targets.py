"""From what the user names as a target to a complete TVM target, or an error that says what to write instead."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from typing import Any

import tvm
from tvm.target import Target

CPU_FLAGS: Mapping[str, bool] = {
    # LLVM may regroup sums and fuse multiply-adds: without both, no reduction is vectorized.
    "fast-math-reassoc": True,
    "fast-math-contract": True,
    # NaN and infinity keep their meaning, so `nnan` and `ninf` stay off.
}
CUDA_SHARED_BYTES = 48 << 10
"""What a kernel of any NVIDIA GPU may have that asks for no more."""
_GPU_WITH_ARCH = {"cuda": ("arch", "sm_90"), "rocm": ("mcpu", "gfx1100")}
_KINDS = ("llvm", "c", "cuda", "rocm", "metal", "opencl", "webgpu", "vulkan", "nvptx", "hexagon")

TargetLike = str | Mapping[str, Any] | Target


def resolve(target: TargetLike) -> Target:
    """A complete target with its host.

    `target`: a kind ("llvm", "cuda"), a tag ("nvidia/nvidia-h100"), a dictionary, or a `Target`.
    On `llvm` the CPU of this machine is filled in unless the target names one, or another machine.
    Raises ValueError for a target that does not parse, was not compiled into this TVM, or leaves its GPU unnamed.
    """
    parsed = _parse(target)
    kind = parsed.kind.name
    available = available_kinds()
    if kind not in available:
        raise ValueError(
            f"target '{kind}': this TVM build generates no code for it. Available: {', '.join(available)}. "
            f"Choose one of these, or install a TVM built with {kind}."
        )
    if kind == "llvm":
        return _complete_llvm(parsed)
    if "gpu" in parsed.keys:
        _require_arch(target, parsed)
        parsed = _complete_gpu(parsed)
        if parsed.host is None:
            return Target(parsed, host=_complete_llvm(Target({"kind": "llvm"})))
    return parsed


def available_kinds() -> list[str]:
    """The target kinds that this TVM can generate code for."""
    return [kind for kind in _KINDS if tvm.get_global_func(f"target.build.{kind}", allow_missing=True) is not None]


def is_cpu(target: Target) -> bool:
    """Whether loops run on the host's cores, with no grid of threads."""
    return "cpu" in target.keys


def _parse(target: TargetLike) -> Target:
    if isinstance(target, Target):
        return target
    try:
        return Target(dict(target) if isinstance(target, Mapping) else target)
    except Exception as error:  # TVM raises several types here
        raise ValueError(
            f"target {target!r} is not one that TVM knows. Available kinds: {', '.join(available_kinds())}. "
            'Write a kind ("llvm"), a tag ("nvidia/nvidia-h100") or a dictionary ({"kind": "cuda", "arch": "sm_90"}).'
        ) from error


def _complete_llvm(target: Target) -> Target:
    """Fill in this machine's CPU and the flags that let LLVM vectorize; what is set stays."""
    options = dict(target.export())
    for flag, value in CPU_FLAGS.items():
        options.setdefault(flag, value)
    triple = str(options.get("mtriple", ""))
    if "mcpu" not in options and (not triple or triple.startswith(platform.machine())):
        cpu = tvm.get_global_func("target.llvm_get_system_cpu", allow_missing=True)
        if cpu is not None:
            options["mcpu"] = cpu()
    return Target(options)


def _complete_gpu(target: Target) -> Target:
    """Fill in the shared memory of a block of CUDA threads, which dlight else assumes with a warning for each kernel; what is set stays."""
    if target.kind.name != "cuda" or "max_shared_memory_per_block" in target.attrs:
        return target
    return Target({**dict(target.export()), "max_shared_memory_per_block": CUDA_SHARED_BYTES})


def _require_arch(written: TargetLike, parsed: Target) -> None:
    """Without a GPU to ask, TVM silently takes an architecture of ten years ago: refuse that."""
    kind = parsed.kind.name
    if kind not in _GPU_WITH_ARCH:
        return
    option, example = _GPU_WITH_ARCH[kind]
    unnamed = written == kind or (isinstance(written, Mapping) and set(written) <= {"kind", "host"})
    if unnamed and not tvm.device(kind, 0).exist:
        raise ValueError(
            f"target '{kind}': no such GPU on this machine to take the architecture from. "
            f'Name it: {{"kind": "{kind}", "{option}": "{example}"}}.'
        )
