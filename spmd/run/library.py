"""A program compiled once: with its slots, its signatures and its constants, kept in a folder and loaded by every worker."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Protocol

import tvm
from tvm.target import Target

from spmd import checks
from spmd.checks import door, told
from spmd.collectives import Slots, bind
from spmd.errors import ShardingError
from spmd.ir.normal import normalized
from spmd.ir.per_worker import check_whole
from spmd.placement.arrays import host
from spmd.placement.layout import Array
from spmd.placement.mesh import Mesh
from spmd.plan.decisions import Signature
from spmd.plan.model import Plan
from spmd.plan.serialize import dumps, loads
from spmd.schedules import build as compile_module
from spmd.schedules import resolve
from spmd.weights.folder import HEADER as WEIGHTS

from .constants import Stored, constants_by_name, read_constants, write_constants
from .signatures import signatures

PROGRAM, CONSTANTS, HEADER = "program.so", "constants.bin", "program.json"
_WAY_OUT = "Build and export it again."
_INSTRUCTIONS = ("aes", "amx", "avx", "bmi", "f16c", "fma", "lzcnt", "movbe", "popcnt", "sha", "sse", "sve", "vaes", "vpclmul")
"""What the names of instruction sets begin with; other features say how fast something is."""


class Sharded(Protocol):
    """What is read of a sharded module."""

    @property
    def mod(self) -> Any:
        """The program of each worker, an IRModule."""
        ...

    @property
    def mesh(self) -> Mesh:
        """The workers."""
        ...

    @property
    def plan(self) -> Plan:
        """Whose `functions` give the signature of each function."""
        ...


@dataclass(frozen=True)
class Header:
    """All of a library that is no code and no data, as JSON."""

    versions: dict[str, str]
    target: str
    mesh: Mesh
    functions: dict[str, Signature]
    divisible: dict[str, int]
    slots: Slots
    stored: dict[str, Stored] = field(default_factory=dict[str, Stored])
    files: dict[str, str] = field(default_factory=dict[str, str])
    """The SHA-256 of each file."""


@dataclass(frozen=True, eq=False)
class Library:
    """A compiled program that `spmd.workers` runs on any backend of its target."""

    executable: Any = field(repr=False)
    target: Target
    mesh: Mesh
    functions: Mapping[str, Signature] = field(repr=False)
    divisible: Mapping[str, int]
    slots: Slots
    constants: Mapping[str, Array] = field(repr=False)
    """The whole arrays of what were constants of the program, by name."""

    @door(folder=checks.path)
    def export(self, folder: str | Path) -> Path:
        """Write it to a folder, for `spmd.load`. What was there of another library is replaced when all is written."""
        place = Path(folder)
        place.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".export-", dir=place) as made:
            try:
                self.executable.export_library(str(Path(made) / PROGRAM))
            except (RuntimeError, OSError, ValueError) as error:
                what = f"it cannot be linked: {type(error).__name__}: {error}"
                raise ShardingError("Library.export", what, "A C compiler, cc, makes a shared library of it.") from error
            stored = write_constants(Path(made) / CONSTANTS, self.constants)
            files = {name: _digest(Path(made) / name) for name in (PROGRAM, CONSTANTS)}
            header = Header(_versions(), str(self.target), self.mesh, dict(self.functions), dict(self.divisible), self.slots, stored, files)
            (Path(made) / HEADER).write_text(dumps(header) + "\n")
            with contextlib.suppress(FileNotFoundError):
                (place / HEADER).unlink()
            for name in (PROGRAM, CONSTANTS, HEADER):
                os.replace(Path(made) / name, place / name)
        return place

    @property
    def fingerprint(self) -> str:
        """What processes that run it together compare."""
        return _digest_of(f"{self.mesh} {self.target} {dict(self.functions)} {dict(self.divisible)} {self.slots.slots} {self.slots.sites}")


def program(where: str, given: Any) -> Any:
    """What runs on workers, as a check of arguments."""
    if isinstance(given, (Library, tvm.IRModule)) or (isinstance(getattr(given, "mod", None), tvm.IRModule) and hasattr(given, "plan")):
        return given
    way_out = WHOLE if isinstance(given, Plan) else "Write spmd.workers(spmd.shard(mod, mesh))."
    raise ShardingError(where, f"it takes what spmd.shard() gives, or an IRModule for one worker, and got {told(given)}", way_out)


WHOLE = "Pass what spmd.shard() gave, which has the plan too: spmd.workers(sharded)."


@dataclass(frozen=True)
class Bound:
    """A program whose collectives have slots, before it is compiled."""

    mod: tvm.IRModule
    mesh: Mesh
    functions: Mapping[str, Signature]
    divisible: Mapping[str, int]
    slots: Slots
    constants: Mapping[str, Array]

    @classmethod
    def of(cls, sharded: Sharded | tvm.IRModule, rows: bool) -> Bound:
        """A plain IRModule has one worker. See `spmd.collectives.bind` for `rows`."""
        if isinstance(sharded, tvm.IRModule):
            check_whole(sharded, "workers()", WHOLE)
            whole, mesh, functions = normalized(sharded), Mesh(tp=1), signatures(sharded)
        else:
            whole, mesh, functions = sharded.mod, sharded.mesh, dict(sharded.plan.functions)
        divisible: Mapping[str, int] = {} if isinstance(sharded, tvm.IRModule) else sharded.plan.divisible
        mod, slots = bind(whole, rows=rows)
        constants = {name: host(data) for name, data in constants_by_name(whole, functions).items()}
        return cls(mod, mesh, functions, divisible, slots, constants)

    def library(self, executable: Any, target: Target) -> Library:
        """What it is with its executable."""
        return Library(executable, target, self.mesh, self.functions, self.divisible, self.slots, self.constants)


@door(sharded=program)
def build(sharded: Sharded | tvm.IRModule, target: Any = "llvm") -> Library:
    """Compile what `spmd.shard` gives, or a plain IRModule, once: to be exported, or run by `spmd.workers` on any backend of the target."""
    resolved = resolved_target("build(), target", target)
    bound = Bound.of(sharded, rows=True)
    return bound.library(compiled("build()", bound.mod, resolved), resolved)


def compiled(where: str, mod: tvm.IRModule, target: Target) -> Any:
    """`mod` as an executable. What TVM cannot compile it says with errors of its own, which are told with ours."""
    try:
        return compile_module(mod, target, parallel=True)
    except Exception as error:
        if isinstance(error, ShardingError) or type(error) is RuntimeError:  # as TVM passes on Ctrl-C
            raise
        said = str(error).strip().splitlines() or [""]
        what = f"TVM cannot compile the program for {target.kind.name}: {type(error).__name__}: {said[-1]}"
        raise ShardingError(where, what, "TVM's own error, above this one, shows where; it may lack code for a type.") from error


@door(folder=checks.path)
def load(folder: str | Path) -> Library:
    """Read what `Library.export` wrote. Raises `ShardingError` for what is missing, changed, or of other versions."""
    place = Path(folder)
    if not (place / HEADER).is_file():
        way_out = "Its weights are for w.load(folder)." if (place / WEIGHTS).is_file() else "Give the folder that Library.export wrote."
        raise ShardingError(f"spmd.load({str(folder)!r})", f"there is no {HEADER} in it", way_out)
    header = loads(Header, checks.read("spmd.load", place / HEADER))
    if header.versions != _versions():
        said = [", ".join(f"{name} {number}" for name, number in found.items()) for found in (header.versions, _versions())]
        raise ShardingError(f"spmd.load({str(folder)!r})", f"it was built with {said[0]}, and here are {said[1]}", _WAY_OUT)
    for name in (PROGRAM, CONSTANTS):
        if not (place / name).is_file() or _digest(place / name) != header.files.get(name):
            what = "is not the file that was exported" if (place / name).is_file() else "is missing"
            raise ShardingError(f"spmd.load({str(folder)!r})", f"{name} {what}", _WAY_OUT)
    target = Target(json.loads(header.target))
    if lacking := _lacking(target):
        what = f"it is compiled for {target.attrs['mcpu']}, and this machine has no {', '.join(lacking[:3])}"
        raise ShardingError(f"spmd.load({str(folder)!r})", what, 'Build it for less, as {"kind": "llvm", "mcpu": "x86-64-v3"}.')
    executable = tvm.runtime.load_module(str(place / PROGRAM))
    constants = read_constants(place / CONSTANTS, header.stored)
    return Library(executable, target, header.mesh, header.functions, header.divisible, header.slots, constants)


def _lacking(target: Target) -> list[str]:
    """The instructions that code for a CPU target uses and that this machine has not."""
    features = tvm.get_global_func("target.llvm_get_cpu_features", allow_missing=True)
    if target.kind.name != "llvm" or features is None:
        return []
    here, wanted = ({str(name) for name in features(t)} for t in (resolve("llvm"), target))
    return sorted(name for name in wanted - here if name.startswith(_INSTRUCTIONS))


def resolved_target(where: str, target: Any) -> Target:
    """`target` as `spmd.schedules` resolves it, with our errors."""
    try:
        return resolve(target)
    except ShardingError:
        raise
    except (TypeError, ValueError) as error:
        raise ShardingError(where, f"{error}".rstrip("."), "") from error


def _versions() -> dict[str, str]:
    return {name: _version(name) for name in ("spmd", "apache-tvm", "apache-tvm-ffi")}


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:  # run from its sources
        return "unknown"


def _digest(path: Path) -> str:
    found = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            found.update(block)
    return found.hexdigest()


def _digest_of(data: str | bytes) -> str:
    return hashlib.sha256(data.encode() if isinstance(data, str) else data).hexdigest()
