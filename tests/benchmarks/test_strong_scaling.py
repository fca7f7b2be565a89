"""The figures of the post: which points they have, what is published of them, and how a lack of matplotlib is told."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from benchmarks import strong_scaling
from benchmarks.backtest import POINTS, Point, read


@pytest.fixture(autouse=True)
def _projections_are_given(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plans of 80 layers take long, and tests of the back-test make them."""
    monkeypatch.setattr(strong_scaling, "predicted", lambda point: 10.0 * point.gpus)


def lines(figure: strong_scaling.Figure) -> dict[tuple[str, str], list[tuple[int, float | None]]]:
    found: dict[tuple[str, str], list[tuple[int, float | None]]] = {}
    for speed in strong_scaling.speeds(figure, read(POINTS)):
        assert speed.projected == 10.0 * speed.point.gpus
        found.setdefault((speed.point.model, speed.point.gpu), []).append((speed.point.gpus, speed.published))
    return found


def test_the_points_of_the_post_are_in_the_figures() -> None:
    two, half, four = map(lines, strong_scaling.FIGURES)
    assert two["llama-2-70b", "RTX 4090"] == [(2, 34.5)] and two["llama-2-70b", "RX 7900 XTX"] == [(2, 29.9)]
    assert half["llama-2-70b", "A100 80GB PCIe"] == [(2, 17.0), (4, 26.6), (8, 38.8)]
    assert four["llama-2-70b", "A100 80GB PCIe"] == [(1, None), (2, 40.9), (4, 55.8), (8, 59.4)]
    drawn = [value for figure in (two, half, four) for line in figure.values() for _, value in line if value]
    published = [p for p in read(POINTS) if p.source == strong_scaling.SOURCE and p.gpus > 1]
    assert sorted(drawn) == sorted(p.tokens_per_s for p in published)


def test_what_does_not_fit_has_no_projection() -> None:
    fits = {count: strong_scaling.fits(Point("", "llama-2-70b", 16, "A10G", count, "-", 0.0, False)) for count in (4, 8)}
    assert fits == {4: False, 8: True}


def test_figures_say_what_is_projected(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    assert strong_scaling.main(["-o", str(tmp_path)]) == 0
    names = [figure.name for figure in strong_scaling.FIGURES]
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted(f"{name}.{kind}" for name in names for kind in ("png", "svg"))
    assert "projected tokens/s" in capsys.readouterr().out


def test_without_matplotlib_the_table_is_printed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    load = importlib.import_module

    def lacking(name: str) -> object:
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return load(name)

    monkeypatch.setattr(importlib, "import_module", lacking)
    assert strong_scaling.main(["--quick"]) == 0
    assert "two-gpus llama-2-70b 4 RTX 4090 2 34.5 20.0 -42.0%" in " ".join(capsys.readouterr().out.split())
    assert strong_scaling.main(["-o", "figures"]) == 2
    assert "error: -o: figures are drawn by matplotlib. Run: pip install 'spmd[figures]'" in capsys.readouterr().err
