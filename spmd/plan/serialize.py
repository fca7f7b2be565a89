"""Frozen dataclasses to JSON and back, by their type annotations."""

from __future__ import annotations

import dataclasses
import json
import sys
import types
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, ForwardRef, TypeVar, Union, get_args, get_origin, get_type_hints

from spmd.errors import ShardingError
from spmd.placement.mesh import Mesh
from spmd.placement.sharding import Segment, segments_of, segments_text

T = TypeVar("T")
_WAY_OUT = "Write it again with this version."


def dumps(value: Any) -> str:
    """JSON text of a dataclass; equal values give equal text. Fields that no constructor takes are left out."""
    return json.dumps(_encode(value), indent=1)


def loads(kind: type[T], text: str) -> T:
    """The dataclass `kind` that `dumps` wrote. A field that the text lacks, as it is newer, has its default.

    Raises `ShardingError` for a text that is none of it. What a dataclass says to be `wrong` with itself is an error, too.
    """
    try:
        raw = json.loads(text)
    except ValueError as error:
        raise ShardingError(kind.__name__, f"the text is no JSON ({error})", _WAY_OUT) from error
    return _decode(kind, raw, {})


def _encode(value: Any) -> Any:
    if isinstance(value, Mesh):
        return {**value.axes, **value.extras()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {"@": type(value).__name__, **{f.name: _encode(getattr(value, f.name)) for f in dataclasses.fields(value) if f.init}}
    if isinstance(value, dict):
        return {k: _encode(v) for k, v in value.items()}
    if isinstance(value, tuple) and len(value) > 1 and all(isinstance(v, Segment) for v in value):
        return segments_text(value)
    return [_encode(v) for v in value] if isinstance(value, list | tuple) else value


def _decode(kind: Any, raw: Any, names: Mapping[str, Any]) -> Any:
    """`raw` as a `kind`, whose forward references are looked up in `names`."""
    if isinstance(kind, ForwardRef | str):  # a type that holds itself, such as a tree, keeps its name inside
        kind = names[kind if isinstance(kind, str) else kind.__forward_arg__]
    origin, args = get_origin(kind), get_args(kind)
    if kind is Mesh:
        return Mesh(**_of_type(dict, raw, "a mesh"))
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return _decode_dataclass(kind, raw)
    if origin in (Union, types.UnionType):
        return None if raw is None and type(None) in args else _decode(_member(args, raw), raw, names)
    if origin is tuple:
        return _decode_tuple(args, raw, names)
    if origin is dict:
        return {k: _decode(args[1], v, names) for k, v in _of_type(dict, raw, "an object").items()}
    if origin is list:
        return [_decode(args[0], r, names) for r in _of_type(list, raw, "a list")]
    return _of_type(kind, raw, kind.__name__) if kind in (int, str, bool, float) else raw


def _decode_dataclass(kind: type[Any], raw: Any) -> Any:
    """`raw`, an object, as a dataclass: it has no field that this one lacks, and all that it needs."""
    known = _fields(kind)
    if not isinstance(raw, dict) or not {"@", *known} >= raw.keys():
        unknown = ", ".join(repr(key) for key in raw if key not in ("@", *known)) if isinstance(raw, dict) else repr(raw)
        raise ShardingError(kind.__name__, f"the text has {unknown}, which it does not know", _WAY_OUT)
    missing = [name for name, (_, needed) in known.items() if needed and name not in raw]
    if missing:
        raise ShardingError(kind.__name__, f"the text has no {missing[0]!r}", _WAY_OUT)
    names = vars(sys.modules[kind.__module__])
    made = kind(**{name: _decode(hint, raw[name], names) for name, (hint, _) in known.items() if name in raw})
    if wrong := getattr(made, "wrong", ""):
        raise ShardingError(kind.__name__, f"the text has {made!r}: {wrong}", _WAY_OUT)
    return made


def _decode_tuple(members: tuple[Any, ...], raw: Any, names: Mapping[str, Any]) -> tuple[Any, ...]:
    """`raw`, a list, as a tuple of these members, or of any number of the first; segments are written as one text."""
    if members[0] is Segment and isinstance(raw, str):
        return segments_of(raw)
    _of_type(list, raw, "a list")
    if len(members) == 2 and members[1] is ...:
        return tuple(_decode(members[0], r, names) for r in raw)
    if len(members) != len(raw):
        raise ShardingError("JSON", f"{raw!r} stands where {len(members)} values go", _WAY_OUT)
    return tuple(_decode(member, r, names) for member, r in zip(members, raw, strict=True))


def _of_type(kind: type[Any], raw: Any, what: str) -> Any:
    """`raw`, which is of this type; a whole number is a float, too, and a truth value is no number."""
    if not isinstance(raw, (int, float) if kind is float else kind) or (isinstance(raw, bool) and kind is not bool):
        raise ShardingError("JSON", f"{raw!r} stands where {what} goes", _WAY_OUT)
    return raw


@lru_cache
def _fields(kind: type[Any]) -> dict[str, tuple[Any, bool]]:
    """The type of each field that a constructor takes, and whether it must."""
    hints = get_type_hints(kind)
    return {
        f.name: (hints[f.name], f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING)
        for f in dataclasses.fields(kind)
        if f.init
    }


def _member(members: tuple[Any, ...], raw: Any) -> Any:
    """The member of a union that `raw` was written from."""
    for m in members:
        if isinstance(raw, dict):
            if getattr(m, "__name__", "") == raw.get("@"):  # pyright: ignore[reportUnknownMemberType]
                return m
        elif isinstance(raw, list):
            if get_origin(m) is tuple:
                return m
        elif m is type(raw):
            return m
    return members[0]
