"""What is built for GPUs, looked at: weights a worker, kernels a layer, storage, kernels for few rows, CUDA graphs, spilled registers.

    python -m benchmarks.builds [--quick | --weights] [--targets NAME ...] [--layers N] [--nvcc PATH]

Models have two layers of the sizes of Llama-2-70B and CodeLlama-34B, as equal layers are equal kernels; weights are counted for all layers.
With --weights nothing is compiled, and the table has the weights alone. Every line is built whole, but where TVM has no code generator or
no tool that it needs: then its error stands there. With --nvcc, or where `nvcc` is on the path, CUDA sources are compiled to machine code
and registers that ptxas spills are counted. No GPU is needed.
"""

from __future__ import annotations

import argparse
import itertools
import re
import resource
import shutil
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import tvm
from tvm import relax, tirx
from tvm.target import Target

import spmd
from examples.llm.build import check_tools, profile_of, quantized, target_of, told
from examples.llm.build_program import BOUNDS, bytes_of, program, weights
from examples.llm.config import PRESETS
from examples.llm.model import METHODS
from examples.llm.report import size_text, table

MODELS = ("llama-2-70b", "codellama-34b")
FORMS = ("q4f16_1", "q0f16")
SHARDS = (1, 2, 4, 8)
TARGETS: dict[str, tuple[str, str]] = {
    **{arch: ("cuda", arch) for arch in ("sm_80", "sm_86", "sm_89", "sm_90")},
    **{arch: ("rocm", arch) for arch in ("gfx1100", "gfx942")},
    **{name: (name, "") for name in ("metal", "webgpu", "opencl", "vulkan")},
}
ATTENTION = "vm.builtin.attention_kv_cache_attention_with_fused_qkv"
CAPTURE = "_cuda_graph_capture"
ROOM = 1e12
"""Bytes that a worker may hold: what fits where is for the reader to see."""


@dataclass
class Function:
    """What a function of a built module does, in order, and what it allocates."""

    calls: list[str] = field(default_factory=list)
    """Kernels by name, `ATTENTION`, and the names of captured graphs."""
    storage: int = 0
    """Bytes that are planned."""
    unplanned: int = 0
    """Allocations whose size is not known when it is compiled."""


@tvm.instrument.pass_instrument
class Observer:
    """Looks at a module while it is compiled: once its memory is planned, and once graphs are captured."""

    def __init__(self) -> None:
        self.planned: dict[str, Function] = {}
        self.captured: dict[str, Function] = {}
        self.few: set[str] = set()
        self.symbolic: set[str] = set()
        """Kernels whose number of rows is chosen by the caller."""

    def run_after_pass(self, mod: tvm.IRModule, info: Any) -> None:
        """`info`: of the pass that has run."""
        if info.name == "StaticPlanBlockMemory":
            self.planned.update(functions(mod))
            self.few.update(gv.name_hint for gv, f in mod.functions_items() if f.attrs and "spmd.few_rows" in f.attrs)
            self.symbolic.update(gv.name_hint for gv, f in mod.functions_items() if isinstance(f, tirx.PrimFunc) and _is_symbolic(f))
        if info.name == "RewriteCUDAGraph":
            self.captured = functions(mod)

    def layer(self, function: str) -> list[str]:
        """The kernels between the attention of the first layer and that of the second: those of one layer."""
        calls = self.planned[function].calls
        first, second, *_ = (i for i, call in enumerate(calls) if call == ATTENTION)
        return calls[first + 1 : second]

    def products(self, function: str) -> tuple[list[str], list[str]]:
        """The products of a function that have kernels for few rows, and those that have not, though their rows are symbolic."""
        made = [call for call in dict.fromkeys(self.planned[function].calls) if "matmul" in call and call in self.symbolic]
        return [call for call in made if call in self.few], [call for call in made if call not in self.few]

    def in_graphs(self, function: str) -> tuple[int, int]:
        """How many of the kernels of a function run in CUDA graphs, and how many it has."""
        inside = sum(len(f.calls) for name, f in self.captured.items() if name.startswith(f"{function}{CAPTURE}"))
        outside = sum(call != ATTENTION for call in self.captured[function].calls)
        return inside, inside + outside


