"""What a public function may ask of its arguments, one check for each kind: `door` takes them by name.

A check takes where it stands ("shard(), mesh") and what was given, and gives what that means, or raises `ShardingError`.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, cast

import tvm
from tvm import relax
from tvm.relax.frontend import nn

from spmd.errors import ShardingError

from .door import Check, told

_EXPORT = "mod, params = network.export_tvm({...})"
_BYTES = re.compile(r"\s*([0-9]*\.?[0-9]+)\s*([kmgt]?i?)(?:b|bytes)?\s*")
_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}


def maybe(check: Check) -> Check:
    """None, or what `check` takes."""
    return lambda where, given: None if given is None else check(where, given)


def either(*checks: Check) -> Check:
    """What one of them takes; the error is that of the first."""

    def check(where: str, given: Any) -> Any:
        for other in checks[1:]:
            try:
                return other(where, given)
            except ShardingError:
                continue
        return checks[0](where, given)

    return check


def instance(kind: type | tuple[type, ...], way_out: str = "") -> Check:
    """An object of this type, or of one of these."""
    kinds = kind if isinstance(kind, tuple) else (kind,)
    wanted = " or ".join(k.__name__ for k in kinds)

    def check(where: str, given: Any) -> Any:
        if not isinstance(given, kinds):
            raise ShardingError(where, f"it takes {'an' if wanted[0] in 'AEIOU' else 'a'} {wanted}, and got {told(given)}", way_out)
        return given

    return check


def text(where: str, given: Any) -> str:
    """A text that is not empty."""
    if not isinstance(given, str) or not given:
        raise ShardingError(where, f"it takes a text, and got {told(given)}")
    return given


def texts(where: str, given: Any) -> tuple[str, ...]:
    """Texts; one alone is a mistake, as its letters would be taken."""
    if isinstance(given, str) or not isinstance(given, Sequence):
        raise ShardingError(
            where, f"it takes a list of texts, and got {told(given)}", f"Write [{given!r}]." if isinstance(given, str) else ""
        )
    return tuple(text(where, one) for one in cast("Sequence[Any]", given))


def flag(where: str, given: Any) -> bool:
    """True or False."""
    if not isinstance(given, bool) and type(given).__name__ != "bool":
        raise ShardingError(where, f"it takes True or False, and got {told(given)}")
    return bool(given)


def path(where: str, given: Any) -> Any:
    """The name of a file."""
    if not isinstance(given, str | PathLike) or not str(cast("object", given)):
        raise ShardingError(where, f"it takes the name of a file, and got {told(given)}")
    return cast("Any", given)


def read(where: str, file: Any) -> str:
    """The text of a file."""
    try:
        return Path(file).read_text()
    except UnicodeDecodeError as error:
        raise ShardingError(where, f"{str(file)!r} is no text ({error})", "Give the file that was saved.") from None


def shape(where: str, given: Any) -> Any:
    """Sizes, None (or -1) where one is symbolic."""
    if not isinstance(given, list | tuple):
        raise ShardingError(where, f"it takes a tuple of sizes, and got {told(given)}")
    return tuple(None if size is None else whole(-1)(where, size) for size in cast("Sequence[Any]", given))


def listed(where: str, given: Any) -> Any:
    """A list or a tuple of anything."""
    if not isinstance(given, list | tuple):
        raise ShardingError(where, f"it takes a list, and got {told(given)}")
    return cast("Any", given)


def function(where: str, given: Any) -> Any:
    """What can be called."""
    if not callable(given):
        raise ShardingError(where, f"it takes a function, and got {told(given)}")
    return given


def index(given: object) -> int | None:
    """A whole number as an int of Python, those of NumPy and TVM among them; None for what is none."""
    if isinstance(given, bool) or type(given).__name__ in ("bool", "bool_"):
        return None
    try:
        return operator.index(cast("Any", given))
    except (TypeError, ValueError):  # an array of several numbers, too
        return None


def whole(least: int, way_out: str = "") -> Check:
    """A whole number, `least` or more."""

    def check(where: str, given: Any) -> int:
        found = index(given)
        if found is None or found < least:
            raise ShardingError(where, f"it takes a whole number, {least} or more, and got {told(given)}", way_out)
        return found

    return check


def seed(where: str, given: Any) -> int:
    """The seed of random numbers."""
    return whole(0)(where, given)


def number(least: float = 0.0, above: bool = False, way_out: str = "") -> Check:
    """A number, `least` or more (or above it)."""

    def check(where: str, given: Any) -> float:
        real = isinstance(given, int | float) or (hasattr(given, "dtype") and getattr(given, "ndim", 1) == 0)
        try:
            found = float(given) if real and not isinstance(given, bool) else math.nan
        except (TypeError, ValueError, OverflowError):
            found = math.nan
        if not (found > least if above else found >= least):
            raise ShardingError(where, f"it takes a number {'above' if above else 'of at least'} {least:g}, and got {told(given)}", way_out)
        return found if not isinstance(given, int) else given

    return check


def bytes_of(text: str) -> float | None:
    """The number of bytes that a text says, such as "24GB", "512 MiB" or "24e9"; None where it says none."""
    match = _BYTES.fullmatch(text.lower())
    if match is not None and match[2] in _UNITS:
        return float(match[1]) * _UNITS[match[2]]
    try:
        return float(text)
    except ValueError:
        return None


def memory(where: str, given: Any) -> float:
    """A number of bytes; a text such as "24GB" is told which number it means."""
    if isinstance(given, str):
        match = _BYTES.fullmatch(given.lower())
        plain = "24e9"
        if match is not None and match[2] in _UNITS:
            size, unit = match[1], _UNITS[match[2]]
            plain = f"{size}e{round(math.log10(unit))}" if "i" not in match[2] else f"{size} * 2**{round(math.log2(unit))}"
        raise ShardingError(where, f"it takes a number of bytes, and got {given!r}", f"Write memory={plain}, a number.")
    way_out = "Give a number of bytes, memory=24e9; math.inf is no limit."
    if index(given) is None and not isinstance(given, float) and not hasattr(given, "dtype"):
        raise ShardingError(where, f"it takes a number of bytes, and got {told(given)}", way_out)
    try:
        return number(0.0, True)(where, given)
    except ShardingError:
        raise ShardingError(where, f"a worker cannot have {given!r} bytes", way_out) from None


def mapping(what: str, example: str, value: Check) -> Check:
    """A mapping from texts to what `value` takes."""

    def check(where: str, given: Any) -> Any:
        if not isinstance(given, Mapping):
            raise ShardingError(where, f"it maps {what}, and got {told(given)}", f"Write {example}.")
        found: dict[str, Any] = {}
        for name, one in cast("Mapping[Any, Any]", given).items():
            if not isinstance(name, str):
                raise ShardingError(where, f"it maps {what}, and has the key {told(name)}", f"Write {example}.")
            found[name] = value(f"{where}[{name!r}]", one)
        return found

    return check


sizes = mapping("names of symbolic sizes to sizes", 'sizes={"n": 128}', whole(0, "A size is a whole number, 0 or more."))


def _divisor(where: str, given: Any) -> int:
    found = index(given)
    if found is None or found < 1:
        what = f"{where.partition('[')[2].removesuffix(']')} is said to be divisible by {given!r}"
        raise ShardingError("divisible", what, "Give a whole number, 1 or more.")
    return found


divisible = mapping("names of symbolic sizes to what divides them", 'divisible={"n": 8}', _divisor)


def module(where: str, given: Any) -> tvm.IRModule:
    """A whole-model Relax module."""
    if isinstance(given, tvm.IRModule):
        return given
    raise ShardingError(where, f"it takes an IRModule, and got {told(given)}", _instead_of_module(given))


def _instead_of_module(given: Any) -> str:
    """What to write where something else stands in the place of a module."""
    kind = type(given).__module__.partition(".")[0]
    if isinstance(given, tuple) and any(isinstance(part, tvm.IRModule) for part in cast("tuple[Any, ...]", given)):
        starred = "Write spmd.shard(*imported)." if hasattr(given, "specs") else f"export_tvm gives a pair: write {_EXPORT}, and pass mod."
        return starred
    if isinstance(given, nn.Module) or (isinstance(given, type) and issubclass(given, nn.Module)):
        return f"Export it first: {_EXPORT}."
    if isinstance(getattr(given, "mod", None), tvm.IRModule):
        return "This is sharded already: start from the module that was sharded, or pass what has its plan to spmd.workers()."
    if hasattr(given, "choices") and hasattr(given, "mesh"):
        return "This is a plan: write spmd.lower(mod, plan)."
    if isinstance(given, relax.Function | tvm.tirx.PrimFunc):
        return 'Put the function into one: tvm.IRModule({"main": function}).'
    if kind == "torch":
        return "Import it first: tvm.relax.frontend.torch.from_exported_program(torch.export.export(network, inputs))."
    if isinstance(given, str | PathLike) or kind == "onnx":
        return "Read the model first: tvm.relax.frontend.onnx.from_onnx(onnx.load(path)), or tvm.ir.load_json(text)."
    return f"A network of tvm.relax.frontend.nn gives one: {_EXPORT}."
