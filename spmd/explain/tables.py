"""Tables for terminals: aligned text, and with the library `rich` its own."""

from __future__ import annotations

import html
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import tvm

from spmd.plan.decisions import Collective

_NUMBER = re.compile(r"[-+]?[\d,.]+( (B|kB|MB|GB|us|ms|s))?|-")
_LAYER = re.compile(r"(?<=[._])\d+(?=[._])")


@dataclass(frozen=True)
class Table:
    """Rows of text under a head."""

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def __str__(self) -> str:
        columns = list(zip(self.head, *self.rows, strict=True))
        widths = [max(map(len, column)) for column in columns]
        right = self._right()

        def line(cells: Sequence[str]) -> str:
            padded = (cell.rjust(w) if r else cell.ljust(w) for cell, w, r in zip(cells, widths, right, strict=True))
            return "  ".join(padded).rstrip()

        return "\n".join([self.title, line(self.head), "  ".join("-" * width for width in widths), *map(line, self.rows)])

    def rich(self) -> Any:
        """The same as a table of `rich`. Raises ImportError where that is not installed."""
        from rich.markup import escape
        from rich.table import Table as RichTable

        made = RichTable(title=self.title, title_justify="left")
        for name, right in zip(self.head, self._right(), strict=True):
            made.add_column(name, justify="right" if right else "left", overflow="fold")
        for row in self.rows:
            made.add_row(*map(escape, row))
        return made

    def html(self) -> str:
        """The same as a table of HTML, for notebooks."""
        places = [f' style="text-align: {"right" if right else "left"}"' for right in self._right()]

        def line(tag: str, cells: Sequence[str]) -> str:
            made = [f"<{tag}{at}>{html.escape(cell)}</{tag}>" for cell, at in zip(cells, places, strict=True)]
            return f"<tr>{''.join(made)}</tr>"

        rows = "".join(line("td", row) for row in self.rows)
        return f"<table><caption>{html.escape(self.title)}</caption>{line('th', self.head)}{rows}</table>"

    def _right(self) -> list[bool]:
        """Whether a column holds numbers only."""
        return [bool(self.rows) and all(_NUMBER.fullmatch(row[i]) for row in self.rows) for i in range(len(self.head))]


def size_text(count: float) -> str:
    """Bytes with a unit: 1,234 -> '1.2 kB'."""
    for unit in ("B", "kB", "MB"):
        if abs(count) < 1000:
            return f"{count:.1f} {unit}" if unit != "B" else f"{count:.0f} B"
        count /= 1000
    return f"{count:.2f} GB"


def time_text(seconds: float, *, sign: bool = False) -> str:
    """Seconds with a unit: 1.5e-5 -> '15.0 us'."""
    if math.isinf(seconds):
        return "impossible"
    for unit, factor in (("us", 1e6), ("ms", 1e3), ("s", 1.0)):
        if abs(seconds) * factor < 1000 or unit == "s":
            return f"{round(seconds * factor, 1) + 0.0:{'+' if sign else ''}.1f} {unit}"  # never -0.0
    return ""


def shape_text(shape: Iterable[int | str]) -> str:
    """(576, "n") -> '576 x n'."""
    return " x ".join(map(str, shape)) or "scalar"


def item_bytes(dtype: str) -> int:
    """Bytes of one element, sub-byte types rounded up; 0 of what is no tensor."""
    return (tvm.DataType(dtype).bits + 7) // 8 if dtype else 0


def folded(name: str) -> str:
    """A name without the number of its layer: ``layers.3.mlp.weight`` -> ``layers.*.mlp.weight``, ``layers_3_mlp`` -> ``layers_*_mlp``."""
    return _LAYER.sub("*", name)


def first_of_calls(collectives: Iterable[Collective]) -> list[Collective]:
    """One collective of each call: those of a bundle go in one."""
    calls = {(c.function, c.bundle) if c.bundle else i: c for i, c in reversed(list(enumerate(collectives)))}
    return list(reversed(calls.values()))
