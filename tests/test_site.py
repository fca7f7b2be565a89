"""The site of docs/: it is built without warnings, and its reference has all public names."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import spmd

ROOT = Path(__file__).parents[1]
NEEDED = ("mkdocs", "material", "mkdocstrings", "mkdocstrings_handlers")


def test_the_reference_has_every_public_name():
    named = re.findall(r"^::: spmd\.(\S+)$", (ROOT / "docs" / "api.md").read_text(), re.MULTILINE)
    assert len(named) == len(set(named))
    assert set(spmd.__all__) - {"__version__"} == {name for name in named if "." not in name}


def test_every_page_is_in_its_contents():
    pages = {path.name for path in (ROOT / "docs").glob("*.md")}
    contents = (ROOT / "mkdocs.yml").read_text()
    index = (ROOT / "docs" / "index.md").read_text()
    assert {page for page in pages if page not in contents} == set()
    assert {page for page in pages - {"index.md", "api.md"} if f"]({page})" not in index} == set()


@pytest.mark.skipif(not all(map(importlib.util.find_spec, NEEDED)), reason="pip install '.[docs]' brings what builds the site")
def test_the_site_is_built_without_warnings(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True)
    assert done.returncode == 0 and "WARNING" not in done.stderr, done.stderr
    reference = (tmp_path / "api.html").read_text()
    assert all(f'id="spmd.{name}"' in reference for name in spmd.__all__ if name != "__version__")
    assert "../examples" not in (tmp_path / "training.html").read_text()
