"""The options that say what is planned, and for what."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tvm import relax

from spmd import presets
from spmd.annotate.importers import TensorParallelPlan, from_huggingface
from spmd.checks import bytes_of, read
from spmd.costs.profile import Profile
from spmd.errors import ShardingError
from spmd.placement.mesh import Mesh
from spmd.placement.spec import P, Remat, same

from .modules import KINDS, module_of, own_plan

_PRESETS: Mapping[str, tuple[Callable[..., Any], str]] = {
    "megatron": (presets.megatron, "tp"),
    "sequence_parallel": (presets.sequence_parallel, "tp"),
    "data_parallel": (presets.data_parallel, "dp"),
    "fsdp": (presets.fsdp, "dp"),
}
"""Ready-made specs, and the axis that they are over unless another one is said."""


def add_planning(parser: argparse.ArgumentParser) -> None:
    """The options of every command that plans for one mesh."""
    add_module(parser)
    parser.add_argument("--mesh", metavar="AXIS=N,...", help="workers by axis, as tp=4 or dp=2,tp=4")
    parser.add_argument("--hosts", type=int, default=1, metavar="N", help="on how many hosts the workers stand, as many on each")
    parser.add_argument("--devices", type=_devices, metavar="N,...", help="the device of each worker, numbered host by host, as 0,2,1,3")
    parser.add_argument("--link", action="append", default=[], metavar="AXIS=NAME", help="what an axis runs over, as dp=network")


def add_module(parser: argparse.ArgumentParser) -> None:
    """The options that say what is planned, whatever the mesh."""
    parser.add_argument("file", help=KINDS)
    parser.add_argument("--module", help="the name of the module in a Python file; needed where it has several")
    parser.add_argument("--memory", metavar="BYTES", help="the most that a worker may hold, as 24GB")
    parser.add_argument("--spec", action="append", default=[], metavar="PATTERN=P(...)", help="what you ask for, as '*.w1=P(\"tp\", None)'")
    parser.add_argument("--preset", metavar="NAME[=AXIS]", help=f"ready-made specs: {', '.join(_PRESETS)}; --spec goes before them")
    parser.add_argument("--tp-plan", metavar="FILE", help="a tp_plan of transformers as JSON, or own: that of a folder of Hugging Face")
    parser.add_argument("--profile", default="generic", help="hardware, as h100, or a file, as mine.json (default: generic)")
    parser.add_argument("--size", "--sizes", action="append", default=[], metavar="NAME=N,...", help="symbolic sizes to plan for")
    parser.add_argument("--divisible", action="append", default=[], metavar="NAME=N,...", help="by what symbolic sizes can be divided")


def planned(options: argparse.Namespace) -> dict[str, Any]:
    """The arguments of `plan` and `shard`."""
    if options.mesh is None:
        raise ShardingError("--mesh", "nothing says how many workers there are", "Write --mesh tp=4.")
    links = dict(_link(text) for text in options.link)
    asked = module_and_wishes(options)
    return {**asked, "mesh": Mesh(links=links or None, hosts=options.hosts, devices=options.devices, **numbers("--mesh", options.mesh))}


def module_and_wishes(options: argparse.Namespace) -> dict[str, Any]:
    """The arguments of `plan` but for the mesh."""
    mod = module_of(Path(options.file), options.module)
    return {
        "mod": mod,
        "specs": {**_preset(mod, options.preset), **tp_plan(mod, options).specs, **dict(_spec(text) for text in options.spec)},
        "profile": Profile.load(options.profile) if options.profile.endswith(".json") else options.profile,
        "sizes": numbers("--size", ",".join(options.size)) if options.size else None,
        "divisible": numbers("--divisible", ",".join(options.divisible)) if options.divisible else None,
        "memory": None if options.memory is None else _memory(options.memory),
    }


def _preset(mod: Any, text: str | None) -> dict[str, Any]:
    """The specs of a preset, by their own axis or that after the ``=``."""
    if text is None:
        return {}
    name, _, axis = text.partition("=")
    if name not in _PRESETS:
        raise ShardingError(f"--preset {text}", f"there is no preset {name!r}", f"There are {', '.join(_PRESETS)}.")
    make, default = _PRESETS[name]
    return dict(make(mod, axis=axis or default))


def tp_plan(mod: Any, options: argparse.Namespace) -> TensorParallelPlan:
    """What --tp-plan says of the weights of a module, over the axis tp, and what it leaves."""
    if options.tp_plan is None:
        return TensorParallelPlan({}, {})
    where = f"--tp-plan {options.tp_plan}"
    if options.tp_plan == "own":
        styles: Any = own_plan(Path(options.file))
    else:
        try:
            styles = json.loads(read(where, options.tp_plan))
        except ValueError as error:
            raise ShardingError(where, f"it is no JSON: {error}", "Write json.dump(model.tp_plan, file).") from error
    return from_huggingface(styles, _weights(mod), workers=numbers("--mesh", options.mesh).get("tp"))


def _weights(mod: Any) -> dict[str, tuple[int, ...]]:
    """The shapes of the weights of all functions, of those whose shapes are known."""
    found: dict[str, tuple[int, ...]] = {}
    for _, function in mod.functions_items():
        count = (function.attrs or {}).get("num_input") if isinstance(function, relax.Function) else None
        for var in function.params[int(count) :] if count is not None else ():
            sizes = getattr(getattr(var.ty, "shape", None), "values", ())
            if sizes and all(hasattr(size, "value") for size in sizes):
                found[str(var.name)] = tuple(int(size) for size in sizes)
    return found


def _memory(text: str) -> float:
    found = bytes_of(text)
    if found is None:
        raise ShardingError(f"--memory {text}", "it is no number of bytes", "Write --memory 24GB, or --memory 24e9.")
    return found


def _spec(text: str) -> tuple[str, Any]:
    """``pattern=P("tp", None)``."""
    where, way_out = f"--spec {text!r}", "Write --spec 'w1=P(\"tp\", None)'."
    parts = re.fullmatch(r"(.+?)=(?:spmd\.)?((?:P|same|remat)\(.*\))", text)
    if parts is None:
        raise ShardingError(where, "it is no PATTERN=P(...)", way_out)
    try:
        return parts[1], eval(parts[2], {"P": P, "same": same, "remat": Remat})
    except ShardingError:
        raise
    except Exception as error:
        raise ShardingError(where, f"{parts[2]} is no spec: {error}", way_out) from error


def _link(text: str) -> tuple[str, str]:
    axis, mark, name = text.partition("=")
    if not mark or not axis or not name:
        raise ShardingError(f"--link {text}", "it is no AXIS=NAME", "Write --link dp=network.")
    return axis, name


def _devices(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]


def numbers(option: str, text: str) -> dict[str, int]:
    """``dp=2,tp=4``, or a number alone for one axis tp."""
    if option == "--mesh" and text.isdigit():
        return {"tp": int(text)}
    found: dict[str, int] = {}
    for part in text.split(","):
        name, mark, number = part.strip().partition("=")
        if not mark or not name.isidentifier() or not number.isdigit() or name in found:
            example = "dp=2,tp=4" if option == "--mesh" else "batch=1"
            raise ShardingError(f"{option} {text}", f"{part.strip()!r} is no new NAME=N", f"Write {option} {example}.")
        found[name] = int(number)
    return found
