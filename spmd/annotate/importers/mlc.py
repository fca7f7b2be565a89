"""MLC-LLM's strategies: ``param.attrs["shard_strategy"]``, with a name, a dimension and perhaps sizes of segments."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

from spmd import checks
from spmd.checks import door, told
from spmd.errors import ShardingError
from spmd.placement.spec import P


def _pairs(where: str, given: Any) -> list[tuple[str, Any]]:
    """Names and parameters, as a check of arguments."""
    pairs = list(cast("Iterable[Any]", given)) if isinstance(given, Iterable) and not isinstance(given, str | bytes) else None
    odd = [given] if pairs is None else [pair for pair in pairs if not _is_pair(pair)]
    if pairs is None or odd:
        what = f"it takes the pairs (name, parameter) that export_tvm gives, and got {told(odd[0])}"
        raise ShardingError(where, what, "Write mod, params = network.export_tvm({...}), and from_mlc(params).")
    return pairs


def _is_pair(given: Any) -> bool:
    return isinstance(given, tuple) and len(cast("tuple[Any, ...]", given)) == 2 and isinstance(given[0], str) and _is_parameter(given[1])


def _is_parameter(given: Any) -> bool:
    return hasattr(given, "shape") and isinstance(getattr(given, "attrs", None) or {}, dict)


@door(params=_pairs, axis=checks.text, others_whole=checks.flag)
def from_mlc(params: Iterable[tuple[str, Any]], axis: str = "tp", others_whole: bool = False) -> dict[str, P]:
    """Specs for the weights that carry a strategy; `params` are the pairs that ``export_tvm`` returns.

    The model is one that was exported for one device (``tensor_parallel_shards=1``). MLC-LLM keeps weights without a strategy whole;
    here the planner may choose, unless `others_whole`.
    Raises `ShardingError` for a strategy that is none of one dimension, or that is for a part of a weight.
    """
    specs: dict[str, P] = {}
    for name, param in params:
        strategy = param.attrs.get("shard_strategy") if param.attrs else None
        if strategy is not None:
            specs[name] = _spec(name, list(param.shape), strategy, axis)
        elif others_whole:
            specs[name] = P(others=None)
    return specs


def _spec(name: str, shape: list[Any], strategy: Any, axis: str) -> P:
    where = f"shard_strategy of {name!r}"
    dim, segments = getattr(strategy, "dim", None), getattr(strategy, "segs", None)
    if not isinstance(dim, int):
        raise ShardingError(where, f"{strategy!r} has no dimension", "Only strategies of one dimension are read, as ShardSingleDim.")
    if not -len(shape) <= dim < len(shape):
        raise ShardingError(where, f"it splits dimension {dim}, and the weight has {len(shape)}")
    entries: list[Any] = [None] * len(shape)
    sizes = tuple(int(s) for s in segments) if segments else ()
    if sizes and sum(sizes) != _number(shape[dim]):
        raise ShardingError(
            where,
            f"its segments {sizes} add up to {sum(sizes)}, and dimension {dim} has size {shape[dim]}",
            "Export the model for one device, with tensor_parallel_shards=1.",
        )
    entries[dim] = (axis, *sizes) if len(sizes) > 1 else axis
    return P(*entries)


def _number(size: Any) -> int | None:
    """A size, or None where it is symbolic."""
    number = size if isinstance(size, int) else getattr(size, "value", None)
    return number if isinstance(number, int) else None
