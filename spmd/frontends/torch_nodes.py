"""What a node of a program of PyTorch says of itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def name_of(node: Any) -> str:
    """The name of its operator, without that of the overload."""
    return getattr(node.target, "__name__", "").partition(".")[0]


def dtype_of(value: Any) -> str:
    """The dtype of what it makes, or of a tensor of PyTorch, as TVM calls it."""
    tensor = value.meta["val"] if hasattr(value, "meta") else value
    return str(tensor.dtype).removeprefix("torch.")


def arguments(node: Any, defaults: Mapping[str, Any]) -> dict[str, Any]:
    """What it is given by name: `defaults` has all names in their order, and what stands for those that are not given."""
    return {**defaults, **dict(zip(defaults, node.args, strict=False)), **node.kwargs}
