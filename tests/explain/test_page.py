"""The page of a plan: its text, and what a browser makes of it."""

import json
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

import spmd
from examples.llm.config import LlamaConfig
from examples.llm.model import build_module
from spmd import P
from spmd.explain.page import page_data, page_text
from spmd.explain.tables import size_text
from tests import programs
from tests.explain.test_text import Odd
from tests.lower.test_branch import Partial
from tests.programs import Mlp

BROWSER = next((found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None)
needs_browser = pytest.mark.skipif(BROWSER is None, reason="no chromium on this machine")


@pytest.fixture(scope="module")
def mlp():
    return spmd.plan(Mlp, 2, {"w1": P(None, "tp"), "w2": P("tp", None)})


@pytest.fixture(scope="module")
def llama():
    """80 layers, but small ones."""
    return spmd.plan(build_module(replace(LlamaConfig.preset("tiny"), num_hidden_layers=80))[0], spmd.Mesh(tp=3))


class Links(HTMLParser):
    """Everything that a page would load."""

    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attrs):
        self.found += [(tag, value) for name, value in attrs if name in ("src", "href", "srcset", "action")]


def test_the_page_stands_alone(mlp):
    text = page_text(mlp)
    links = Links()
    links.feed(text)
    assert links.found == []
    assert re.findall(r"https?://[^\"']+", text) == ["http://www.w3.org/2000/svg"], "the name of SVG, which nobody loads"
    assert "@import" not in text and "url(" not in text and "fetch(" not in text
    assert not re.findall(r"\{\{\w+\}\}|/\*\w+\*/", text), "all parts are filled in"


def test_the_data_of_the_page(mlp):
    text = page_text(mlp)
    data = json.loads(re.search(r'<script id="data" type="application/json">(.*?)</script>', text, re.DOTALL)[1])
    assert data == json.loads(json.dumps(page_data(mlp)))
    (main,) = data["functions"]
    names = [t[0] for t in data["tensors"]]
    assert [(data["ops"][op[0]], op[1], [names[i] for i in op[2]], [names[i] for i in op[4]]) for op in main["ops"]] == [
        ("relax.matmul", "up", ["main.x", "w1"], ["main.up"]),
        ("relax.nn.relu", "active", ["main.up"], ["main.active"]),
        ("relax.matmul", "down", ["main.active", "w2"], ["main.down"]),
    ]
    ((kind, axis, held, _, tensor, at, reason, span, branch),) = main["collectives"]
    assert (kind, axis, held, names[tensor], at, branch) == ("all_reduce", "tp", 256, "main.down", 2, "")
    line = 1 + [text.strip() for text in Path(programs.__file__).read_text().splitlines()].index("down = R.matmul(active, w2)")
    assert "relax.matmul makes 'down'" in reason and span.endswith(f"programs.py:{line}")
    assert [w[:5] for w in data["weights"]] == [["w1", 1, "float32 16 x 32", 1024, 2048], ["w2", 1, "float32 32 x 16", 1024, 2048]]
    assert data["shardings"][data["tensors"][names.index("w1")][2]] == ["[-, tp]", [None, [["tp"], 2, [[32, 16]]]], []]


def test_a_name_cannot_break_out_of_the_data(mlp):
    plan = spmd.plan(Mlp, 2)
    plan.notes.append("</script><script>alert(1)</script>")
    text = page_text(plan)
    assert "<script>alert" not in text and text.count("</script>") == 2
    assert page_data(plan)["notes"][-1] == "</script><script>alert(1)</script>"


def groups(item):
    """A group of the page's data and all in it."""
    return [] if isinstance(item, int) else [item, *(inner for child in item[4] for inner in groups(child))]


