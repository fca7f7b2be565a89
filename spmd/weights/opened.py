"""What may stand in the place of weights by name: a folder or file that has them, or a function that gives them."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

from .checkpoint import OfSource, Shards, source
from .folder import HEADER, Folder
from .tensors import Source


def opened(given: Any) -> Shards | None:
    """Where the shards of workers are read from; None for arrays by name or in order. Raises `ShardingError` for files that are broken."""
    if isinstance(given, Folder):
        return given
    if isinstance(given, str | Path):
        return Folder.of(given) if (Path(given) / HEADER).is_file() else OfSource(source(given))
    if inspect.isroutine(given) or (isinstance(given, Source) and not isinstance(given, type)):
        return OfSource(source(given))
    return None
