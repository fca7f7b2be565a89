"""A line on a terminal that says how far a job is."""

from __future__ import annotations

import sys
import threading
import time
from typing import TextIO

_WIDTH = 24
_UNITS = ("B", "kB", "MB", "GB", "TB")


def size_text(count: float) -> str:
    """Bytes as a person says them: ``17.2 GB``."""
    unit = 0
    while count >= 1000 and unit < len(_UNITS) - 1:
        count, unit = count / 1000, unit + 1
    return f"{count:.1f} {_UNITS[unit]}" if unit else f"{count:.0f} B"


class Progress:
    """How much of `total` bytes is done; drawn at most ten times a second, and on a terminal only. Any thread may `add`."""

    def __init__(self, total: int, stream: TextIO | None = None) -> None:
        self.total, self.done, self.skipped = total, 0, 0
        self._stream = sys.stderr if stream is None else stream
        self._shown, self._began, self._drawn = self._stream.isatty(), time.monotonic(), 0.0
        self._turn = threading.Lock()

    def add(self, count: int, skipped: bool = False) -> None:
        """So many more bytes are done; `skipped` ones were there already, and say nothing of the speed."""
        with self._turn:
            self.done += count
            self.skipped += count if skipped else 0
            now = time.monotonic()
            if self._shown and (now - self._drawn > 0.1 or self.done >= self.total):
                self._drawn = now
                self._stream.write(f"\r{self.line(now - self._began)}\x1b[K")
                self._stream.flush()

    def line(self, seconds: float) -> str:
        """The line after so many seconds."""
        part = self.done / self.total if self.total else 1.0
        speed = (self.done - self.skipped) / seconds if seconds > 0 else 0.0
        filled = round(part * _WIDTH)
        left = (self.total - self.done) / speed if speed else 0.0
        bar = "█" * filled + "░" * (_WIDTH - filled)
        done = f"{part:4.0%}  {size_text(self.done)} of {size_text(self.total)}"
        return f"{bar} {done}  {size_text(speed)}/s  {int(left) // 60}:{int(left) % 60:02d} left"

    def close(self) -> None:
        """Leave the line."""
        if self._shown:
            self._stream.write("\n")
            self._stream.flush()
