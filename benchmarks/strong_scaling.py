"""The three figures of MLC LLM's post of October 2023, with its own numbers as points and projections for the same hardware as lines.

    python -m benchmarks.strong_scaling [--quick] [-o FOLDER]

Speeds are of decode, one conversation. A projection is what the cost model says of the plan that is made for that model on so many GPUs:
nothing was run. The profiles of some GPUs were fitted to some of these very points, see `benchmarks.backtest`. Figures are written as
PNG and SVG where matplotlib is (`pip install 'spmd[figures]'`); the table is printed anyhow.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from examples.llm.report import table
from spmd.costs.profile import profile_of

from .backtest import POINTS, Point, predicted, read

SOURCE = "llm-perf-bench"
MODELS = {"llama-2-70b": "Llama-2-70B", "codellama-34b": "CodeLlama-34B"}
COUNTS = (1, 2, 4, 8)
HEAD = ("figure", "model", "weights", "GPU", "GPUs", "published tokens/s", "projected tokens/s", "error")


@dataclass(frozen=True)
class Figure:
    """Models on some GPUs."""

    name: str
    title: str
    bits: int
    gpus: tuple[str, ...]
    counts: tuple[int, ...]


FIGURES = (
    Figure("two-gpus", "4-bit weights on two GPUs", 4, ("RTX 4090", "RX 7900 XTX"), (2,)),
    Figure("scaling-16-bit", "Strong scaling, 16-bit weights", 16, ("A100 80GB PCIe", "A10G"), COUNTS),
    Figure("scaling-4-bit", "Strong scaling, 4-bit weights", 4, ("A100 80GB PCIe", "A10G"), COUNTS),
)


@dataclass(frozen=True)
class Speed:
    """A model on so many GPUs: what was published, if anything, and what is projected, in tokens a second."""

    point: Point
    published: float | None
    projected: float

    def row(self, figure: str) -> tuple[str, ...]:
        """Its line of the table."""
        point, said = self.point, self.published
        told = (f"{said:.1f}", f"{self.projected:.1f}", f"{self.projected / said - 1:+.1%}") if said else ("", f"{self.projected:.1f}", "")
        return figure, point.model, str(point.bits), point.gpu, str(point.gpus), *told


def fits(point: Point) -> bool:
    """Whether the weights and a gigabyte besides fit on its GPUs."""
    parameters = {"llama-2-70b": 69.0e9, "codellama-34b": 33.7e9}[point.model]
    bytes_each = {4: 0.5625, 16: 2.0}[point.bits]  # a scale of 16 bits for 32 weights of 4
    return parameters * bytes_each / point.gpus + 1e9 <= profile_of(point.profile).memory


def speeds(figure: Figure, published: Sequence[Point]) -> Iterator[Speed]:
    """Those of a figure, model by model and GPU by GPU, where the weights fit."""
    said = {(p.model, p.bits, p.gpu, p.gpus): p.tokens_per_s for p in published if p.source == SOURCE}
    for model in MODELS:
        for gpu in figure.gpus:
            for count in figure.counts:
                point = Point(SOURCE, model, figure.bits, gpu, count, "PCIe 4" if count > 1 else "-", 0.0, False)
                if fits(point):
                    yield Speed(point, said.get((model, figure.bits, gpu, count)), predicted(point))


def draw(figure: Figure, found: Sequence[Speed], folder: Path, pyplot: Any) -> None:
    """Writes a figure: published speeds as filled points or bars, projections as open ones on dashed lines."""
    drawing, axes = pyplot.subplots(figsize=(6.4, 4.2), layout="constrained")
    groups = [(model, gpu) for model in MODELS for gpu in figure.gpus]
    for i, (model, gpu) in enumerate(groups):
        ones, color, label = [s for s in found if (s.point.model, s.point.gpu) == (model, gpu)], f"C{i}", f"{MODELS[model]}, {gpu}"
        said = [s for s in ones if s.published]
        if len(figure.counts) == 1:
            axes.bar([i - 0.2], [s.published or 0 for s in ones], 0.38, color=color)
            axes.bar([i + 0.2], [s.projected for s in ones], 0.38, color="none", edgecolor=color, linestyle="--")
        else:
            axes.plot([s.point.gpus for s in ones], [s.projected for s in ones], "o--", color=color, markerfacecolor="none", label=label)
            axes.plot([s.point.gpus for s in said], [s.published for s in said], "o", color=color)
    if len(figure.counts) == 1:
        axes.set_xticks(range(len(groups)), [f"{MODELS[model]}\n2 x {gpu}" for model, gpu in groups], fontsize="small")
    else:
        axes.set_xscale("log", base=2)
        axes.set_xticks(figure.counts, [str(count) for count in figure.counts])
        axes.set_xlabel("GPUs")
        axes.legend(fontsize="small")
    axes.set_ylim(bottom=0)
    axes.set_ylabel("tokens/s, one conversation")
    axes.set_title(f"{figure.title}\nfilled: published by MLC LLM; dashed: projections, nothing was run", fontsize="medium")
    for kind, said in (("png", {}), ("svg", {"Date": None})):
        drawing.savefig(folder / f"{figure.name}.{kind}", dpi=150, metadata=said)
    pyplot.close(drawing)


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the table and writes the figures; exit code 2 where they cannot be written."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the first figure alone")
    parser.add_argument("-o", "--output", type=Path, help="the folder for the figures; without it, the table alone")
    options = parser.parse_args(arguments)
    pyplot = None
    if options.output:
        try:
            importlib.import_module("matplotlib").use("Agg")
            pyplot = importlib.import_module("matplotlib.pyplot")
        except ImportError:
            print("error: -o: figures are drawn by matplotlib. Run: pip install 'spmd[figures]'", file=sys.stderr)
            return 2
        pyplot.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": SOURCE})  # text as text, and the same file each time
        options.output.mkdir(parents=True, exist_ok=True)
    published, rows = read(POINTS), []
    for figure in FIGURES[:1] if options.quick else FIGURES:
        found = list(speeds(figure, published))
        rows += [one.row(figure.name) for one in found]
        if pyplot is not None:
            draw(figure, found, options.output, pyplot)
    print(table(HEAD, rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
