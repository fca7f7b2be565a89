"""Who may import whom. A stage that needs another one's code shows that something stands in the wrong room."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "spmd"
MODULES = sorted(ROOT.rglob("*.py"))
MOST_AT_THE_TOP = 6


def table() -> dict[str, set[str]]:
    """Room -> the rooms that its row in CONTRIBUTING.md names, "everything" where it says so."""
    text = (ROOT.parent / "CONTRIBUTING.md").read_text()
    rows = [line.strip("|").split("|") for line in text.split("| room |")[1].split("\n\n")[0].splitlines()[2:]]
    return {name.strip("`/ ").removesuffix(".py"): set(row[2].replace(",", " ").split()) for row in rows for name in row[0].split(",")}


def allowed(room: str, rows: dict[str, set[str]]) -> set[str]:
    """What a room may import: the rooms of its row, and what those may import."""
    return rows[room] | {far for near in rows[room] for far in allowed(near, rows)}


def room_of(path: Path) -> str:
    """``spmd/lower/calls.py`` -> ``lower``, ``spmd/errors.py`` -> ``errors``."""
    return path.relative_to(ROOT).with_suffix("").parts[0]


def imports(path: Path) -> set[str]:
    """Every room of spmd that a file imports from, wherever in it."""
    package = ("spmd", *path.relative_to(ROOT).parts[:-1])
    found: set[tuple[str, ...]] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {tuple(alias.name.split(".")) for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            target = (*base, *(node.module.split(".") if node.module else ()))
            found |= {(*target, alias.name) for alias in node.names}
    return {name[1] for name in found if name[0] == "spmd" and len(name) > 1 and name[1] != room_of(path)}


def test_the_reader_of_imports_reads():
    assert imports(ROOT / "lower" / "reshard.py") >= {"collectives", "transfers"}
    assert "lower" in imports(ROOT / "pipeline.py")
    assert "plan" in imports(ROOT / "propagate" / "memory.py")


def test_every_room_has_a_row():
    assert {room_of(path) for path in MODULES} == table().keys()
    assert len(list(ROOT.glob("*.py"))) <= MOST_AT_THE_TOP


def test_a_room_names_only_rooms_above_it():
    """So there is no circle."""
    above = {"everything"}
    for room, named in table().items():
        assert named <= above, room
        above.add(room)


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_walls(path):
    """A room that needs another one's code shows that something stands in the wrong room."""
    may = allowed(room_of(path), {**table(), "everything": set()})
    if "everything" not in may:
        assert imports(path) <= may


def test_only_lower_writes_relax():
    """The other stages build no blocks (hints are one call, rules of attention read shapes)."""
    for stage in ("propagate", "annotate"):
        for path in (ROOT / stage).rglob("*.py"):
            assert "BlockBuilder()" not in path.read_text(), path


SNAPSHOT = """
import sys, types
import tvm, tvm.relax, tvm.s_tir, tvm.tirx, tvm.relax.frontend.nn, tvm.relax.script.parser
import tvm.relax.frontend.nn.llm.kv_cache, tvm.s_tir.dlight

def functions():
    found = {}
    for name, module in list(sys.modules.items()):
        if name == "tvm" or name.startswith(("tvm.", "tvm_ffi")):
            for key, value in list(vars(module).items()):
                if isinstance(value, (types.FunctionType, type, types.BuiltinFunctionType)):
                    found[name, key] = id(value)
                if isinstance(value, type):
                    found.update({(name, key, k): id(v) for k, v in list(vars(value).items()) if isinstance(v, types.FunctionType)})
    return found

before = functions()
import spmd
after = functions()
print([key for key, value in before.items() if after.get(key) != value])
import threading
print(threading.active_count())
"""


def test_importing_spmd_changes_nothing_of_tvm_and_starts_nothing():
    out = subprocess.run([sys.executable, "-c", SNAPSHOT], cwd=ROOT.parent, capture_output=True, text=True, timeout=120, check=True).stdout
    changed, threads = out.splitlines()[-2:]
    assert changed == "[]"
    assert threads == "1"


def test_the_public_names_are_those_of_all():
    import spmd

    assert sorted(spmd.__all__) == list(spmd.__all__)
    assert all(hasattr(spmd, name) for name in spmd.__all__)