def test_eighty_layers_are_drawn_once_and_fit_a_page(llama):
    text = page_text(llama)
    assert len(text) < 3_000_000
    data = page_data(llama)
    decode = next(f for f in data["functions"] if f["name"] == "decode")
    assert len(decode["ops"]) > 1000
    (layers,) = [group for group in groups(decode["tree"]) if len(group[3]) > 1]
    assert list(layers[3]) == [f"layers.{i}" for i in range(80)] and len(decode["ops"]) - layers[2] * 79 < 150


def test_where_it_is_written(mlp, tmp_path):
    assert mlp.show(tmp_path / "plan.html") == tmp_path / "plan.html"
    found = mlp.show()
    assert found.suffix == ".html" and found.read_text() == (tmp_path / "plan.html").read_text()
    found.unlink()


# What a test asks of the page, put behind its last script; the answer is the title.
ASK = """<script>
const errors = [];
addEventListener("error", event => errors.push(event.message));
</script>"""
ANSWER = """<script>
document.title = "answer:" + JSON.stringify((() => { try { return {errors, %s}; } catch (error) { return {errors: [String(error)]}; } })());
</script>"""


def ask(plan, tmp_path, questions):
    """What expressions over the opened page give."""
    text = page_text(plan).replace("<head>", "<head>" + ASK, 1)
    text = text.replace("</body>", ANSWER % ", ".join(f"{name}: {what}" for name, what in questions.items()) + "</body>")
    file = tmp_path / "page.html"
    file.write_text(text)
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", f"--user-data-dir={tmp_path / 'profile'}"]
    command = [BROWSER, *flags, "--window-size=1280,800", "--virtual-time-budget=5000", "--dump-dom", file.as_uri()]
    out = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    found = re.search(r"<title>answer:(.*?)</title>", out, re.DOTALL)
    assert found, out[-2000:]
    answer = json.loads(found[1].replace("&amp;", "&").replace("&lt;", "<").replace("&gt;", ">").replace("&nbsp;", " "))
    assert answer.pop("errors") == []
    return answer


count = "document.querySelectorAll({!r}).length".format


@needs_browser
def test_a_browser_draws_a_small_plan(mlp, tmp_path):
    questions = {
        "ready": "document.body.dataset.ready",
        "operators": count(".op"),
        "weights": count(".weight"),
        "pictures": count("#weights .picture"),
        "shards": count("#weights .picture rect:not(.frame)"),
        "drawn": count(".weight-node"),
        "chips": "[...document.querySelectorAll('.chip text')].map(e => e.textContent)",
        "collectives": "[...document.querySelectorAll('.collective text')].map(e => e.textContent)",
        "workers": count(".worker"),
        "memory": "document.querySelector('.worker span:last-child').textContent",
        "legend": "[...document.querySelectorAll('#legend div')].map(e => e.textContent)",
        "details": "(select({tensor: plan.tensors.findIndex(t => t[0] === 'w1')}), document.querySelector('#details').textContent)",
        "operator": "(select({op: 2}), document.querySelector('#details').textContent)",
        "collective": "(select({collective: 0}), document.querySelector('#details').textContent)",
        "found": "(search('activ'), [...document.querySelectorAll('#found li')].map(e => e.textContent))",
        "none": "(search('nobody'), document.querySelector('#found').textContent)",
    }
    got = ask(mlp, tmp_path, questions)
    assert got["ready"] == "yes"
    assert (got["operators"], got["weights"], got["pictures"], got["shards"], got["drawn"], got["workers"]) == (3, 2, 2, 4, 2, 2)
    assert got["chips"] == ["x", "return down"] and got["collectives"] == ["all_reduce tp 256 B"]
    assert got["memory"] == size_text(mlp.memory["main"].peak)
    assert got["legend"] == ["whole on every worker", "[-, tp]", "[-, -] sum@tp", "[tp, -]"]
    assert (
        "because" in got["details"]
        and "specs['w1'] asks for P(None, 'tp')" in got["details"]
        and "1.0 kB of 2.0 kB (50%)" in got["details"]
    )
    assert "relax.matmul down" in got["operator"] and "main.active as [-, tp]" in got["operator"]
    assert "relax.matmul makes 'down' as [-, -] sum@tp" in got["collective"]
    assert got["found"] == ["main.active[-, tp]", "activerelax.nn.relu in main"]
    assert got["none"] == "nothing has that name"


