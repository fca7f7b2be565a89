"""Who may import whom. A stage that needs another one's code shows that something stands in the wrong room."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "spmd"
STAGES = {"annotate", "propagate", "lower", "schedules", "collectives"}
ABOVE = {"__init__", "__main__", "pipeline", "workers", "arguments", "measure", "plans", "testing", "transform"}
"""What puts the stages together."""
ALLOWED = {("lower", "collectives")}
"""Its vocabulary."""
MODULES = sorted(ROOT.rglob("*.py"))


def name_of(path: Path) -> tuple[str, ...]:
    """``spmd/lower/calls.py`` -> ``("lower", "calls")``."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return parts if parts == ("__init__",) else tuple(p for p in parts if p != "__init__")


def room(module: tuple[str, ...]) -> str:
    return module[0] if module else "__init__"


def imports(path: Path) -> set[tuple[str, ...]]:
    """Every module of spmd that a file imports, wherever in it."""
    package = ("spmd", *path.relative_to(ROOT).parts[:-1])
    found: set[tuple[str, ...]] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [tuple(alias.name.split(".")) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            target = (*base, *(node.module.split(".") if node.module else ()))
            names = [(*target, alias.name) for alias in node.names] if target == package[:1] or not node.module else [target]
        else:
            continue
        found |= {n[1:] for n in names if n[0] == "spmd" and len(n) > 1}
    return found


def test_the_reader_of_imports_reads():
    assert ("collectives",) in imports(ROOT / "lower" / "reshard.py")
    assert ("lower",) in imports(ROOT / "pipeline.py")
    assert ("expression",) in imports(ROOT / "propagate" / "rules" / "matmul.py")
    assert {room(name_of(p)) for p in MODULES} >= STAGES | ABOVE


@pytest.mark.parametrize("path", MODULES, ids=lambda p: "/".join(name_of(p)))
def test_walls(path):
    """Stages do not import each other, modules below them import no stage, and nobody imports what is above."""
    here = room(name_of(path))
    if here in ABOVE:
        return
    for module in imports(path):
        there = room(module)
        assert there not in ABOVE, f"{here} imports {'.'.join(module)}, which stands above it"
        if there in STAGES and there != here:
            assert (here, there) in ALLOWED, f"{here} imports {'.'.join(module)}"


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
