"""`python -m examples.llm.build --model DIR|preset --quantization q4f16_1 --num-shards 2 --target cuda -o dist/`: compiles a model."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import tvm
from tvm.support import rocm
from tvm.target import Target

import spmd

from .artifact import Header
from .build_program import program
from .command import exit_code
from .config import PRESETS, LlamaConfig
from .errors import ModelError
from .mlc import library
from .quantization import FORMATS, Formats
from .source import open_model

TARGETS: Mapping[str, dict[str, str]] = {
    "llvm": {"kind": "llvm"},
    "cuda": {"kind": "cuda", "arch": "sm_80"},
    "rocm": {"kind": "rocm", "mcpu": "gfx1100"},
    "metal": {"kind": "metal"},
    "webgpu": {"kind": "webgpu"},
    "opencl": {"kind": "opencl"},
    "vulkan": {"kind": "vulkan"},
}
"""Targets by name, and the architecture where none is given."""
PROFILES = {
    "llvm": "cpu",
    "sm_80": "a100-pcie",
    "sm_86": "a10g",
    "sm_89": "rtx-4090",
    "sm_90": "h100",
    "gfx1100": "rx-7900-xtx",
    "gfx942": "mi300x",
}
"""Hardware that a target or an architecture stands for where none is given; for others that of sm_80."""
PLAIN = {"q0f32": "float32", "q0f16": "float16"}
"""Names of what is not quantized, and its element type."""
KEPT = {"gguf": "float32", "gguf-f16": "float16"}
"""Names of what is quantized as a .gguf file has it, and the element type of the rest."""


def quantized(model: str, quantization: str) -> tuple[LlamaConfig, Formats]:
    """A preset's or a file's configuration in the element type of a quantization, and the formats of weights, "" where all stay.

    Raises ModelError for an unknown quantization.
    """
    config = PRESETS[model] if model in PRESETS else open_model(model).config
    if quantization in PLAIN:
        return config.with_dtype(PLAIN[quantization]), ""
    if quantization in KEPT:
        if model in PRESETS:
            raise ModelError("--quantization", f"'{quantization}' is as a file has it, and {model} is a preset", "Give a .gguf file.")
        return config.with_dtype(KEPT[quantization]), open_model(model).formats()
    if quantization not in FORMATS:
        names = ", ".join([*PLAIN, *FORMATS, *KEPT])
        raise ModelError("--quantization", f"there is no '{quantization}'", f"Use one of: {names}.")
    return config.with_dtype(FORMATS[quantization].dtype or config.dtype), quantization


def told(name: str, arch: str = "") -> dict[str, str]:
    """A target by name as TVM is told of it; `arch` takes the place of its usual architecture. Raises ModelError for an unknown one."""
    if name not in TARGETS:
        raise ModelError("--target", f"there is no '{name}'", f"Use one of: {', '.join(TARGETS)}.")
    return {**TARGETS[name], **({"arch" if name == "cuda" else "mcpu": arch} if arch else {})}


def target_of(name: str, arch: str = "") -> Target:
    """A target by name; `arch` takes the place of its usual architecture. Raises ModelError for what this TVM does not compile for."""
    said = told(name, arch)
    if name != "llvm" and tvm.get_global_func(f"target.build.{name}", allow_missing=True) is None:
        others = ", ".join(other for other in TARGETS if other != name)
        raise ModelError("--target", f"this TVM has no code generator for {name}", f"Use a TVM that is built with it, or one of: {others}.")
    return Target(said)


def check_tools(target: Target) -> None:
    """Raises ModelError where TVM lacks the tools of others that it compiles for a target with."""
    if target.kind.name == "rocm":
        try:
            rocm.find_rocm_path()
            rocm.find_lld()
        except RuntimeError as error:
            way_out = "Install AMD's device libraries and LLVM's lld, and set ROCM_PATH to the folder that has amdgcn/bitcode."
            raise ModelError("--target rocm", f"TVM finds no ROCm to link with ({error})", way_out) from error


def profile_of(target: Target) -> str:
    """The name of the hardware that a target stands for."""
    arch = str(target.attrs.get("arch") or target.attrs.get("mcpu") or "")
    return PROFILES.get(arch) or PROFILES.get(target.kind.name) or PROFILES["sm_80"]


def build(options: argparse.Namespace) -> Path:
    """Shards, compiles and writes; the folder that it is in."""
    config, form = quantized(options.model, options.quantization)
    target = target_of(options.target, options.arch)
    check_tools(target)
    if options.use_cuda_graph and options.target != "cuda":
        raise ModelError("--use-cuda-graph", f"the target is {options.target}", "Use it with --target cuda.")
    if options.max_seq_len < 1:
        raise ModelError("--max-seq-len", f"{options.max_seq_len} is too few", "Give a number of at least 1.")
    if options.runtime == "mlc":
        profile = options.profile or profile_of(target)
        graphs, limit = options.use_cuda_graph, options.max_seq_len
        made, metadata = library.build(config, options.num_shards, target, form, options.quantization, profile, limit, graphs)
        return library.write(Path(options.output), made, metadata, config)
    made = program(config, options.num_shards, target, form, options.profile or profile_of(target), options.max_seq_len)
    with tvm.transform.PassContext(config={"relax.backend.use_cuda_graph": options.use_cuda_graph}):
        compiled = spmd.build(made, target)
    folder = compiled.export(options.output)
    window = max(config.layer_windows)
    Header(
        str(options.model),
        options.quantization,
        options.num_shards,
        json.dumps(told(options.target, options.arch)),
        options.max_seq_len,
        window,
    ).write(folder)
    return folder


def parser() -> argparse.ArgumentParser:
    """The options."""
    made = argparse.ArgumentParser(prog="python -m examples.llm.build", description="Compile a model for N workers.")
    made.add_argument("--model", required=True, help=f"a Hugging Face folder, a .gguf file, or one of: {', '.join(PRESETS)}")
    made.add_argument("--quantization", default="q4f16_1", help=f"one of: {', '.join([*PLAIN, *FORMATS, *KEPT])} (default q4f16_1)")
    made.add_argument("--num-shards", type=int, default=1, help="how many workers share the model (default 1)")
    made.add_argument("--target", default="llvm", help=f"one of: {', '.join(TARGETS)} (default llvm)")
    made.add_argument("--arch", default="", help="the architecture, as sm_90 or gfx1100")
    made.add_argument("--profile", default="", help="the hardware that the plan is made for, a name of spmd.Profile's")
    made.add_argument("--use-cuda-graph", action="store_true", help="capture kernels and collectives of a step in CUDA graphs")
    made.add_argument("--max-seq-len", type=int, default=2048, help="tokens that the cache holds (default 2048)")
    made.add_argument("--runtime", choices=("spmd", "mlc"), default="spmd", help="who runs it: spmd.workers, or MLC-LLM's engine")
    made.add_argument("-o", "--output", required=True, help="the folder to write")
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code: 0, or 2 after one line on standard error that says what is wrong."""
    options = parser().parse_args(arguments)
    return exit_code(lambda: print(build(options)))


if __name__ == "__main__":
    sys.exit(main())
