"""Checkpoints of a few bytes, and plans that cut them."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from spmd import Mesh, Plan, Sharding
from spmd.placement.layout import Array
from spmd.plan.decisions import Leaf, Signature


def plan_of(mesh: Mesh, weights: Mapping[str, tuple[tuple[int, ...], str, str]]) -> Plan:
    """A plan of one function of nothing but weights: ``{name: (shape, dtype, sharding)}``."""
    leaves = tuple(Leaf(name, shape, dtype, Sharding.parse(text, shape)) for name, (shape, dtype, text) in weights.items())
    signature = Signature(leaves, (), 0)
    return Plan(mesh, {}, {}, {}, {}, {"main": signature}, {"main": []}, {}, {"main": 0.0}, "generic", 0)


def random_array(shape: tuple[int, ...], dtype: str, seed: int = 0) -> Array:
    """Any bits, without those that are no numbers."""
    import ml_dtypes

    kind: Any = np.dtype(getattr(ml_dtypes, dtype, dtype))
    return np.asarray(np.random.default_rng(seed).integers(0, 100, shape) - 50).astype(kind)


def checkpoint(folder: Path, arrays: Mapping[str, Array], files: int = 1) -> Path:
    """Written by the library of safetensors: one file, or several and their index."""
    folder.mkdir(parents=True, exist_ok=True)
    names = list(arrays)
    if files == 1:
        save_file(dict(arrays), folder / "model.safetensors")
        return folder
    placed: dict[str, str] = {}
    for i in range(files):
        file = f"model-{i + 1:05d}-of-{files:05d}.safetensors"
        save_file({name: arrays[name] for name in names[i::files]}, folder / file)
        placed |= dict.fromkeys(names[i::files], file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": placed}))
    return folder
