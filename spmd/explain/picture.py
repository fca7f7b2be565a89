"""A tensor as a picture of text: which workers hold which part of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from spmd.placement.layout import pieces
from spmd.placement.mesh import Mesh
from spmd.placement.sharding import Sharding, Split

_MOST = 8
"""The most parts of a dimension that are drawn; of more, the first and the last."""


@dataclass(frozen=True)
class _Part:
    """A range of a dimension that the workers at `index` of its axes hold, or all of them; None stands for parts that are not drawn."""

    start: int
    stop: int
    index: int | None

    def __str__(self) -> str:
        return f"{self.start}:{self.stop}"


def picture(sharding: Sharding, sizes: Sequence[int], mesh: Mesh) -> str:
    """Two dimensions of a tensor, cut as a sharding says, with the numbers of the workers that hold each part.

    Of more dimensions than two, those that are split are drawn first.
    """
    sharding = sharding.at(tuple(sizes))
    split_first = sorted(range(len(sizes)), key=lambda d: sharding.dims[d] is None)
    drawn = sorted(split_first[:2])
    rows = _parts(sharding.dims[drawn[0]], sizes[drawn[0]], mesh) if drawn else [_Part(0, 1, None)]
    columns = _parts(sharding.dims[drawn[1]], sizes[drawn[1]], mesh) if len(drawn) > 1 else [_Part(0, 1, None)]
    row_split = sharding.dims[drawn[0]] if drawn else None
    column_split = sharding.dims[drawn[1]] if len(drawn) > 1 else None
    body = [[_held(mesh, row_split, r, column_split, c) for c in columns] for r in rows]
    head = ["" if len(drawn) < 2 else "..." if c is None else str(c) for c in columns]
    side = ["" if not drawn else "..." if r is None else str(r) for r in rows]
    dims = f", dimensions {drawn[0]} and {drawn[1]}" if len(sizes) > 2 else ""
    title = f"{' x '.join(map(str, sizes)) or 'scalar'} {sharding} on {mesh}{dims}: workers that hold each part"
    return "\n".join([title, *_drawn(head, side, body)])


def _parts(split: Split | None, size: int, mesh: Mesh) -> list[_Part | None]:
    """The parts of a dimension in order."""
    if split is None:
        return [_Part(0, size, None)]
    found = [
        _Part(start, start + valid, index)
        for index in range(mesh.axis_size(*split.axes))
        for start, _, valid, _ in pieces(split, mesh, index)
        if valid
    ]
    found.sort(key=lambda part: part.start)
    return list(found) if len(found) <= _MOST else [*found[: _MOST - 2], None, found[-1]]


def _held(mesh: Mesh, row_split: Split | None, row: _Part | None, column_split: Split | None, column: _Part | None) -> str:
    """The workers that hold the part at a row and a column: ``0-3``, ``0,2``."""
    if row is None or column is None:
        return "..."
    ranks = [
        rank
        for rank in range(mesh.size)
        if (row_split is None or mesh.index(rank, row_split.axes) == row.index)
        and (column_split is None or mesh.index(rank, column_split.axes) == column.index)
    ]
    if len(ranks) > 2 and ranks[-1] - ranks[0] == len(ranks) - 1:
        return f"{ranks[0]}-{ranks[-1]}"
    return ",".join(map(str, ranks))


def _drawn(head: Sequence[str], side: Sequence[str], body: Sequence[Sequence[str]]) -> list[str]:
    """A grid with the ranges of rows beside it and those of columns above it."""
    widths = [max(map(len, column)) for column in zip(head, *body, strict=True)]
    margin = max(map(len, side))

    def rule(left: str, between: str, right: str) -> str:
        return " " * margin + f" {left}" + between.join("─" * (width + 2) for width in widths) + right

    top = (
        [" " * margin + "   " + "   ".join(text.center(width) for text, width in zip(head, widths, strict=True)).rstrip()]
        if any(head)
        else []
    )
    lines = [*top, rule("┌", "┬", "┐")]
    for i, (name, row) in enumerate(zip(side, body, strict=True)):
        lines += [rule("├", "┼", "┤")] * (i > 0)
        lines.append(f"{name.rjust(margin)} │ " + " │ ".join(text.center(width) for text, width in zip(row, widths, strict=True)) + " │")
    return [*lines, rule("└", "┴", "┘")]
