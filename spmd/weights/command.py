"""``python -m spmd weights --plan plan.json --from DIR --to DIR``: a checkpoint cut for all workers, from the shell."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from spmd.plan.model import Plan

from .checkpoint import source
from .cutting import write
from .hostile import json_file, short_list
from .job import GO_ON
from .progress import size_text
from .targets import PATTERNS

__all__ = ["GO_ON", "add_options", "run"]


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument("--plan", required=True, metavar="FILE", help="the plan, as python -m spmd explain --save wrote it")
    parser.add_argument("--from", required=True, dest="given", metavar="PATH", help="a folder or file of safetensors, GGUF or PyTorch")
    parser.add_argument("--to", required=True, dest="folder", metavar="DIR", help="where the files of the workers are written")
    parser.add_argument("--names", metavar="FILE", help='what weights are called in the checkpoint, as JSON: {"qkv": ["q", "k", "v"]}')
    parser.add_argument("--convert", action="store_true", help="convert tensors that have another dtype than the plan says")
    parser.add_argument("--layout", choices=list(PATTERNS), default="spmd", help="how files are called; vllm is its sharded_state")
    parser.add_argument("--part-bytes", type=int, metavar="N", help="with vllm: files of a worker have at most so many bytes of data")


def run(options: argparse.Namespace) -> str:
    """Cut; what was done, in a line or two. Raises `ShardingError`."""
    names: dict[str, Any] | None = json_file(Path(options.names)) if options.names else None
    made = source(options.given, names, options.convert)
    written = write(Plan.load(options.plan), made, options.folder, options.layout, options.part_bytes, progress=True)
    there = f", {size_text(written.resumed)} of it there already" if written.resumed else ""
    lines = [f"wrote {size_text(written.bytes)} to {written.folder}{there}"]
    if written.unused:
        lines.append(f"note: the plan takes nothing of {len(written.unused)} tensors: {short_list(written.unused)}")
    return "\n".join(lines)
