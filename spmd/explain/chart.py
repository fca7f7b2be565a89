"""Lines over two logarithmic axes as SVG."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape

_WIDTH, _HEIGHT = 760, 420
_LEFT, _RIGHT, _TOP, _BOTTOM = 70, 150, 46, 46
_COLOURS = ("#2456b8", "#2f9e68", "#d58a1f", "#8a56c9", "#c9487b", "#1f9fb4", "#7d8f1f", "#a8623a")
_APART = 14
"""Pixels between names beside each other."""


@dataclass(frozen=True)
class Line:
    """Points in the order of x; without a name it is thin, in the colour of the line before."""

    name: str
    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class _Frame:
    """From numbers to places in the drawing."""

    x: tuple[float, float]
    y: tuple[float, float]

    def at(self, x: float, y: float) -> tuple[float, float]:
        across = math.log(x / self.x[0]) / (math.log(self.x[1] / self.x[0]) or 1)
        up = math.log(y / self.y[0]) / (math.log(self.y[1] / self.y[0]) or 1)
        return _LEFT + across * (_WIDTH - _LEFT - _RIGHT), _HEIGHT - _BOTTOM - up * (_HEIGHT - _TOP - _BOTTOM)


def chart(
    title: str, across: str, told: Callable[[float], str], lines: Sequence[Line], marks: Mapping[int, str], missing: Mapping[int, str]
) -> str:
    """Lines over positive numbers, of which `told` makes texts.

    `marks` are x with a dashed line and what it says, `missing` those that have no point, and why.
    """
    xs = sorted({x for line in lines for x, _ in line.points} | {float(x) for x in missing}) or [1.0]
    ys = [y for line in lines if line.name for _, y in line.points] or [1.0]
    frame = _Frame((xs[0], max(xs[-1], xs[0] * 2)), (min(ys) / 1.3, max(ys) * 1.3))
    body = [f'<text x="{_LEFT}" y="20" font-size="14" font-weight="600">{escape(title)}</text>']
    body += _axes(frame, xs, across, told)
    body += _marks(frame, marks, missing)
    body += _drawn(frame, lines, told)
    size = f'width="{_WIDTH}" height="{_HEIGHT}" viewBox="0 0 {_WIDTH} {_HEIGHT}"'
    back = f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="#fff"/>'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="12">{back}{"".join(body)}</svg>'


def _axes(frame: _Frame, xs: Sequence[float], across: str, told: Callable[[float], str]) -> Iterator[str]:
    low, high = frame.at(frame.x[0], frame.y[0]), frame.at(frame.x[1], frame.y[1])
    yield f'<path d="M{low[0]:.1f},{high[1]:.1f}V{low[1]:.1f}H{high[0]:.1f}" fill="none" stroke="#5b6675"/>'
    last = -math.inf
    for x in xs:
        place = frame.at(x, frame.y[0])[0]
        yield f'<path d="M{place:.1f},{low[1]:.1f}v4" stroke="#5b6675"/>'
        if place - last > 7 * len(f"{x:g}") + 6:
            yield f'<text x="{place:.1f}" y="{low[1] + 18:.1f}" text-anchor="middle">{x:g}</text>'
            last = place
    yield f'<text x="{(low[0] + high[0]) / 2:.1f}" y="{_HEIGHT - 8}" text-anchor="middle" fill="#5b6675">{escape(across)}</text>'
    for y in _steps(*frame.y):
        place = frame.at(frame.x[0], y)[1]
        yield f'<path d="M{low[0]:.1f},{place:.1f}H{high[0]:.1f}" stroke="#e6e9ee"/>'
        yield f'<text x="{low[0] - 8:.1f}" y="{place + 4:.1f}" text-anchor="end">{escape(told(y))}</text>'


def _steps(low: float, high: float) -> list[float]:
    """Round numbers between two: powers of ten, with twos and fives where these are few."""
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    tens = [10.0**e for e in exponents if low <= 10.0**e <= high]
    return tens if len(tens) > 2 else [m * 10.0**e for e in exponents for m in (1, 2, 5) if low <= m * 10.0**e <= high]


def _marks(frame: _Frame, marks: Mapping[int, str], missing: Mapping[int, str]) -> Iterator[str]:
    top, bottom = frame.at(frame.x[0], frame.y[1])[1], frame.at(frame.x[0], frame.y[0])[1]
    for x, text in marks.items():
        place = frame.at(x, frame.y[0])[0]
        line = f'<path d="M{place:.1f},{top:.1f}V{bottom:.1f}" stroke="#c23616" stroke-dasharray="4 4"/>'
        word = f'<text x="{place:.1f}" y="{top - 4:.1f}" text-anchor="middle" font-size="10" fill="#c23616">change</text>'
        yield f'<g class="change">{line}{word}<title>{escape(text)}</title></g>'
    for x, text in missing.items():
        place = frame.at(x, frame.y[0])[0]
        cross = f'<text x="{place:.1f}" y="{bottom - 6:.1f}" text-anchor="middle" fill="#c23616">✕</text>'
        yield f'<g class="missing">{cross}<title>{escape(text)}</title></g>'


def _drawn(frame: _Frame, lines: Sequence[Line], told: Callable[[float], str]) -> Iterator[str]:
    colour, names, named = "", list[tuple[float, str, str]](), 0
    for line in lines:
        places = [frame.at(x, y) for x, y in line.points]
        path = "M" + "L".join(f"{x:.1f},{max(y, _TOP):.1f}" for x, y in places)
        if not line.name:
            inside = [(x, y) for x, y in places if y <= _HEIGHT - _BOTTOM]
            path = "M" + "L".join(f"{x:.1f},{y:.1f}" for x, y in inside)
            yield f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="1" opacity="0.35"/>'
            continue
        colour, named = _COLOURS[named % len(_COLOURS)], named + 1
        yield f'<path class="line" d="{path}" fill="none" stroke="{colour}" stroke-width="2"/>'
        for (x, y), (n, value) in zip(places, line.points, strict=True):
            what = escape(f"{line.name}, {n:g}: {told(value)}")
            yield f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"><title>{what}</title></circle>'
        names.append((places[-1][1], line.name, colour))
    last = -math.inf
    for y, name, shown in sorted(names):
        last = max(y + 4, last + _APART)
        text = name if len(name) <= 20 else name[:19] + "…"
        yield f'<text x="{_WIDTH - _RIGHT + 8}" y="{last:.1f}" fill="{shown}">{escape(text)}</text>'
