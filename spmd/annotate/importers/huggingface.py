"""Tensor-parallel plans of Hugging Face transformers: ``model.tp_plan`` or ``config.base_model_tp_plan``, read as text."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from spmd import checks
from spmd.checks import door, told
from spmd.errors import ShardingError
from spmd.placement.spec import P

Shape = tuple[int, ...]
Style = Callable[[Shape, str], "P | str"]
"""The spec of a weight of some shape over an axis, or why there is none."""


@dataclass(frozen=True)
class TensorParallelPlan:
    """What a plan of transformers says, and what of it specs cannot say."""

    specs: dict[str, P]
    left: dict[str, str]
    """Entry of the plan, or name of a weight -> why it is left to the planner, or what is done otherwise here."""


def _columns(shape: Shape, axis: str) -> P:
    """Features that a layer makes: the rows of a weight as PyTorch stores it, and its bias."""
    return _at(shape, max(len(shape) - 2, 0), axis)


def _rows(shape: Shape, axis: str) -> P:
    """Features that a layer takes: the columns of a weight; its bias is added once."""
    return P(others=None) if len(shape) == 1 else _at(shape, len(shape) - 1, axis)


def _packed_columns(shape: Shape, axis: str) -> P | str:
    return _halves(shape, max(len(shape) - 2, 0), axis)


def _packed_rows(shape: Shape, axis: str) -> P | str:
    return P(others=None) if len(shape) == 1 else _halves(shape, len(shape) - 1, axis)


def _first(shape: Shape, axis: str) -> P:
    """Words of a table, or experts."""
    return _at(shape, 0, axis)


def _last(shape: Shape, axis: str) -> P:
    """The numbers of each word of a table."""
    return _at(shape, len(shape) - 1, axis)


def _whole(_shape: Shape, _axis: str) -> P:
    return P(others=None)


def _at(shape: Shape, dim: int, entry: Any) -> P:
    return P(*(entry if i == dim else None for i in range(len(shape))))


def _halves(shape: Shape, dim: int, axis: str) -> P | str:
    if shape[dim] % 2:
        return f"{shape[dim]} rows are no two halves"
    return _at(shape, dim, (axis, shape[dim] // 2, shape[dim] // 2))


_OF_ACTIVATIONS = "it says how activations are sent, which follows from the weights here"
_OF_PIPELINE = "it says where a pipeline may be cut, and here every worker runs all layers"
_OF_SEQUENCE = "that activations are split along the sequence is said of values: spmd.presets.sequence_parallel has it"
_STYLES: dict[str, Style | str] = {
    **dict.fromkeys(("colwise", "colwise_rep", "colwise_gather_output", "local_colwise"), _columns),
    **dict.fromkeys(("rowwise", "rowwise_rep", "rowwise_split_input", "local_rowwise"), _rows),
    **dict.fromkeys(("packed_colwise", "local_packed_colwise"), _packed_columns),
    **dict.fromkeys(("packed_rowwise", "local_packed_rowwise"), _packed_rows),
    **dict.fromkeys(("embedding_rowwise", "vocab_parallel_rowwise", "grouped_gemm"), _first),
    "embedding_colwise": _last,
    **dict.fromkeys(("replicate", "replicated_with_grad_allreduce", "mla_kv_a_proj"), _whole),
    **dict.fromkeys(("gather", "all_reduce", "local", "local_params", "moe_tp_experts", "moe_identity_expert"), _OF_ACTIVATIONS),
    **dict.fromkeys(("ep_router", "ep_dispatch_experts", "megamoe_router", "megamoe_experts"), _OF_ACTIVATIONS),
    "sequence_parallel": _OF_SEQUENCE,
}
"""Every style of transformers 4 and 5."""


def _shapes(where: str, given: Any) -> dict[str, Shape]:
    """Names of weights and their shapes, or what has a shape."""
    if not isinstance(given, Mapping):
        raise ShardingError(where, f"it takes the weights by name, and got {told(given)}", "Pass model.state_dict(), or shapes by name.")
    return {str(name): _shape(where, name, w) for name, w in cast("Mapping[Any, Any]", given).items()}


def _shape(where: str, name: Any, given: Any) -> Shape:
    listed = getattr(given, "shape", given)
    sizes = [checks.index(size) for size in cast("Iterable[Any]", listed)] if isinstance(listed, Iterable) else [None]
    if None in sizes:
        raise ShardingError(where, f"{str(name)!r} is {told(given)}, which has no shape", "Pass model.state_dict(), or shapes by name.")
    return tuple(size for size in sizes if size is not None)


def _styles(where: str, given: Any) -> dict[str, Any]:
    entries = cast("Mapping[Any, Any]", given) if isinstance(given, Mapping) else {}
    if not isinstance(given, Mapping) or not all(isinstance(k, str) and (isinstance(v, str) or _is_stage(v)) for k, v in entries.items()):
        what = f"it takes a plan, a dict of names and styles, and got {told(given)}"
        raise ShardingError(where, what, "Pass model.tp_plan, model.ep_plan or model.pp_plan.")
    return dict(entries)


def _is_stage(given: Any) -> bool:
    """Whether it is what a `pp_plan` says of a module: the names of what it takes, and of what it gives."""
    pair = cast("Sequence[Any]", given) if isinstance(given, (list, tuple)) else ()
    return len(pair) == 2 and all(isinstance(names, (list, tuple)) for names in pair)


@door(plan=_styles, weights=_shapes, axis=checks.text, workers=checks.maybe(checks.whole(1)))
def from_huggingface(
    plan: Mapping[str, Any], weights: Mapping[str, Any], axis: str = "tp", workers: int | None = None
) -> TensorParallelPlan:
    """Specs for the weights that a plan of transformers names: ``from_huggingface(model.tp_plan, model.state_dict())``.

    A `tp_plan` and an `ep_plan` are of one kind; where a model has both, transformers takes what the `ep_plan` says of experts:
    ``tp.specs | ep.specs``. Of a `pp_plan` everything is left, as there are no pipelines here.
    `weights` maps names to arrays or shapes, as a model of PyTorch has them: a linear layer holds ``(out, in)``. A key of the plan is
    a module or a weight, with ``*`` for numbers, with or without the prefix of the base model. With `workers`, what older versions of
    transformers would drop, as a size does not divide, is listed in `left`; here it is padded.
    Raises `ShardingError` for a style that no version of transformers has.
    """
    known = cast("Mapping[str, Shape]", weights)
    stages = {key: f"pp_plan: {_OF_PIPELINE}" for key, entry in plan.items() if not isinstance(entry, str)}
    plan = {key: style for key, style in plan.items() if key not in stages}
    unknown = {style: key for key, style in plan.items() if style not in _STYLES}
    if unknown:
        style, key = next(iter(unknown.items()))
        raise ShardingError(f"from_huggingface, {key!r}", f"there is no style {style!r}", f"Known are {', '.join(map(repr, _STYLES))}.")
    specs: dict[str, P] = {}
    left = stages
    named: set[str] = set()
    for name, shape in known.items():
        key = _key_of(name, plan)
        if key is None or not shape:
            continue
        named.add(key)
        style = _STYLES[plan[key]]
        found = style if isinstance(style, str) else style(shape, axis)
        if isinstance(found, str):
            left[key] = f"{plan[key]}: {found}"
            continue
        specs[name] = found
        if workers is not None and (odd := _odd(found, shape, workers)):
            left[name] = odd
    left.update({key: f"{plan[key]}: the model has no such weight" for key in plan if key not in named})
    return TensorParallelPlan(specs, left)


def _key_of(name: str, plan: Mapping[str, str]) -> str | None:
    """The key of a plan that names a weight, or its module."""
    generic = re.sub(r"(?<![^.])\d+(?![^.])", "*", name)
    for full in (generic, generic.rpartition(".")[0]):
        found = [key for key in plan if full and (full == key or full.endswith(f".{key}"))]
        if found:
            return max(found, key=len)
    return None


def _odd(spec: P, shape: Shape, workers: int) -> str:
    """What transformers would drop of a weight."""
    for size, entry in zip(shape, spec.entries, strict=False):
        parts: Sequence[Any] = entry[1:] or (size,) if isinstance(entry, tuple) else (size,) if isinstance(entry, str) else ()
        for part in parts:
            if isinstance(part, int) and part % workers:
                return f"{part} is no multiple of {workers} workers: transformers drops the last {part % workers}, here they are padded"
    return ""
