"""What each command does."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import tvm

from spmd.errors import ShardingError
from spmd.explain import Difference, Plan
from spmd.pipeline import lower, plan, shard
from spmd.placement.mesh import Mesh
from spmd.run.doctor import examine
from spmd.run.launch import run
from spmd.scaling import scaling
from spmd.verify import verify
from spmd.weights import command as weights

from . import as_json
from .examples import of_all, of_command
from .modules import module_of
from .options import add_module, add_planning, module_and_wishes, planned, tp_plan
from .traced import traced

_EPILOG = f"""{of_all()}

With --json, a command prints one object, and nothing else on stdout.
0 is returned where all went well, 1 after an error, which is one line on stderr, 2 for options that are none, 130 after Ctrl-C."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; 0 where it went well, 1 with a line on stderr where not."""
    parser = argparse.ArgumentParser(
        prog="python -m spmd",
        description="Plans of Relax modules, and programs that run on several processes.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"spmd {version('spmd')}")
    commands = parser.add_subparsers(dest="command", required=True)

    def command(name: str, does: Callable[[argparse.Namespace], int | None], text: str) -> argparse.ArgumentParser:
        said, form = f"{text[0].upper()}{text[1:]}.", argparse.RawDescriptionHelpFormatter
        made = commands.add_parser(name, help=text, description=said, epilog=of_command(name), formatter_class=form)
        made.set_defaults(does=does)
        if name != "run":
            made.add_argument("--json", action="store_true", help="print one object of JSON instead of text")
        return made

    explain = command("explain", _explain, "plan a module, or read a plan, and say where everything lives and why")
    add_planning(explain)
    explain.add_argument("--name", action="append", default=[], help="explain this weight, input, output or value; may be given again")
    explain.add_argument("--html", metavar="FILE", help="write the plan as a page")
    explain.add_argument("--timeline", metavar="FILE", help="write what each worker does when as a trace for https://ui.perfetto.dev")
    explain.add_argument("--traced", action="store_true", help="run each function on random arguments, and have those times beside it")
    explain.add_argument("--save", metavar="FILE", help="write the plan as JSON, for spmd.Plan.load")
    make = command("plan", _plan, "plan a module, and write the plan as JSON, which every other command reads")
    add_planning(make)
    make.add_argument("-o", "--output", metavar="FILE", help="where to; without it, the plan is printed")
    sharding = command("shard", _shard, "write the program of each worker and its plan")
    add_planning(sharding)
    sharding.add_argument("--plan", metavar="FILE", help="lower by this plan, as the command plan wrote it")
    sharding.add_argument("-o", "--output", required=True, metavar="DIR", help="where to: module.json and plan.json")
    add_planning(command("verify", _verify, "shard a module, and prove that its workers compute what it computes"))
    more = command("scaling", _scaling, "predict the times of a module for more and more workers, and say where its plan changes")
    add_module(more)
    more.add_argument("--workers", default="1,2,4,8,16,32,64", metavar="N,...", help="how many (default: 1,2,4,8,16,32,64)")
    more.add_argument("--axis", default="tp", help="the mesh axis that they form (default: tp)")
    more.add_argument("--svg", metavar="FILE", help="write the plot")
    compare = command("compare", _compare, "say what is different in a second plan")
    compare.add_argument("first", help="a plan as JSON")
    compare.add_argument("second", help="another one of the same module")
    weights.add_options(command("weights", _weights, "cut a checkpoint for the workers of a plan: each gets its own files"))
    start = command(
        "run", lambda options: _run(options, program), "start a script once for each worker, for spmd.workers(..., backend='mpi')"
    )
    start.add_argument("-n", "--workers", type=int, required=True, metavar="N", help="how many processes")
    start.add_argument("--hosts", metavar="FILE", help="the hosts they run on, in a file of the MPI that is installed")
    start.usage = "python -m spmd run -n N [--hosts FILE] (script.py | -m module) [arguments ...]"
    doctor = command("doctor", _doctor, "what works on this machine, and what mends the rest")
    doctor.add_argument("--quick", action="store_true", help="start no processes")
    arguments, program = _split(sys.argv[1:] if arguments is None else arguments)
    options = parser.parse_args(arguments)
    logging.getLogger("spmd").addHandler(logging.NullHandler())  # the notes are a part of what is printed
    return _done(options)


def _done(options: argparse.Namespace) -> int:
    """Run what was asked for; errors are one line."""
    try:
        return options.does(options) or 0
    except ShardingError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"error: {error.filename}: {error.strerror}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted" + (f": {weights.GO_ON}" if options.command == "weights" else ""), file=sys.stderr)
        return 130


