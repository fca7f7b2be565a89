"""Every Python block of the README and of the tours in docs/ (tour.md, extending.md, training.md, frontends.md) runs, one after another,
and prints what the text block after it says; so do the examples in docs/ that are written as at a prompt.
"""

import doctest
import io
import re
from contextlib import redirect_stdout
from pathlib import Path

import pytest

README = Path(__file__).parents[1] / "README.md"
DOCS = README.parent / "docs"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PREDICTED = re.compile(r"[\d.]+ us\b")
"""The cost model may change; the decisions shown may not."""


@pytest.mark.parametrize(
    ("page", "least"),
    [(README, 3), *((DOCS / f"{name}.md", least) for name, least in (("tour", 4), ("extending", 5), ("training", 4), ("frontends", 1)))],
    ids=lambda p: getattr(p, "name", ""),
)
def test_python_blocks_print_what_the_text_says(page, least):
    if page.stem == "frontends":
        pytest.importorskip("torch")
    names: dict[str, object] = {"__name__": page.stem}
    text = page.read_text(encoding="utf-8")
    blocks = [(m[1], m[2], text.count("\n", 0, m.start()) + 2) for m in BLOCK.finditer(text)]
    printed, checked = None, 0
    for kind, body, line in blocks:
        if kind == "python":
            with redirect_stdout(io.StringIO()) as out:
                exec(compile("\n" * (line - 1) + body, str(page), "exec"), names)
            printed = out.getvalue()
        elif kind == "text" and printed:
            want, got = (PREDICTED.sub("... us", t) for t in (body, printed))
            checker = doctest.OutputChecker()
            assert checker.check_output(want, got, doctest.ELLIPSIS), f"{page.name}, line {line}: it says\n{body}\nand prints\n{printed}"
            printed, checked = None, checked + 1
    assert checked >= least
    assert not printed, f"nothing says what the last block prints:\n{printed}"


def test_linked_files_exist():
    root = README.parent
    pages = [README, root / "CONTRIBUTING.md", *sorted(DOCS.glob("*.md"))]
    for page in pages:
        for link in re.findall(r"\]\(([^)#:\s]+)\)", BLOCK.sub("", page.read_text(encoding="utf-8"))):
            assert (page.parent / link).exists(), f"{page.name} links to {link}"


@pytest.mark.parametrize("page", sorted(DOCS.glob("*.md")), ids=lambda page: page.name)
def test_examples_in_docs(page):
    failed, _ = doctest.testfile(str(page), module_relative=False, encoding="utf-8")
    assert not failed