VISIBLE = """(() => {
  const frame = document.querySelector("#canvas").getBoundingClientRect();
  return [...document.querySelectorAll("#drawing .op, #drawing .group, #drawing .chip, #drawing > g > text")].filter(e => {
    const box = e.getBoundingClientRect();
    return box.width > 4 && box.left < frame.right && box.right > frame.left && box.top < frame.bottom && box.bottom > frame.top;
  }).length;
})()"""
"""How many boxes of the drawing are in sight."""
KEY = "document.dispatchEvent(new KeyboardEvent('keydown', {{key: {!r}, bubbles: true}}))".format


@needs_browser
def test_a_browser_opens_eighty_layers_on_an_overview(llama, tmp_path):
    weights = len({re.sub(r"\.\d+\.", ".*.", name) for name in llama.params})
    at = "plan.functions.findIndex(f => f.name === 'decode')"
    questions = {
        "weights": count(".weight"),
        "tabs": count("#tabs button"),
        "sideways": "document.documentElement.scrollWidth - innerWidth",
        "visible": VISIBLE,
        "each": f"plan.functions.map((f, i) => (show(i), [document.querySelectorAll('#drawing').length, {VISIBLE} > 0]))",
        "groups": f"(show({at}), [...document.querySelectorAll('#drawing .group .name')].map(e => e.textContent))",
        "operators": count("#drawing .op"),
        "repeats": "[...document.querySelectorAll('.count')].map(e => e.textContent)",
        "tree": "[...document.querySelectorAll('#tree .text')].map(e => e.textContent)",
        "finite": "![...document.querySelectorAll('#drawing [d], #drawing [transform]')].some(e => /NaN|Infinity/.test(e.outerHTML))",
    }
    got = ask(llama, tmp_path, questions)
    assert got["weights"] == weights and got["tabs"] == len(llama.functions) and got["sideways"] <= 0
    assert got["visible"] >= 5 and got["each"] == [[1, True]] * len(llama.functions)
    assert got["groups"] == ["layers.0-79", "embed_tokens"] and got["operators"] == 1 and got["repeats"] == ["× 80"] and got["finite"]
    assert got["tree"] == ["model", "layers.0-79", "norm", "embed_tokens"]


