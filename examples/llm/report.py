"""A plan as tables that a person can read."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Aligned columns under a ruled head; a column whose cells are all numbers is aligned right."""
    columns = list(zip(head, *rows, strict=True))
    widths = [max(map(len, column)) for column in columns]
    right = [bool(rows) and all(re.fullmatch(r"[\d,.]+", cell) for cell in column[1:]) for column in columns]

    def line(cells: Sequence[str]) -> str:
        padded = (cell.rjust(w) if r else cell.ljust(w) for cell, w, r in zip(cells, widths, right, strict=True))
        return "  ".join(padded).rstrip()

    return "\n".join([line(head), "  ".join("-" * width for width in widths), *map(line, rows)])


def size_text(count: float) -> str:
    """Bytes with a unit: 1,234 -> '1.2 kB'."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.1f} {unit}" if unit != "B" else f"{count:.0f} B"
        count /= 1000
    return f"{count:.2f} GB"


def weights_table(plan: Any, mesh: Any, weights: Mapping[str, np.ndarray]) -> str:
    """One line for each kind of weight, the layers folded into `layers.*`, and the bytes that a worker holds."""
    kinds: Counter[tuple[str, ...]] = Counter()
    whole = local = 0
    for name, array in weights.items():
        part = tuple(int(size) for size in plan.params[name].local_shape(array.shape, mesh))
        whole += array.nbytes
        local += math.prod(part) * array.itemsize
        kinds[re.sub(r"\.\d+\.", ".*.", name), _shape(array.shape), str(plan.params[name]), _shape(part)] += 1
    rows = [(kind[0], str(count), *kind[1:]) for kind, count in kinds.items()]
    total = f"weights: {size_text(whole)} in all, {size_text(local)} on each worker ({local / whole:.0%})"
    return table(("weight", "count", "shape", "sharding", "on a worker"), rows) + "\n\n" + total


def collectives_table(plan: Any) -> str:
    """One line for each function and kind of collective: how many, and their bytes."""
    groups: dict[tuple[str, str, str], list[int | str]] = {}
    for one in plan.collectives:
        groups.setdefault((one.function, one.kind, str(one.axis)), []).append(one.bytes)
    rows = [(*key, str(len(sizes)), _bytes(sizes)) for key, sizes in groups.items()]
    return table(("function", "collective", "axis", "count", "bytes"), rows) if rows else "no collectives"


def _shape(shape: Sequence[int]) -> str:
    """(576, 1536) -> '576 x 1536'."""
    return " x ".join(map(str, shape))


def _bytes(sizes: Sequence[int | str]) -> str:
    """The sum where all are numbers, else each different expression and how often it occurs."""
    if all(isinstance(size, int) for size in sizes):
        return size_text(sum(int(size) for size in sizes))
    return " + ".join(f"{count} x ({text})" for text, count in Counter(map(str, sizes)).items())
