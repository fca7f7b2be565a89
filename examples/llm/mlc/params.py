"""Weights in the form that TVM's runtime reads, and MLC-LLM's with it: files of 32 MB, and `tensor-cache.json`, which is written last."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from tvm.contrib import tvmjs

INDEX = "tensor-cache.json"


def write_params(folder: Path, arrays: Iterator[tuple[str, np.ndarray]]) -> None:
    """Writes whole weights, of which each worker gets its part when they are loaded; one file at a time is in memory."""
    (folder / INDEX).unlink(missing_ok=True)
    with contextlib.redirect_stdout(io.StringIO()):  # it tells what it does
        tvmjs.dump_tensor_cache(arrays, str(folder), encode_format="raw", show_progress=False)
