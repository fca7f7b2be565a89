"""Frozen dataclasses to JSON and back, by their type annotations."""

from __future__ import annotations

import dataclasses
import json
import sys
import types
from collections.abc import Mapping
from typing import Any, ForwardRef, TypeVar, Union, get_args, get_origin, get_type_hints

from .mesh import Mesh

T = TypeVar("T")


def dumps(value: Any) -> str:
    """JSON text of a dataclass; equal values give equal text. Fields that no constructor takes are left out."""
    return json.dumps(_encode(value), indent=1)


def loads(kind: type[T], text: str) -> T:
    """The dataclass `kind` that `dumps` wrote."""
    return _decode(kind, json.loads(text), {})


def _encode(value: Any) -> Any:
    if isinstance(value, Mesh):
        return {**value.axes, **value.extras()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {"@": type(value).__name__, **{f.name: _encode(getattr(value, f.name)) for f in dataclasses.fields(value) if f.init}}
    if isinstance(value, dict):
        return {k: _encode(v) for k, v in value.items()}
    return [_encode(v) for v in value] if isinstance(value, list | tuple) else value


def _decode(kind: Any, raw: Any, names: Mapping[str, Any]) -> Any:
    """`raw` as a `kind`, whose forward references are looked up in `names`."""
    if isinstance(kind, ForwardRef | str):  # a type that holds itself, such as a tree, keeps its name inside
        kind = names[kind if isinstance(kind, str) else kind.__forward_arg__]
    origin, args = get_origin(kind), get_args(kind)
    if kind is Mesh:
        return Mesh(**raw)
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        hints, names = get_type_hints(kind), vars(sys.modules[kind.__module__])
        return kind(**{f.name: _decode(hints[f.name], raw[f.name], names) for f in dataclasses.fields(kind) if f.init})
    if origin in (Union, types.UnionType):
        return None if raw is None else _decode(_member(args, raw), raw, names)
    if origin is tuple:
        if len(args) == 2 and args[1] is ...:
            return tuple(_decode(args[0], r, names) for r in raw)
        return tuple(_decode(a, r, names) for a, r in zip(args, raw, strict=True))
    if origin is dict:
        return {k: _decode(args[1], v, names) for k, v in raw.items()}
    return [_decode(args[0], r, names) for r in raw] if origin is list else raw


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
