"""The door of a public function: it checks all arguments in one line, and says what to write instead."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, ParamSpec, TypeVar, cast

from spmd.errors import ShardingError, nearest

Check = Callable[[str, Any], Any]
"""From where it stands ("shard(), mesh") and what was given to what that means; or it raises `ShardingError`."""
_Given = ParamSpec("_Given")
_Made = TypeVar("_Made")


def door(way_out: str = "", /, **checks: Check) -> Callable[[Callable[_Given, _Made]], Callable[_Given, _Made]]:
    """Check the arguments of a public function by name. Arguments that it does not take are errors too, with `way_out`."""

    def decorator(function: Callable[_Given, _Made]) -> Callable[_Given, _Made]:
        signature = inspect.signature(function)
        where = function.__qualname__.removesuffix(".__init__")

        @functools.wraps(function)
        def enter(*args: _Given.args, **kwargs: _Given.kwargs) -> _Made:
            bound = arguments(where, signature, checks, args, kwargs, way_out)
            return function(*bound.args, **bound.kwargs)

        enter.__dict__["checks"] = checks
        return enter

    return decorator


def arguments(
    where: str, signature: inspect.Signature, checks: Mapping[str, Check], args: Any, kwargs: Any, way_out: str = ""
) -> inspect.BoundArguments:
    """The arguments of a call of what has this signature, checked by name."""
    try:
        bound = signature.bind(*args, **kwargs)
    except TypeError as error:
        known = [name for name in signature.parameters if name not in ("self", "cls")]
        unknown = next((n for n in kwargs if n not in known), None)
        usage = way_out or f"It takes {', '.join(_shown(signature.parameters[n]) for n in known) or 'no arguments'}."
        near = nearest(unknown, known) + " " if unknown is not None else ""
        raise ShardingError(f"{where}()", f"{error}", near + usage) from None
    for name, check in checks.items():
        if name in bound.arguments:
            bound.arguments[name] = check(f"{where}(), {name}", bound.arguments[name])
    return bound


def _shown(parameter: inspect.Parameter) -> str:
    return f"{parameter.name}=" if parameter.kind is inspect.Parameter.KEYWORD_ONLY else parameter.name


def told(value: object) -> str:
    """What an error calls a value that is not what it should be."""
    if value is None or isinstance(value, bool):
        return repr(value)
    if isinstance(value, int | float | str):
        short = repr(value) if len(repr(value)) < 80 else f"{repr(value)[:76]}..."
        return f"{type(value).__name__} {short}"
    if isinstance(value, type) or inspect.isroutine(value):
        return f"the {'class' if isinstance(value, type) else 'function'} {value.__name__}"
    shown = f" {value!r}" if isinstance(value, list | tuple | dict | set) and len(repr(cast("object", value))) < 60 else ""
    return f"a {type(value).__name__}{shown}"
