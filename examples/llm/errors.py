"""The one error of this example: a line that names the value, what was expected and the way out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class ModelError(Exception):
    """A model, file or option that cannot be used; its text is one line, ``where: what. way_out``."""

    def __init__(self, where: object, what: str, way_out: str) -> None:
        super().__init__(" ".join(f"{where}: {what}. {way_out}".split()))


def require(metadata: Mapping[str, Any], key: str, source: str) -> Any:
    """`metadata[key]`, or a ModelError that names the key and the file it should be in."""
    if key not in metadata:
        raise ModelError(source, f"key '{key}' is missing", "Use a complete model file.")
    return metadata[key]


def require_size(metadata: Mapping[str, Any], key: str, source: str) -> int:
    """`metadata[key]` as a whole number of at least 1; raises ModelError for anything else."""
    value = require(metadata, key, source)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ModelError(source, f"key '{key}' is {value!r}", "It must be a whole number of at least 1.")
    return value


def optional_size(metadata: Mapping[str, Any], key: str, source: str, default: int) -> int:
    """`metadata[key]` as `require_size` takes it, or `default` where it is missing or null."""
    return default if metadata.get(key) is None else require_size(metadata, key, source)