@needs_browser
def test_a_browser_is_driven_by_wheel_keys_tree_and_search(llama, tmp_path):
    """What a reader does, as events of the browser."""
    at = "plan.functions.findIndex(f => f.name === 'decode')"
    last = "plan.tensors.findIndex(t => t[0] === 'model.layers.79.mlp.down_proj.weight')"
    wheel = (
        "document.querySelector('#canvas').dispatchEvent(new WheelEvent('wheel', {{deltaY: {}, ctrlKey: {}, clientX: 600, clientY: 400}}))"
    )
    drag = (
        "document.querySelector('#canvas').dispatchEvent(new PointerEvent('pointerdown', {button: 0, clientX: 500, clientY: 300})), "
        "dispatchEvent(new PointerEvent('pointermove', {clientX: 540, clientY: 320})), dispatchEvent(new PointerEvent('pointerup'))"
    )
    rows = "[...document.querySelectorAll('#tree .row')]"
    in_tree = "document.activeElement.dispatchEvent(new KeyboardEvent('keydown', {{key: {!r}, bubbles: true}}))".format
    typed = "document.querySelector('#search').value = {!r}, document.querySelector('#search').dispatchEvent(new Event('input'))".format
    found = "[...document.querySelectorAll('#found li')].map(e => e.textContent)"
    chosen = "document.querySelector('#search').dispatchEvent(new KeyboardEvent('keydown', {key: 'Enter'}))"
    questions = {
        "zoomed": f"(show({at}), [view.scale, {wheel.format(-100, 'true')}, view.scale, {KEY('-')}, view.scale, {KEY('0')}, view.scale])",
        "moved": f"[view.y, {wheel.format(100, 'false')}, view.y, view.x, {drag}, view.x, {KEY('ArrowUp')}, view.y]",
        "opened": f"({KEY('o')}, {rows}[1].querySelector('.twist').click(), {rows}.map(e => e.querySelector('.text').textContent))",
        "boxes": "[document.querySelectorAll('#drawing .frame.fold').length, document.querySelectorAll('#drawing .op').length]",
        "walked": f"({rows}[0].focus(), {in_tree('ArrowDown')}, {in_tree('ArrowLeft')}, {in_tree('ArrowRight')}, "
        f"{in_tree('ArrowDown')}, [document.activeElement.querySelector('.text').textContent, {rows}.length])",
        "layer": f"(select({{group: '0/0'}}), {KEY(']')}, {KEY(']')}, document.querySelector('#drawing .frame.fold .name').textContent)",
        "closed": f"({KEY('Enter')}, document.querySelectorAll('#drawing .frame.fold').length)",
        "folded": f"({typed('down_proj')}, {found})",
        "one": f"({typed('layers.79.mlp.down')}, {found})",
        "there": f"({chosen}, [document.querySelectorAll('.weight-node.on[data-tensor=\"' + {last} + '\"]').length, {VISIBLE} > 0, "
        "document.querySelector('#drawing .frame.fold .name').textContent, document.querySelector('#found').hidden])",
        "help": f"({KEY('?')}, !document.querySelector('#help').hidden && document.querySelectorAll('#help dt').length)",
        "again": f"({KEY('o')}, {count('#drawing .group')})",
    }
    got = ask(llama, tmp_path, questions)
    start, _, larger, _, smaller, _, fitted = got["zoomed"]
    assert larger > 1.2 * start and smaller == pytest.approx(0.8 * larger) and fitted == start
    y, _, scrolled, x, _, _, _, dragged, _, raised = got["moved"]
    assert scrolled == pytest.approx(y - 100) and dragged == pytest.approx(x + 40) and raised == pytest.approx(scrolled + 20 + 60)
    assert got["opened"][:4] == ["model", "layers.0", "input_layernorm", "self_attn"]
    assert got["boxes"][0] == 1 and got["boxes"][1] > 3
    assert got["walked"] == ["input_layernorm", len(got["opened"])]
    assert got["layer"] == "layers.2" and got["closed"] == 0
    assert got["folded"][0].startswith("model.layers.*.mlp.down_proj.weight× 80 ") and len(got["folded"]) < 10
    assert got["one"][0].startswith("model.layers.79.mlp.down_proj.weight")
    assert got["there"] == [1, True, "layers.79", True]
    assert got["help"] > 5 and got["again"] == 2


@needs_browser
def test_a_browser_draws_branches(tmp_path):
    questions = {"operators": count(".op"), "chips": count(".chip"), "lines": count("path.edge"), "weights": count(".weight-node")}
    got = ask(spmd.plan(Partial, 2, {"w": P(None, "tp")}), tmp_path, questions)
    assert got == {"operators": 8, "chips": 3, "lines": 13, "weights": 3}


@needs_browser
def test_a_browser_draws_what_is_hardly_there(tmp_path):
    finite = "!/NaN|Infinity/.test(document.querySelector('#drawing').outerHTML)"
    plan = spmd.plan(Odd, 2)
    got = ask(plan, tmp_path, {name: f"(show({i}), [{count('.op')}, {count('.chip')}, {finite}])" for i, name in enumerate(plan.functions)})
    assert got == {"main": [2, 4, True], "same": [0, 2, True], "size": [0, 0, True]}
