"""The one error type of spmd: where it happened, what is wrong, and the way out."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any


class ShardingError(ValueError):
    """A module, spec or plan that cannot be sharded as asked.

    The text reads ``where: what. way_out``: `where` names the function, operator or value; `what` gives the names and
    sizes that disagree; `way_out` tells the caller what to change.
    """

    def __init__(self, where: str, what: str, way_out: str = "") -> None:
        self.where, self.what, self.way_out = where, what, way_out
        super().__init__(f"{where}: {what}." + (f" {way_out}" if way_out else ""))

    def __reduce__(self) -> tuple[Any, ...]:
        """Processes send it to one another."""
        return ShardingError, (self.where, self.what.removesuffix("."), self.way_out)


def nearest(name: str, known: Iterable[str]) -> str:
    """A way out for a name that is not known: the nearest ones."""
    names, name = list(map(str, known)), str(name)
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.4) or names[:3]
    return f"Did you mean {' or '.join(map(repr, close))}?" if close else ""
