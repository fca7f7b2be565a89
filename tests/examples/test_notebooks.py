"""The notebooks run, and give what they say that they give."""

import json
import re

import pytest

from examples.notebooks.run import notebooks, ran

TIME = re.compile(r"\s*[+-]?[\d.]+ [um]s")
"""The cost model may change; the decisions shown may not."""


def plain(outputs):
    """What a cell gives as text, without predicted times."""
    texts = ["".join(out["text"] if out["output_type"] == "stream" else out["data"]["text/plain"]) for out in outputs]
    return [re.sub(r"-{3,}", "---", TIME.sub(" ...", text)) for text in texts]


@pytest.mark.parametrize("path", notebooks(), ids=lambda path: path.name)
def test_a_notebook_gives_what_it_says(path):
    written = json.loads(path.read_text(encoding="utf-8"))
    made = ran(written)
    for cell, again in zip(written["cells"], made["cells"], strict=True):
        if cell["cell_type"] == "code":
            assert plain(cell["outputs"]) == plain(again["outputs"]), "".join(cell["source"])
            assert [set(out.get("data", ())) for out in cell["outputs"]] == [set(out.get("data", ())) for out in again["outputs"]]
    assert any("text/html" in out.get("data", ()) for cell in written["cells"] for out in cell.get("outputs", ()))
