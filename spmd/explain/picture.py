"""A tensor as a picture, of text and of SVG: which workers hold which block of it."""

from __future__ import annotations

import colorsys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from html import escape
from typing import Any

from spmd.placement.layout import pieces
from spmd.placement.mesh import Mesh
from spmd.placement.sharding import Sharding, Split

_MOST = 8
"""The most parts of a dimension that text has; of more, the first and the last."""
_MOST_DRAWN = 48
"""The same, of SVG."""
_WIDE, _TALL = 420, 260
"""The largest picture of SVG, in pixels, without what is written beside it."""
_MOST_RANKS = 6
"""Workers of a block that are written one by one."""
_Fragments = list[tuple[str, "tuple[int, ...]"]]
"""A line of text in parts, each with the workers that it stands for, if it does."""


@dataclass(frozen=True)
class _Part:
    """A range of a dimension that the workers at `index` of its axes hold, or all of them; None stands for parts that are not drawn."""

    start: int
    stop: int
    index: int | None

    def __str__(self) -> str:
        return f"{self.start}:{self.stop}"


@dataclass(frozen=True, repr=False)
class Picture:
    """Which workers hold which block of a tensor of shape `sizes`.

    ``str()`` gives text, notebooks show SVG, and `rich` prints the text with a colour for each set of workers. Of more dimensions than
    two, those that are split are drawn first.
    """

    sharding: Sharding
    sizes: tuple[int, ...]
    mesh: Mesh

    def __str__(self) -> str:
        return "\n".join([self.title, *("".join(text for text, _ in line) for line in self._lines()), *self.notes])

    def __repr__(self) -> str:
        return str(self)

    @property
    def title(self) -> str:
        """The shape, the sharding and the mesh."""
        dims = f", dimensions {self._drawn[0]} and {self._drawn[1]}" if len(self.sizes) > 2 else ""
        shape = " x ".join(map(str, self.sizes)) or "scalar"
        return f"{shape} {self.sharding} on {self.mesh}{dims}: workers that hold each part"

    @property
    def notes(self) -> list[str]:
        """What the grid does not show: partial sums, padding, and dimensions that are split and not drawn."""
        found = [f"every worker along {axis} holds a term of the {kind}" for axis, kind in self.sharding.partial]
        found += [
            f"dimension {dim} is split over {split.axis}, too: each worker of a part holds its own range of it"
            for dim, split in enumerate(self.sharding.dims)
            if split is not None and dim not in self._drawn
        ]
        if self.sharding.is_padded(self.mesh):
            found.append(f"each worker holds {' x '.join(map(str, self.sharding.local_shape(self.sizes, self.mesh)))}, padding included")
            empty = [rank for rank in range(self.mesh.size) if self._is_empty(rank)]
            found += [f"padding alone is held by {_ranks_text(empty)}"] if empty else []
        return found

    def _is_empty(self, rank: int) -> bool:
        """Whether a worker holds no element, as other workers' parts are all there is."""
        for size, split in zip(self.sizes, self.sharding.dims, strict=True):
            held = pieces(split, self.mesh, self.mesh.index(rank, split.axes)) if split is not None and size else []
            if held and not any(valid for _, _, valid, _ in held):
                return True
        return False

    @cached_property
    def _drawn(self) -> list[int]:
        """The dimensions that are drawn, two at most, in order."""
        return sorted(sorted(range(len(self.sizes)), key=lambda d: self.sharding.dims[d] is None)[:2])

    def _split(self, place: int) -> Split | None:
        """How the rows (0) or columns (1) are split."""
        return self.sharding.dims[self._drawn[place]] if place < len(self._drawn) else None

    def _parts(self, place: int, most: int) -> list[_Part | None]:
        """The parts of the rows (0) or columns (1) in order."""
        if place >= len(self._drawn):
            return [_Part(0, 1, None)]
        size, split = self.sizes[self._drawn[place]], self._split(place)
        if split is None or not size:
            return [_Part(0, size, None)]
        found = [
            _Part(start, start + valid, index)
            for index in range(self.mesh.axis_size(*split.axes))
            for start, _, valid, _ in pieces(split, self.mesh, index)
            if valid
        ]
        found.sort(key=lambda part: part.start)
        return list(found) if len(found) <= most else [*found[: most - 2], None, found[-1]]

    @cached_property
    def _holders(self) -> dict[tuple[int | None, int | None], tuple[int, ...]]:
        """The workers at each index along the axes of rows and of columns, None where these are whole."""
        found: dict[tuple[int | None, int | None], list[int]] = {}
        splits = [split if split is None or self.sizes[self._drawn[i]] else None for i, split in enumerate(map(self._split, (0, 1)))]
        for rank in range(self.mesh.size):
            row, column = (None if split is None else self.mesh.index(rank, split.axes) for split in splits)
            found.setdefault((row, column), []).append(rank)
        return {key: tuple(ranks) for key, ranks in found.items()}

    def _held(self, row: _Part | None, column: _Part | None) -> tuple[int, ...]:
        """The workers that hold a block; none where it stands for several."""
        return () if row is None or column is None else self._holders[row.index, column.index]

    def _lines(self) -> Iterator[_Fragments]:
        """A grid with the ranges of rows beside it and those of columns above it."""
        rows, columns = self._parts(0, _MOST), self._parts(1, _MOST)
        held = [[self._held(r, c) for c in columns] for r in rows]
        body = [[_ranks_text(ranks) or "..." for ranks in line] for line in held]
        head = ["" if len(self._drawn) < 2 else "..." if c is None else str(c) for c in columns]
        side = ["" if not self._drawn else "..." if r is None else str(r) for r in rows]
        widths = [max(map(len, column)) for column in zip(head, *body, strict=True)]
        margin = " " * max(map(len, side))

        def rule(left: str, between: str, right: str) -> _Fragments:
            return [(f"{margin} {left}" + between.join("─" * (width + 2) for width in widths) + right, ())]

        if any(head):
            centred = (text.center(width) for text, width in zip(head, widths, strict=True))
            yield [(f"{margin}   {'   '.join(centred)}".rstrip(), ())]
        yield rule("┌", "┬", "┐")
        for i, (name, texts, ranks) in enumerate(zip(side, body, held, strict=True)):
            if i:
                yield rule("├", "┼", "┤")
            line: _Fragments = [(f"{name.rjust(len(margin))} │", ())]
            for text, width, those in zip(texts, widths, ranks, strict=True):
                line += [(f" {text.center(width)} ", those), ("│", ())]
            yield line
        yield rule("└", "┴", "┘")

    def __rich_console__(self, console: Any, options: Any) -> Iterator[Any]:
        from rich.text import Text

        yield Text(self.title)
        for line in self._lines():
            yield Text.assemble(*((text, f"black on {self._colour(ranks)}" if ranks else "") for text, ranks in line), no_wrap=True)
        yield from map(Text, self.notes)

    def _colour(self, ranks: Sequence[int]) -> str:
        """The colour of those who hold a block: grey of all workers, else a hue of the first of them."""
        if len(ranks) == self.mesh.size:
            return "#c9ced6"
        red, green, blue = colorsys.hls_to_rgb(ranks[0] / self.mesh.size, 0.76, 0.62)
        return f"#{round(red * 255):02x}{round(green * 255):02x}{round(blue * 255):02x}"

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        below = "".join(f"<div>{escape(note)}</div>" for note in self.notes)
        return f"<div>{escape(self.title)}</div>{self.svg()}{below}"

    def svg(self) -> str:
        """The blocks as an SVG, in the proportions of the tensor where these can be drawn."""
        rows, columns = self._parts(0, _MOST_DRAWN), self._parts(1, _MOST_DRAWN)
        tall, wide = (max(self.sizes[self._drawn[i]], 1) if i < len(self._drawn) else 0 for i in (0, 1))
        ratio = min(max(wide / tall, 0.25), 4.0) if tall and wide else 0.25 if tall else 1.0
        width, height = min(_WIDE, _TALL * ratio), min(_TALL, _WIDE / ratio)
        made: list[str] = []
        for y0, y1, row in _placed(rows, height):
            for x0, x1, column in _placed(columns, width):
                ranks = self._held(row, column)
                label = _ranks_text(ranks) or "..."
                fill = self._colour(ranks) if ranks else "#ffffff"
                box = f'x="{x0:.1f}" y="{y0:.1f}" width="{x1 - x0:.1f}" height="{y1 - y0:.1f}"'
                what = f"{'...' if row is None else row}, {'...' if column is None else column}: {label}"
                made.append(f'<rect {box} fill="{fill}" stroke="#fff"><title>{escape(what)}</title></rect>')
                if x1 - x0 > 7 * len(label) and y1 - y0 > 13:
                    made.append(f'<text x="{(x0 + x1) / 2:.1f}" y="{(y0 + y1) / 2 + 4:.1f}" text-anchor="middle">{label}</text>')
        frame = f'<rect width="{width:.1f}" height="{height:.1f}" fill="none" stroke="#5b6675"/>'
        size = f'width="{width + 2:.0f}" height="{height + 2:.0f}" viewBox="-1 -1 {width + 2:.1f} {height + 2:.1f}"'
        style = 'font-family="sans-serif" font-size="12"'
        return f'<svg xmlns="http://www.w3.org/2000/svg" {size} {style}>{"".join(made)}{frame}</svg>'


def _placed(parts: Sequence[_Part | None], length: float) -> Iterator[tuple[float, float, _Part | None]]:
    """Where each part begins and ends on a line of this length; what is not drawn has the room that the others leave it."""
    last = parts[-1]
    total = max(last.stop if last is not None else 1, 1)
    for i, part in enumerate(parts):
        before, after = parts[i - 1] if i else None, parts[i + 1] if i + 1 < len(parts) else None
        start = part.start if part is not None else before.stop if before is not None else 0
        stop = part.stop if part is not None else after.start if after is not None else total
        yield start / total * length, (stop if total > 1 or stop else 1) / total * length, part


def _ranks_text(ranks: Sequence[int]) -> str:
    """The numbers of workers: ``0-3``, ``0,2``, ``0,4,...,60``."""
    if len(ranks) > 2 and ranks[-1] - ranks[0] == len(ranks) - 1:
        return f"{ranks[0]}-{ranks[-1]}"
    shown = list(map(str, ranks))
    return ",".join(shown if len(shown) <= _MOST_RANKS else [*shown[:2], "...", shown[-1]])
