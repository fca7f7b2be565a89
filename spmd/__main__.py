"""``python -m spmd explain module.py --mesh tp=4``: the plan of a module, from the shell; ``verify`` proves its program, ``run``
starts a script on workers, ``weights`` cuts a checkpoint for them, ``doctor`` says what works here.
"""

from __future__ import annotations

import argparse
import logging
import re
import runpy
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tvm

from .costs.profile import Profile
from .errors import ShardingError, nearest
from .pipeline import plan, shard
from .placement.mesh import Mesh
from .placement.spec import P
from .run.doctor import examine
from .run.launch import run
from .verify import verify
from .weights import command


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; 0 where it went well, 1 with a line on stderr where not."""
    parser = argparse.ArgumentParser(
        prog="python -m spmd", description="Plans of Relax modules, and programs that run on several processes."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    explain = commands.add_parser("explain", help="plan a module, and say where everything lives and why")
    _planned(explain)
    explain.add_argument("--name", action="append", default=[], help="explain this weight, input, output or value; may be given again")
    explain.add_argument("--html", metavar="FILE", help="write the plan as a page")
    explain.add_argument("--save", metavar="FILE", help="write the plan as JSON, for spmd.Plan.load")
    _planned(commands.add_parser("verify", help="shard a module, and prove that its workers compute what it computes"))
    start = commands.add_parser("run", help="start a script once for each worker, for spmd.workers(..., backend='mpi')")
    start.add_argument("-n", "--workers", type=int, required=True, metavar="N", help="how many processes")
    start.add_argument("--hosts", metavar="FILE", help="the hosts they run on, in a file of the MPI that is installed")
    weights = commands.add_parser("weights", help="cut a checkpoint for the workers of a plan: each gets its own files")
    command.add_options(weights)
    doctor = commands.add_parser("doctor", help="what works on this machine, and what mends the rest")
    doctor.add_argument("--quick", action="store_true", help="start no processes")
    start.usage = "python -m spmd run -n N [--hosts FILE] (script.py | -m module) [arguments ...]"
    arguments, program = _split(sys.argv[1:] if arguments is None else arguments)
    options = parser.parse_args(arguments)
    logging.getLogger("spmd").addHandler(logging.NullHandler())  # the notes are a part of what is printed
    try:
        if options.command == "run":
            _run(options, program)
        elif options.command == "weights":
            print(command.run(options))
        elif options.command == "doctor":
            print("\n".join(map(str, examine(self_test=not options.quick))))
        elif options.command == "verify":
            return _verify(options)
        else:
            _explain(options)
    except ShardingError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"error: {error.filename}: {error.strerror}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted" + (f": {command.GO_ON}" if options.command == "weights" else ""), file=sys.stderr)
        return 130
    return 0


def _planned(parser: argparse.ArgumentParser) -> None:
    """Add the options that say which module is planned, and for what."""
    parser.add_argument("file", help="a Python file that defines an IRModule")
    parser.add_argument("--module", help="the name of the module in the file; needed where it has several")
    parser.add_argument("--mesh", required=True, help="workers by axis, as tp=4 or dp=2,tp=4")
    parser.add_argument("--hosts", type=int, default=1, metavar="N", help="on how many hosts the workers stand, as many on each")
    parser.add_argument("--devices", type=_devices, metavar="N,...", help="the device of each worker, numbered host by host, as 0,2,1,3")
    parser.add_argument("--link", action="append", default=[], metavar="AXIS=NAME", help="what an axis runs over, as dp=network")
    parser.add_argument("--memory", type=float, metavar="BYTES", help="the most that a worker may hold")
    parser.add_argument("--spec", action="append", default=[], metavar="PATTERN=P(...)", help="what you ask for, as '*.w1=P(\"tp\", None)'")
    parser.add_argument("--profile", default="generic", help="hardware, as h100, or a file, as mine.json (default: generic)")
    parser.add_argument("--size", action="append", default=[], metavar="NAME=N", help="a symbolic size to plan for")


def _asked(options: argparse.Namespace) -> dict[str, Any]:
    """The arguments of `plan` and `shard`."""
    links = dict(_link(text) for text in options.link)
    return {
        "mod": _module(Path(options.file), options.module),
        "mesh": Mesh(links=links or None, hosts=options.hosts, devices=options.devices, **_numbers("--mesh", options.mesh)),
        "specs": dict(_spec(text) for text in options.spec),
        "profile": Profile.load(options.profile) if options.profile.endswith(".json") else options.profile,
        "sizes": _numbers("--size", ",".join(options.size)) if options.size else None,
        "memory": options.memory,
    }


def _verify(options: argparse.Namespace) -> int:
    asked = _asked(options)
    proof = verify(asked["mod"], shard(**asked))
    print(proof)
    return 0 if proof else 1


def _explain(options: argparse.Namespace) -> None:
    made = plan(**_asked(options))
    if options.name:
        print("\n".join([*map(made.explain, options.name), *(f"note: {note}" for note in made.notes)]))
    else:
        print(made.explain(), end="\n\n")
        _print(made.report())
    if options.html:
        print(f"wrote {made.show(options.html)}")
    if options.save:
        made.save(options.save)
        print(f"wrote {options.save}")


def _split(arguments: Sequence[str]) -> tuple[Sequence[str], Sequence[str]]:
    """Our arguments, and after ``run`` and its options the program to start with its own, which may look like ours."""
    if list(arguments[:1]) != ["run"]:
        return arguments, []
    place = 1
    while place < len(arguments) and arguments[place].startswith("-") and arguments[place] != "-m":
        place += 2 if arguments[place] in ("-n", "--workers", "--hosts") else 1
    return arguments[:place], arguments[place:]


def _run(options: argparse.Namespace, program: Sequence[str]) -> None:
    if options.workers < 1 or not program or list(program) == ["-m"]:
        what = f"{options.workers} workers for {' '.join(program) or 'no script'}"
        raise ShardingError("run", what, "Write python -m spmd run -n 2 script.py.")
    run(options.workers, program, options.hosts)


def _print(report: object) -> None:
    """With tables of `rich` on a terminal that has it, else as text."""
    try:
        from rich.console import Console
    except ImportError:
        print(report)
        return
    console = Console()
    console.print(report if console.is_terminal else str(report), markup=False, highlight=False, soft_wrap=not console.is_terminal)


def _module(file: Path, name: str | None) -> Any:
    """The module that a file defines, or the one of that `name`."""
    if not file.is_file():
        raise ShardingError(str(file), "there is no such file", "Give a Python file that defines an IRModule.")
    sys.path.insert(0, str(file.parent))
    try:
        defined = runpy.run_path(str(file), run_name=file.stem)
    except Exception as error:
        raise ShardingError(str(file), f"it fails with {type(error).__name__}: {error}", "It must run on its own.") from error
    finally:
        sys.path.remove(str(file.parent))
    modules = {key: value for key, value in defined.items() if isinstance(value, tvm.IRModule)}
    if name is not None:
        if name in modules:
            return modules[name]
        what = f"{name!r} is a {type(defined[name]).__name__}, no IRModule" if name in defined else f"it defines no module {name!r}"
        raise ShardingError(str(file), what, nearest(name, modules))
    found = list({id(value): value for value in modules.values()}.values())
    if len(found) != 1:
        what = f"it defines the modules {', '.join(modules)}" if found else "it defines no IRModule"
        raise ShardingError(str(file), what, "Choose one with --module." if found else "Bind one to a name at the top of the file.")
    return found[0]


def _spec(text: str) -> tuple[str, Any]:
    """``pattern=P("tp", None)``."""
    where, way_out = f"--spec {text!r}", "Write --spec 'w1=P(\"tp\", None)'."
    parts = re.fullmatch(r"(.+?)=(?:spmd\.)?(P\(.*\))", text)
    if parts is None:
        raise ShardingError(where, "it is no PATTERN=P(...)", way_out)
    try:
        return parts[1], eval(parts[2], {"P": P})
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


def _numbers(option: str, text: str) -> dict[str, int]:
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


if __name__ == "__main__":
    sys.exit(main())
