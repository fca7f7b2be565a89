"""Reading what anybody may have written, with nothing believed: JSON of bounded size, sizes and places, names of files in a folder."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from spmd.errors import ShardingError

DOWNLOAD = "Download it again, or write it again."
MOST_JSON = 100_000_000
"""The bytes of a header that the safetensors format allows."""
MOST_DIMS = 64
_WIDEST = 1 << 62


def json_object(where: str, data: bytes) -> dict[str, Any]:
    """A JSON object without names that come twice. Raises `ShardingError`."""
    try:
        found = json.loads(data, object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise ShardingError(where, f"it is no JSON ({error})", DOWNLOAD) from None
    if not isinstance(found, dict):
        raise ShardingError(where, f"it is a JSON {type(found).__name__}, and no object", DOWNLOAD)
    return cast("dict[str, Any]", found)


def json_file(path: Path) -> dict[str, Any]:
    """The JSON object in a file of at most `MOST_JSON` bytes. Raises `ShardingError`."""
    if path.stat().st_size > MOST_JSON:
        raise ShardingError(str(path), f"it has {path.stat().st_size} bytes, and {MOST_JSON} at most are read", DOWNLOAD)
    return json_object(str(path), path.read_bytes())


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"{name!r} comes twice")
        found[name] = value
    return found


def file_name(where: str, name: Any) -> str:
    """The name of a file in the same folder. Raises `ShardingError` for a path, which may lead anywhere."""
    if not isinstance(name, str) or name in ("", ".", "..") or any(c in "/\\:" or ord(c) < 32 for c in name):
        raise ShardingError(where, f"it names the file {name!r}, which is no name of a file in its folder", DOWNLOAD)
    return name


def shape(where: str, given: Any) -> tuple[int, ...]:
    """The sizes of a tensor."""
    sizes: list[Any] = cast("list[Any]", given) if isinstance(given, list) else [None]
    if len(sizes) > MOST_DIMS or not all(type(size) is int and 0 <= size < _WIDEST for size in sizes):
        raise ShardingError(where, f"its shape is {_short(given)}, and no list of at most {MOST_DIMS} sizes", DOWNLOAD)
    return tuple(sizes)


def nbytes(shape: Sequence[int], itemsize: int) -> int:
    """Bytes of a tensor; exact, however large."""
    return math.prod(shape) * itemsize


def check_places(where: str, places: Mapping[str, tuple[int, int]], size: int, holes: bool) -> None:
    """Raise `ShardingError` unless these (begin, end) lie in so many bytes and do not overlap; without `holes` they fill them."""
    at, before = 0, ""
    for name, (begin, end) in sorted(places.items(), key=lambda item: (item[1], item[0])):
        if begin < at:
            raise ShardingError(where, f"the tensors {before!r} and {name!r} overlap, at byte {begin} of the data", DOWNLOAD)
        if end > size:
            what = f"tensor {name!r} ends at byte {end} of the data, and the file has {size} of them: it is truncated, or its header lies"
            raise ShardingError(where, what, DOWNLOAD)
        if begin > at and not holes:
            raise ShardingError(where, f"bytes {at} to {begin} of the data, before {name!r}, belong to no tensor", DOWNLOAD)
        at, before = max(at, end), name
    if at < size and not holes:
        raise ShardingError(where, f"bytes {at} to {size} of the data belong to no tensor", DOWNLOAD)


def short_list(names: Iterable[str], most: int = 3) -> str:
    """The first of some names, and how many more there are."""
    found = list(names)
    more = f" and {len(found) - most} more" if len(found) > most else ""
    return ", ".join(map(repr, found[:most])) + more


def _short(given: Any) -> str:
    text = repr(given)
    return text if len(text) < 80 else f"{text[:76]}..."
