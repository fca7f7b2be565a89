"""Meshes and shardings as HTML, which notebooks show."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape

_MOST = 256
"""The most workers that are drawn one by one."""


def mesh_html(text: str, axes: Mapping[str, int], place: Callable[[int], str]) -> str:
    """The workers as a grid, the last axis across; `place` says what is written of each, by its rank."""
    workers = math.prod(axes.values())
    title = f"<div>{escape(text)}, {workers} worker{'s' * (workers > 1)}</div>"
    if workers > _MOST:
        return title
    *major, (last, across) = axes.items()
    head = [*(name for name, _ in major), *(f"{last}={i}" for i in range(across))]
    rows: list[list[str]] = []
    for row, where in enumerate(itertools.product(*(range(size) for _, size in major))):
        rows.append([*map(str, where), *map(place, range(row * across, (row + 1) * across))])
    return title + _table(head, rows, len(major))


def sharding_html(text: str, dims: Sequence[tuple[str, str]], partial: Iterable[tuple[str, str]]) -> str:
    """A line a dimension: the axes that split it and its pieces, empty where it is whole."""
    rows = [[str(dim), axes or "whole", pieces] for dim, (axes, pieces) in enumerate(dims)]
    rest = "".join(f"<div>every worker along {escape(axis)} holds a term of the {escape(kind)}</div>" for axis, kind in partial)
    return f"<div>{escape(text)}</div>" + (_table(["dimension", "split over", "pieces"], rows, 1) if rows else "") + rest


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], names: int) -> str:
    """A table, of which the first columns are names."""

    def line(tag: str, cells: Sequence[str]) -> str:
        tags = ["th" if i < names else tag for i in range(len(cells))]
        return f"<tr>{''.join(f'<{t}>{escape(cell)}</{t}>' for t, cell in zip(tags, cells, strict=True))}</tr>"

    return f"<table>{line('th', head)}{''.join(line('td', row) for row in rows)}</table>"