def functions(mod: tvm.IRModule) -> dict[str, Function]:
    """Every function of Relax of a module whose memory is planned."""
    kernels = {gv.name_hint for gv, f in mod.functions_items() if isinstance(f, tirx.PrimFunc) and "tirx.is_scheduled" in (f.attrs or {})}
    found: dict[str, Function] = {}
    for gv, function in mod.functions_items():
        if isinstance(function, relax.Function):
            found[gv.name_hint] = one = Function()
            for value in (binding.value for block in function.body.blocks for binding in block.bindings):
                if isinstance(value, relax.Call):
                    _see(one, value, kernels)
    return found


def _see(function: Function, call: relax.Call, kernels: set[str]) -> None:
    name = str(getattr(call.op, "name_hint", getattr(call.op, "name", getattr(call.op, "global_symbol", ""))))
    if name in kernels or name == ATTENTION:
        function.calls.append(name)
    elif name == "relax.memory.alloc_storage":
        size = call.args[0].values[0]
        if isinstance(size, tirx.IntImm):
            function.storage += int(size)
        else:
            function.unplanned += 1
    elif name == "relax.builtin.alloc_tensor":
        function.unplanned += 1


def _is_symbolic(kernel: tirx.PrimFunc) -> bool:
    return any(isinstance(size, tirx.Var) for param in kernel.params for size in getattr(param, "shape", ()))


@dataclass(frozen=True)
class Built:
    """One line: a module of few layers that was built, and what was seen."""

    seen: Observer
    mod: tvm.IRModule
    """The program of a worker, before it was compiled."""
    whole: tvm.IRModule
    """The unsharded one."""
    source: str
    """Of its kernels, where the target keeps a source."""
    seconds: float
    """CPU time from the model's configuration to the executable."""


def build(model: str, form: str, target: str, shards: int, layers: int = 2, methods: Sequence[str] = METHODS) -> Built:
    """Builds so many layers of a model for a target of TARGETS, or some of its functions alone. Raises what the build raises."""
    start = time.process_time()
    config, formats = quantized(model, form)
    made_for = target_of(*TARGETS[target])
    check_tools(made_for)
    config = replace(config, num_hidden_layers=layers)
    made = program(config, shards, made_for, formats, profile_of(made_for), memory=ROOM, methods=methods)
    whole = program(config, 1, made_for, formats, methods=("embed", "decode"))
    seen = Observer()
    graphs = {"relax.backend.use_cuda_graph": made_for.kind.name == "cuda"}
    with tvm.transform.PassContext(config=graphs, instruments=[seen]):
        library = spmd.build(made, made_for)
    mod = made if isinstance(made, tvm.IRModule) else made.mod
    return Built(seen, mod, whole, source_of(library.executable.mod, made_for.kind.name), time.process_time() - start)


def source_of(module: Any, kind: str) -> str:
    """The source of the kernels of a compiled module, or nothing where the target keeps none."""
    if str(module.kind) == kind:
        return str(module.inspect_source())
    return "".join(source_of(inner, kind) for inner in module.imports)


def held(mod: tvm.IRModule, more_layers: int) -> int:
    """Bytes of the weights of a module, and of so many more layers like its second one."""
    second = {name: kind for name, kind in weights(mod).items() if ".layers.1." in name}
    return bytes_of(weights(mod)) + more_layers * bytes_of(second)


