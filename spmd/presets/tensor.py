"""Plans that split the weights of a transformer as Megatron does: into a block by columns, out of it by rows."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import tvm

from spmd import checks
from spmd.checks import door
from spmd.errors import ShardingError
from spmd.placement.mesh import Mesh
from spmd.placement.spec import P, Spec
from spmd.propagate.candidates import AxisSearch

from .reading import Reading, axis_name, warn_of
from .state import state_of

FUSED = ("qkv_proj", "Wqkv", "c_attn", "gate_up_proj", "in_proj", "in_proj_weight", "in_proj_bias", "w13")
"""Several weights in one: split by segments, where the program cuts them apart."""
COLUMNS = (
    *FUSED,
    *("q_proj", "k_proj", "v_proj", "wq", "wk", "wv", "query", "key", "value", "q", "k", "v", "query_key_value"),
    *("gate_proj", "up_proj", "w1", "w3", "fc1", "c_fc", "wi", "wi_0", "wi_1", "intermediate.dense", "dense_h_to_4h", "lm_head"),
)
"""Layers whose results are split."""
ROWS = ("o_proj", "out_proj", "c_proj", "wo", "o", "down_proj", "w2", "fc2", "output.dense", "dense_4h_to_h", "attention.dense")
"""Layers that take what is split, and leave a partial sum."""
_STORED = ("[._]q_(?:weight|scale)$", "[._](?:weight|bias|kernel)$", "$")
_NORMS = ("relax.nn.rms_norm", "relax.nn.layer_norm")
_MOST = 3
"""Segments of a fused weight: query, key and value."""


@door(mod=checks.module, axis=axis_name, columns=checks.texts, rows=checks.texts)
def megatron(mod: tvm.IRModule, axis: str = "tp", columns: Sequence[str] = COLUMNS, rows: Sequence[str] = ROWS) -> dict[str, Spec]:
    """Attention and feed-forward weights split so that a layer has two all-reduces; embedding tables split by vocabulary.

    `columns` and `rows` name the layers (``q_proj`` means ``*.q_proj.weight``, however it is stored); which dimension is which is read
    off the products, and the segments of fused weights off what cuts them apart. All other values are left to the planner.
    Raises `ShardingError` where no weight has such a name.
    """
    reading = Reading(mod)
    return {**_megatron(reading, axis, columns, rows), **state_of(reading)}


@door(mod=checks.module, axis=axis_name, columns=checks.texts, rows=checks.texts)
def sequence_parallel(mod: tvm.IRModule, axis: str = "tp", columns: Sequence[str] = COLUMNS, rows: Sequence[str] = ROWS) -> dict[str, Spec]:
    """`megatron`, and between its blocks, what norms take and give is split along the sequence (the dimension before the last).

    All-reduces become reduce-scatters and all-gathers: as many bytes, less memory, and norms are computed once.
    A symbolic sequence is padded unless `shard` is told by what it can be divided. Raises `ShardingError` where no norm has one.
    """
    reading = Reading(mod)
    found: dict[str, Spec] = dict(_megatron(reading, axis, columns, rows))
    norms = [n for f in reading.graph.functions.values() for n in f.nodes if n.op in _NORMS]
    before = len(found)
    for value in (v for n in norms for v in (n.inputs[0], n.outputs[0]) if v.role == "temporary" and len(v.shape) > 1):
        if value.shape[-2] != 1:
            found[value.path] = P(*[None] * (len(value.shape) - 2), axis, None)
    if len(found) == before:
        why = "no norm has a sequence of more than one" if norms else f"the module has no {' and no '.join(_NORMS)}"
        raise ShardingError("sequence_parallel", why, "Write specs for the values between its blocks.")
    return found | state_of(reading)


def _megatron(reading: Reading, axis: str, columns: Sequence[str], rows: Sequence[str]) -> dict[str, P]:
    found: dict[str, P] = {}
    fused: list[str] = []
    for name, weight in reading.weights.items():
        product = reading.product(weight)
        rank = len(weight.shape)
        if reading.is_table(weight) and weight.shape[0] is not None:
            found[name] = P(axis, *[None] * (rank - 1))
        elif (kind := _layer(name, columns, rows)) == 0:
            kept = [d for d in (product.kept if product else range(rank) if rank == 1 else ()) if weight.shape[d] is not None]
            if kept:
                found[name] = P(*[axis if d == kept[-1] else None for d in range(rank)])
                fused += [name] if _layer(name, FUSED) == 0 else []
        elif kind == 1:
            summed = [d for d in (product.summed if product else ()) if weight.shape[d] is not None]
            if summed or rank == 1:
                found[name] = P(*[axis if d in summed[:1] else None for d in range(rank)])
    if not any(axis in spec.entries for spec in found.values()):
        names = ", ".join(map(repr, list(reading.weights)[:4])) or "it has none"
        raise ShardingError(
            "megatron",
            f"no weight has the name of a layer that it splits (the weights are {names})",
            "Name your own in columns= and rows=.",
        )
    unnamed = [name for name, weight in reading.weights.items() if name not in found and reading.product(weight) is not None]
    warn_of("megatron", unnamed, "whose names are those of no layers that it splits, to the planner; columns= and rows= name more")
    return found | _by_segments(reading, axis, found, fused)


def _by_segments(reading: Reading, axis: str, found: dict[str, P], fused: list[str]) -> dict[str, P]:
    """Specs of fused weights with the segments that the program asks for."""
    if not fused:
        return {}
    sizes: Any = {axis: 2}  # any size: what is cut apart is cut apart on every mesh
    candidates = AxisSearch(reading.graph, Mesh(**sizes), (axis,)).run()
    specs: dict[str, P] = {}
    for name in fused:
        dim = found[name].entries.index(axis)
        splits = [s.dims[dim] for s in candidates.shardings[reading.weights[name]]]
        sizes = [tuple(s.size for s in split.segments) for split in splits if split is not None and 1 < len(split.segments) <= _MOST]
        if sizes:
            entries: list[Any] = list(found[name].entries)
            entries[dim] = (axis, *min(sizes, key=len))
            specs[name] = P(*entries)
    return specs


def _layer(name: str, *kinds: Sequence[str]) -> int:
    """Which kind of layers a weight belongs to, or -1: ``h.0.c_fc.weight``, or ``p_h_0_c_fc_weight`` as torch.export has it."""
    for stored in _STORED:  # a layer may be named q, and its weight be stored as weight: q_weight is tried before
        if re.search(stored, name):
            layer = re.sub(stored, "", name)
            for i, words in enumerate(kinds):
                either = "|".join(re.escape(word).replace(r"\.", "[._]") for word in words)
                if re.search(rf"(?:^|[._])(?:{either})$", layer):
                    return i
    return -1
