"""Cutting a checkpoint of Llama-2-70B in 4 bits for 8 workers: its speed beside that of copying the same files, and its memory.

    python -m benchmarks.weights [--quick] [--layers N] [--folder DIR]

The checkpoint is made up: random bytes under the names, shapes and dtypes of the model, in files of 4 GB and an index. It is copied
file by file, before and after, as `cp` copies, and written to the disk; each time files are first dropped from the page cache. Speeds are
bytes written by time on the clock: of a disk nothing else can be measured. Memory is the most that a process of its own had,
what TVM and spmd take before anything is read included. 80 layers have 39.6 GB, and need twice as much room; fewer are said to be fewer.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

import spmd
from examples.llm.config import LlamaConfig
from examples.llm.model import build_module
from examples.llm.quantize import quantize

WORKERS = 8
FILE_BYTES = 4 << 30
PIECE = 64 << 20
CODES = {"uint32": "U32", "float16": "F16"}
PEAK = """
import json, sys, time
import spmd

def peak():
    return next(int(line.split()[1]) << 10 for line in open("/proc/self/status") if line.startswith("VmHWM"))

plan, given, folder = sys.argv[1:]
plan, before, began = spmd.Plan.load(plan), peak(), time.perf_counter()
written = spmd.weights.write(plan, given, folder)
print(json.dumps([before, peak(), time.perf_counter() - began, written.bytes]))
"""


def planned(layers: int) -> spmd.Plan:
    """Of the model with so many layers, nothing annotated."""
    config = replace(LlamaConfig.preset("llama-2-70b").with_dtype("float16"), num_hidden_layers=layers)
    mod, _ = build_module(config, methods=("embed", "decode", "create_paged_kv_cache"))
    return spmd.plan(quantize(mod, "q4f16_1"), WORKERS, profile="h100")


def tensors(plan: spmd.Plan) -> dict[str, tuple[tuple[int, ...], str, int]]:
    """The shape, dtype and bytes of each weight."""
    found = {}
    for name in plan.params:
        info = plan.tensors[name]
        found[name] = (tuple(info.sizes), info.dtype, math.prod(info.sizes) * np.dtype(info.dtype).itemsize)
    return found


def make(folder: Path, weights: dict[str, tuple[tuple[int, ...], str, int]]) -> None:
    """Write the checkpoint, in pieces."""
    files: list[list[str]] = [[]]
    for name in weights:
        if files[-1] and sum(weights[n][2] for n in files[-1]) + weights[name][2] > FILE_BYTES:
            files.append([])
        files[-1].append(name)
    noise, placed = np.random.default_rng(0).bytes(PIECE), {}
    for i, names in enumerate(files):
        header, at = {}, 0
        for name in names:
            shape, dtype, size = weights[name]
            header[name] = {"dtype": CODES[dtype], "shape": shape, "data_offsets": [at, at + size]}
            at += size
        text = json.dumps(header).encode()
        path = folder / f"model-{i + 1:05d}-of-{len(files):05d}.safetensors"
        placed |= dict.fromkeys(names, path.name)
        with path.open("wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            for begin in range(0, at, PIECE):
                file.write(noise[: min(PIECE, at - begin)])
            flush(file.fileno())
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": placed}))


def flush(descriptor: int) -> None:
    """To the disk, and out of memory."""
    os.fsync(descriptor)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)


def drop(folder: Path) -> None:
    """The files of a folder out of the page cache."""
    for path in folder.iterdir():
        with path.open("rb") as file:
            flush(file.fileno())


def copy(given: Path, folder: Path) -> float:
    """Copy file by file, each to the disk and then away; the seconds."""
    drop(given)
    seconds = 0.0
    for path in sorted(given.glob("*.safetensors")):
        began = time.perf_counter()
        shutil.copyfile(path, folder / "copy")
        with (folder / "copy").open("rb") as file:
            os.fsync(file.fileno())
        seconds += time.perf_counter() - began
        (folder / "copy").unlink()
    return seconds


def main() -> None:
    """Print what was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="4 layers")
    parser.add_argument("--layers", type=int, help="so many (default: as many of 80 as two thirds of the free disk hold)")
    parser.add_argument("--folder", type=Path, help="on which disk (default: that of temporary files)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as made:
        place = Path(made)
        each = sum(size for name, (_, _, size) in tensors(planned(1)).items() if ".layers." in name)
        fitting = int(shutil.disk_usage(place).free * 2 / 3 / 2 / each)
        layers = options.layers or min(80, fitting, 4 if options.quick else 80)
        plan = planned(layers)
        weights = tensors(plan)
        size, largest = sum(w[2] for w in weights.values()), max(w[2] for w in weights.values())
        given, out = place / "given", place / "out"
        given.mkdir()
        plan.save(place / "plan.json")
        make(given, weights)
        print(f"{layers} of 80 layers, {size / 1e9:.1f} GB, {WORKERS} workers; the largest tensor has {largest / 1e6:.0f} MB")
        copies = [copy(given, place)]
        drop(given)
        command = [sys.executable, "-c", PEAK, str(place / "plan.json"), str(given), str(out)]
        before, peak, seconds, written = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        shutil.rmtree(out)
        copies.append(copy(given, place))
        speeds = [size / 1e9 / took for took in copies]
        print(f"copied:  {speeds[0]:.2f} GB/s before, {speeds[1]:.2f} GB/s after")
        times = 2 * seconds / sum(copies)
        print(f"cut:     {written / 1e9 / seconds:.2f} GB/s, {written / 1e9:.1f} GB written, {times:.2f} times the time of a copy")
        print(f"memory:  {peak / 1e6:.0f} MB at most, {peak / largest:.2f} times the largest; {(peak - before) / 1e6:.0f} MB of them")
        print(f"         since anything was read, {(peak - before) / largest:.2f} times")


if __name__ == "__main__":
    main()