def _explain(options: argparse.Namespace) -> None:
    is_plan = options.file.endswith(".json") and options.mesh is None
    if options.traced and (is_plan or not options.timeline):
        raise ShardingError("--traced", "it runs a module, for a time line", "Give a module, --mesh and --timeline.")
    asked = {} if is_plan else planned(options)
    sharded = shard(**asked) if options.traced else None
    made = sharded.plan if sharded is not None else Plan.load(options.file) if is_plan else plan(**asked)
    lines, wrote = list[str](), list[str]()
    if options.html:
        wrote.append(str(made.show(options.html)))
        lines.append(f"wrote {wrote[-1]}")
    if options.timeline:
        line = made.timeline() if sharded is None else made.timeline() + traced(sharded)
        line.save(options.timeline)
        wrote.append(options.timeline)
        lines += [str(line), f"wrote {options.timeline}"]
    if options.save:
        made.save(options.save)
        wrote.append(options.save)
        lines.append(f"wrote {options.save}")
    price = _price(asked, made, options) if options.tp_plan and asked else None
    if options.json:
        explained = {"explained": {name: made.explain(name) for name in options.name}} if options.name else {}
        told = {} if price is None else {"left": price[0], "beside_the_optimum": as_json.of_difference(price[1])}
        print(as_json.text_of(as_json.of_plan(made) | explained | told, wrote))
        return
    if options.name:
        print("\n".join([*map(made.explain, options.name), *(f"note: {note}" for note in made.notes)]))
    else:
        print(made.explain(), end="\n\n")
        _print(made.report())
    if price is not None:
        print("\n".join(["", *(f"left of {key}: {why}" for key, why in price[0].items()), "from the optimum to this plan:"]))
        print("\n".join(f"  {line}" for line in str(price[1]).splitlines()))
    if lines:
        print("\n".join(lines))


def _price(asked: Mapping[str, Any], made: Plan, options: argparse.Namespace) -> tuple[Mapping[str, str], Difference]:
    """What the plan of transformers leaves, and what it costs beside the optimum."""
    free: dict[str, Any] = {**asked, "specs": None}
    return tp_plan(asked["mod"], options).left, plan(**free).diff(made)


def _plan(options: argparse.Namespace) -> None:
    made = plan(**planned(options))
    if options.output is None:
        print(made.to_json())
        return
    made.save(options.output)
    _wrote(options, [options.output], made.notes)


def _wrote(options: argparse.Namespace, files: Sequence[Any], notes: Sequence[str]) -> None:
    """Say which files were written, and what there is to know of the plan."""
    if options.json:
        print(as_json.text_of({"notes": list(notes)}, files))
    else:
        print("\n".join([*(f"wrote {file}" for file in files), *(f"note: {note}" for note in notes)]))


def _shard(options: argparse.Namespace) -> None:
    if options.plan is None:
        made = shard(**planned(options))
        mod, plan_of_it = made.mod, made.plan
    else:
        plan_of_it = Plan.load(options.plan)
        mod = lower(module_of(Path(options.file), options.module), plan_of_it)
    folder = Path(options.output)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "module.json").write_text(tvm.ir.save_json(mod))
    plan_of_it.save(folder / "plan.json")
    _wrote(options, [folder / "module.json", folder / "plan.json"], plan_of_it.notes)


def _verify(options: argparse.Namespace) -> int:
    asked = planned(options)
    proof = verify(asked["mod"], shard(**asked))
    print(as_json.text_of(as_json.of_proof(proof)) if options.json else proof)
    return 0 if proof else 1


def _scaling(options: argparse.Namespace) -> None:
    counts = options.workers.split(",")
    if not all(count.strip().isdigit() for count in counts):
        raise ShardingError(f"--workers {options.workers}", "it is no list of numbers", "Write --workers 1,2,4,8.")
    made = scaling(meshes=[Mesh.of({options.axis: int(count)}) for count in counts], **module_and_wishes(options))
    if options.svg:
        made.save(options.svg)
    if options.json:
        print(as_json.text_of(as_json.of_scaling(made), [options.svg] if options.svg else []))
    else:
        print("\n".join([str(made), *([f"wrote {options.svg}"] if options.svg else [])]))


def _compare(options: argparse.Namespace) -> None:
    difference = Plan.load(options.first).diff(Plan.load(options.second))
    text = str(difference) if difference else "the plans are the same"
    print(as_json.text_of(as_json.of_difference(difference)) if options.json else text)


def _weights(options: argparse.Namespace) -> None:
    lines = weights.run(options).splitlines()
    print(as_json.text_of({"told": lines}, [options.folder]) if options.json else "\n".join(lines))


def _doctor(options: argparse.Namespace) -> None:
    found = examine(self_test=not options.quick)
    print(as_json.text_of(as_json.of_findings(found)) if options.json else "\n".join(map(str, found)))


def _run(options: argparse.Namespace, program: Sequence[str]) -> None:
    if options.workers < 1 or not program or list(program) == ["-m"]:
        what = f"{options.workers} workers for {' '.join(program) or 'no script'}"
        raise ShardingError("run", what, "Write python -m spmd run -n 2 script.py.")
    run(options.workers, program, options.hosts)


def _split(arguments: Sequence[str]) -> tuple[Sequence[str], Sequence[str]]:
    """Our arguments, and after ``run`` and its options the program to start with its own, which may look like ours."""
    if list(arguments[:1]) != ["run"]:
        return arguments, []
    place = 1
    while place < len(arguments) and arguments[place].startswith("-") and arguments[place] != "-m":
        place += 2 if arguments[place] in ("-n", "--workers", "--hosts") else 1
    return arguments[:place], arguments[place:]


def _print(report: Any) -> None:
    """Prints a report with tables of `rich` on a terminal that has it, else as text."""
    try:
        from rich.console import Console
    except ImportError:
        print(report)
        return
    console = Console()
    console.print(report if console.is_terminal else str(report), markup=False, highlight=False, soft_wrap=not console.is_terminal)
