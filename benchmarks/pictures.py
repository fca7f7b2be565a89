"""The pictures of docs/figures, made anew: pages of plans in headless Chromium, and a scaling plot.

python -m benchmarks.pictures [NAME ...]
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import spmd
from examples.llm.config import LlamaConfig
from examples.llm.model import build_module

FOLDER = Path(__file__).parents[1] / "docs" / "figures"
BROWSER = next((found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None)
WIDE, TALL = 1280, 800


def llama_70b() -> Any:
    """All functions of the language model of examples/llm, at the sizes of Llama-2-70B."""
    return build_module(LlamaConfig.preset("llama-2-70b"))[0]


def imported() -> Any:
    """A Llama of transformers, 16 layers, through torch.export."""
    import torch
    from transformers import LlamaConfig as Config
    from transformers import LlamaForCausalLM

    sizes = {"hidden_size": 2048, "intermediate_size": 5632, "num_attention_heads": 32, "num_key_value_heads": 8}
    config = Config(vocab_size=32000, num_hidden_layers=16, max_position_embeddings=2048, use_cache=False, **sizes)
    with torch.device("meta"):
        model = LlamaForCausalLM(config).eval()
    batch, tokens = torch.export.Dim("batch", max=64), torch.export.Dim("tokens", max=2048)
    example = {name: torch.ones(2, 8, dtype=torch.long, device="meta") for name in ("input_ids", "attention_mask")}
    return spmd.from_torch(model, (), kwargs=example, dynamic_shapes={name: {0: batch, 1: tokens} for name in example}).mod


def photographed(plan: spmd.Plan, name: str, act: str = "") -> None:
    """The page of a plan as PNG, after a line of JavaScript."""
    if BROWSER is None:
        raise SystemExit("no chromium on this machine: apt-get install chromium")
    with tempfile.TemporaryDirectory() as folder:
        page = plan.show(Path(folder) / "page.html")
        page.write_text(page.read_text().replace("</body>", f"<script>{act}</script></body>"))
        size = f"--window-size={WIDE},{TALL}"
        command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", size, "--virtual-time-budget=4000"]
        subprocess.run([*command, f"--screenshot={FOLDER / name}", page.as_uri()], check=True, capture_output=True)


def page_70b() -> None:
    """The page as it opens, and one layer of it opened."""
    plan = spmd.plan(llama_70b(), 8, profile="h100")
    decode = f"show({list(plan.signatures).index('decode')})"
    photographed(plan, "page-llama-2-70b.png", decode)
    photographed(plan, "page-layer.png", f"{decode}; toggle('0/0'); toggle('0/0/1'); fit()")


def page_imported() -> None:
    """The page of the imported model, with a search."""
    plan = spmd.plan(imported(), 4, profile="h100", sizes={"batch": 8, "tokens": 512})
    photographed(plan, "page-transformers.png")
    photographed(plan, "page-search.png", "$('search').value = 'down_proj'; search('down_proj')")


def scaling() -> None:
    """Llama-2-70B on 1 to 64 workers."""
    spmd.scaling(llama_70b(), profile="h100").save(FOLDER / "scaling.svg")


def blocks() -> None:
    """A fused weight of queries, keys and values on 4 workers."""
    made = spmd.visualize(spmd.P(("tp", 64, 16, 16), None), shape=(96, 64), mesh=4)
    (FOLDER / "blocks.svg").write_text(made.svg() + "\n")


PICTURES: dict[str, Callable[[], None]] = {made.__name__: made for made in (page_70b, page_imported, scaling, blocks)}


def main() -> None:
    """Those that are named, or all."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pictures", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"which ones: {', '.join(PICTURES)} (default: all)")
    names = parser.parse_args().names or list(PICTURES)
    if unknown := [name for name in names if name not in PICTURES]:
        parser.error(f"there is no {', '.join(unknown)}; choose among {', '.join(PICTURES)}")
    FOLDER.mkdir(exist_ok=True)
    for name in names:
        PICTURES[name]()


if __name__ == "__main__":
    main()
