"""What is built and installed: the wheel in a clean environment, and what other installed packages add by entry points."""

import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

import spmd
from spmd.collectives import backend
from spmd.placement.mesh import Mesh
from spmd.rules import registry

ROOT = Path(__file__).parents[1]
SCRIPT = """
import spmd
from tvm.script import ir as I, relax as R

@I.ir_module
class Module:
    @R.function
    def main(x: R.Tensor((4, 8), "float32"), w: R.Tensor((8, 8), "float32")) -> R.Tensor((4, 8), "float32"):
        R.func_attr({"num_input": 1})
        with R.dataflow():
            y = R.matmul(x, w)
            R.output(y)
        return y

spmd.testing.assert_equivalent(Module, 2, {"w": spmd.P(None, "tp")})
spmd.plan(Module, 2).show("plan.html")
print(spmd.__version__, spmd.__file__)
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The folder of a new wheel and sdist."""
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-d", str(folder)], cwd=ROOT, check=True, capture_output=True)
    return folder


def test_the_wheel_runs_in_a_clean_environment(built, tmp_path):
    """What it depends on comes from this environment; spmd itself from nowhere but the wheel."""
    (wheel,) = built.glob("*.whl")
    venv.create(tmp_path / "env", with_pip=False)
    python = tmp_path / "env" / "bin" / "python"
    subprocess.run([sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--quiet", wheel], check=True)
    (site,) = (tmp_path / "env").glob("lib/python*/site-packages")
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    (tmp_path / "script.py").write_text(SCRIPT)
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    ran = subprocess.run([python, "script.py"], cwd=tmp_path, env=clean, check=True, capture_output=True, text=True)
    version, where = ran.stdout.split()
    assert version == spmd.__version__ and Path(where).is_relative_to(site)
    assert (tmp_path / "plan.html").stat().st_size > 10_000
    assert (site / "spmd" / "py.typed").is_file()


def test_the_sdist_holds_all_that_tests_need_and_builds_the_same_wheel(built, tmp_path):
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
        archive.extractall(tmp_path, filter="data")
    assert {"spmd/explain/page.html", "tests/test_distribution.py", "pyproject.toml", "README.md", "LICENSE"} <= names
    assert {"docs/index.md", "docs/figures/scaling.svg", "mkdocs.yml", "examples/notebooks/plans.ipynb"} <= names
    (unpacked,) = tmp_path.iterdir()
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", "dist"], cwd=unpacked, check=True, capture_output=True)
    contents = [set(zipfile.ZipFile(next(folder.glob("*.whl"))).namelist()) for folder in (built, unpacked / "dist")]
    assert contents[0] == contents[1] and not {name for name in contents[0] if not name.startswith("spmd")}


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Installs a package with one module and its entry points."""

    def install(source, points):
        (tmp_path / "of_others.py").write_text(source)
        info = tmp_path / "of_others-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: of-others\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(points)
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.delitem(sys.modules, "of_others", raising=False)
        registry._load_packages.cache_clear()

    yield install
    monkeypatch.undo()
    registry._RULES.pop("of_others.scale", None)
    registry._load_packages.cache_clear()


def test_rules_of_other_packages(package):
    package("import spmd\nspmd.rule('of_others.scale', expression='m n -> m n')\n", "[spmd.rules]\nof_others = of_others\n")
    assert registry.function_of("of_others.scale") is not None


def test_rules_that_cannot_be_imported(package):
    package("import no_such_module\n", "[spmd.rules]\nof_others = of_others\n")
    message = "entry point 'of_others' of 'spmd.rules': the rules of package 'of-others' cannot be imported: ModuleNotFoundError"
    with pytest.raises(spmd.ShardingError, match=re.escape(message)):
        registry.function_of("relax.add")


def test_backends_of_other_packages(package):
    source = "from spmd.collectives.threads import ThreadBackend\nclass Mine(ThreadBackend): pass\n"
    package(source, "[spmd.backends]\nmine = of_others:Mine\n")
    made = backend.make_backend("mine", Mesh(tp=2), 10.0)
    made.close()
    assert type(made).__name__ == "Mine"
    with pytest.raises(spmd.ShardingError, match=r"there is no backend 'other'.*'mine'"):
        backend.make_backend("other", Mesh(tp=2), 10.0)