def spills(source: str, arch: str, nvcc: str) -> str:
    """The bytes of registers that the kernels of a CUDA source spill, by ptxas, and which do; raises RuntimeError for one with errors."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "kernels.cu"
        file.write_text(source)
        command = [nvcc, f"-arch={arch}", "-cubin", "-Xptxas=-v", "-o", str(file.with_suffix(".cubin")), str(file)]
        ran = subprocess.run(command, capture_output=True, text=True, check=False)
    if ran.returncode:
        raise RuntimeError(next((text for text in ran.stderr.splitlines() if "error" in text), ran.stderr.strip()))
    found = re.findall(r"properties for (\w+)\n.*?(\d+) bytes spill stores, (\d+) bytes spill loads", ran.stderr)
    spilled = {name: int(stores) + int(loads) for name, stores, loads in found if int(stores) + int(loads)}
    names = f" ({', '.join(sorted(name.removesuffix('_kernel') for name in spilled))})" if spilled else ""
    return f"{sum(spilled.values())} B of {len(found)}{names}"


def line(model: str, form: str, target: str, shards: int, layers: int, nvcc: str) -> tuple[str, ...] | str:
    """The cells of a build, or its error."""
    try:
        built = build(model, form, target, shards, layers)
    except Exception as error:  # of TVM's or ours: what is missing is what is to be told
        said = next((text for text in reversed(str(error).splitlines()) if text.strip()), type(error).__name__)
        return f"{model} {form} {target} {shards}: {said.strip()}"
    seen, more = built.seen, PRESETS[model].num_hidden_layers - layers
    part, whole = held(built.mod, more), held(built.whole, more)
    few = [[*map(len, seen.products(name))] for name in ("batch_decode", "batch_verify", "prefill")]
    graphs = ", ".join("{}/{}".format(*seen.in_graphs(name)) for name in ("decode", "batch_decode", "batch_verify") if seen.captured)
    spilled = spills(built.source, target, nvcc) if nvcc and target.startswith("sm_") else "-"
    return (
        model, form, target, str(shards), size_text(part), f"{part * shards / whole - 1:+.1%}",
        f"{len(seen.layer('decode'))}, {len(seen.layer('batch_decode'))}", ", ".join(f"{some}/{some + none}" for some, none in few),
        size_text(seen.planned["prefill"].storage), graphs or "-", spilled, f"{built.seconds:.1f}",
    )  # fmt: skip


def weights_line(model: str, form: str, target: str, shards: int, layers: int) -> tuple[str, ...]:
    """The cells of a plan: what a worker has of the weights, and the most by which that is above its share."""
    config, formats = quantized(model, form)
    made_for = Target(told(*TARGETS[target]))
    config, more = replace(config, num_hidden_layers=layers), PRESETS[model].num_hidden_layers - layers
    made = program(config, shards, made_for, formats, profile_of(made_for), memory=ROOM, methods=("embed", "decode"))
    part = held(made if isinstance(made, tvm.IRModule) else made.mod, more)
    whole = held(program(config, 1, made_for, formats, methods=("embed", "decode")), more)
    return model, form, target, str(shards), size_text(part), f"{part * shards / whole - 1:+.1%}"


HEAD = ("model", "weights", "target", "N", "weights a worker", "over", "kernels", "few rows", "storage", "in graphs", "spilled", "CPU s")
LEGEND = f"""over: what that is above 1/N of all; kernels: of a layer, in decode and in batch_decode, beside those of attention; few rows:
products of batch_decode, batch_verify and prefill that have kernels for up to 8 rows beside the tile; storage: of a prefill of
{BOUNDS["seq_len"]} tokens; in graphs: kernels of decode, batch_decode and batch_verify that CUDA graphs hold, of these layers and
what is around them; spilled: bytes of registers, of so many kernels, and by which"""


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="Llama-2-70B in 4 bits for 2 workers alone")
    parser.add_argument("--weights", action="store_true", help="plan and count weights; compile nothing")
    parser.add_argument("--targets", nargs="*", choices=TARGETS, default=list(TARGETS), metavar="NAME", help=", ".join(TARGETS))
    parser.add_argument("--layers", type=int, default=2, help="of each model, 2 or more (default 2)")
    parser.add_argument("--nvcc", default=shutil.which("nvcc") or "", help="NVIDIA's compiler, to count spilled registers")
    options = parser.parse_args()
    if options.layers < 2:
        parser.error("--layers: a layer is seen between two attentions, so give at least 2")
    models, forms, shards = (MODELS[:1], FORMS[:1], SHARDS[1:2]) if options.quick else (MODELS, FORMS, SHARDS)
    if options.weights:
        counted = [weights_line(*case, options.layers) for case in itertools.product(models, forms, options.targets, shards)]
        print(table(HEAD[:6], counted))
        return
    lines, errors = [], []
    for case in itertools.product(models, forms, options.targets, shards):
        found = line(*case, options.layers, options.nvcc)
        (errors if isinstance(found, str) else lines).append(found)
        print(".", end="", flush=True)
    print(f"\n{table(HEAD, lines)}\n\n{LEGEND}\n")
    for error in errors:
        print(f"not built: {error}")
    print(f"largest memory of this process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.2f} GB")


if __name__ == "__main__":
    main()
