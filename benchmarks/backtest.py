"""Predicted decode speeds beside those that others have published: how true the times are by which plans are made.

    python -m benchmarks.backtest [--quick] [--points FILE]

Each point is a model of that shape, planned for so many GPUs of that profile; nothing is annotated. The time of a token is that of its
embedding and of one step of decode with a KV cache that is half full. Of `benchmarks/published_decode.csv` the profiles were fitted to
the points marked `fit`; all others they had not seen. `--points` is another file with the same columns.
"""

from __future__ import annotations

import argparse
import csv
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from statistics import mean

import tvm

import spmd
from examples.llm.config import LlamaConfig
from examples.llm.model import build_module
from examples.llm.quantize import quantize
from examples.llm.report import table

POINTS = Path(__file__).parent / "published_decode.csv"
METHODS = ("embed", "decode", "create_paged_kv_cache")
TOKENS = 512
"""That the cache has room for: published speeds are means over 200 to 256 tokens, after a prompt of 5 to 8."""
SIZES = {
    "seq_len": 1,
    "max_batch_size": 1,
    "max_total_seq_len": TOKENS,
    "prefill_chunk_size": TOKENS,
    "page_size": 16,
    "support_sliding_window": 0,
}
PROFILES = {
    "4090": "rtx-4090",
    "7900 xtx": "rx-7900-xtx",
    "a10g": "a10g",
    "a100 sxm": "a100-sxm",
    "a100": "a100-pcie",
    "h100": "h100",
    "h200": "h200",
    "mi300x": "mi300x",
}
"""What the name of a GPU contains -> its profile; the first that fits."""


@dataclass(frozen=True)
class Point:
    """One published speed."""

    source: str
    model: str
    bits: int
    gpu: str
    gpus: int
    link: str
    tokens_per_s: float
    is_fit: bool

    @property
    def profile(self) -> str:
        """The profile of its GPU."""
        return next(profile for name, profile in PROFILES.items() if name in self.gpu.lower())

    @property
    def form(self) -> str:
        """How its weights are packed."""
        four = "int4" if "gpt-fast" in self.source else "q4f16_1"
        return {4: four, 8: "int8", 16: ""}[self.bits]

    @property
    def mesh(self) -> spmd.Mesh:
        """Its GPUs, by the link that it names."""
        name = self.link.lower().split()[0]
        return spmd.Mesh(tp=self.gpus, links={"tp": name} if self.gpus > 1 and name in ("pcie", "nvlink") else None)


def read(path: Path) -> list[Point]:
    """The points of a file; lines that begin with # are comments."""
    lines = [line for line in path.read_text().splitlines() if line.strip() and not line.startswith("#")]
    return [
        Point(
            row["source"], row["model"], int(row["weights"]), row["gpu"], int(row["gpus"]), row["link"],
            float(row["tokens_per_s"]), row.get("use", "") == "fit",
        )
        for row in csv.DictReader(lines)
    ]  # fmt: skip


@lru_cache(maxsize=4)
def module(model: str, form: str, layers: int = 0) -> tvm.IRModule:
    """What decodes a token; with so many layers, where a number is given."""
    config = LlamaConfig.preset(model).with_dtype("float16")
    config = replace(config, num_hidden_layers=layers or config.num_hidden_layers)
    mod, _ = build_module(config, methods=METHODS)
    return quantize(mod, form) if form else mod


def predicted(point: Point) -> float:
    """Tokens a second under the plan that is made for it."""
    plan = spmd.plan(module(point.model, point.form), point.mesh, profile=point.profile, sizes=SIZES)
    return 1 / sum(plan.predicted[name] for name in METHODS[:2])


def orderings(points: Iterable[Point], speeds: Sequence[float]) -> Iterator[tuple[str, bool]]:
    """For each model on more than one number of the same GPUs, whether the predicted speeds rise as the published ones do."""
    found: dict[tuple[str, ...], list[tuple[float, float, int]]] = defaultdict(list)
    for point, speed in zip(points, speeds, strict=True):
        found[point.source, point.model, str(point.bits), point.gpu].append((point.tokens_per_s, speed, point.gpus))
    for (_, model, bits, gpu), runs in found.items():
        if len(runs) > 1:
            runs.sort()
            counts = ", ".join(str(gpus) for *_, gpus in runs)
            yield f"{model} in {bits} bits on {gpu}: {counts}", [s for _, s, _ in runs] == sorted(s for _, s, _ in runs)


def report(title: str, points: Sequence[Point]) -> str:
    """A table of points, the mean error of each profile, and the orderings."""
    speeds = [predicted(point) for point in points]
    errors = [speed / p.tokens_per_s - 1 for p, speed in zip(points, speeds, strict=True)]
    rows = [
        (p.source, p.model, str(p.bits), p.gpu, str(p.gpus), p.link, f"{p.tokens_per_s:.1f}", f"{speed:.1f}", f"{error:+.1%}")
        for p, speed, error in zip(points, speeds, errors, strict=True)
    ]
    of_profile: dict[str, list[float]] = defaultdict(list)
    for point, error in zip(points, errors, strict=True):
        of_profile[point.profile].append(abs(error))
    right = list(orderings(points, speeds))
    head = ("source", "model", "bits", "GPU", "GPUs", "link", "published", "predicted", "error")
    means = [f"{name} {mean(found):.1%}" for name, found in of_profile.items()]
    _, worst, farthest = max(
        (abs(error), f"{error:+.1%}", f"{p.model} on {p.gpus} x {p.gpu}") for p, error in zip(points, errors, strict=True)
    )
    wrong = [f"wrong order: {name}" for name, is_right in right if not is_right]
    return "\n".join(
        [
            f"{title}: {len(points)} points, mean error {mean(map(abs, errors)):.1%} ({', '.join(means)}), worst {worst} ({farthest}), "
            f"{len(right) - len(wrong)} of {len(right)} orderings right\n",
            table(head, rows),
            *wrong,
            "",
        ]
    )


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="only the points that the profiles were fitted to")
    parser.add_argument("--points", type=Path, default=POINTS, help="a CSV file of published speeds")
    options = parser.parse_args()
    points = read(options.points)
    fitted, others = [p for p in points if p.is_fit], [p for p in points if not p.is_fit]
    if fitted:
        print(report("fitted", fitted))
    if others and not options.quick:
        print(report("not seen by the fit", others))


if __name__ == "__main__":
    main()
