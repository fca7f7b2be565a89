"""A plan that answers questions: what is where and why, what each worker does, what it costs, what is different in another one."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from spmd import checks
from spmd.checks import door, told
from spmd.errors import ShardingError
from spmd.plan import model
from spmd.plan.decisions import Alternative
from spmd.plan.timeline import Timeline

from .difference import Difference, difference
from .listing import listing
from .page import write_page
from .picture import Picture
from .report import Report, report
from .tables import time_text
from .text import explanation, known_name, summary
from .timeline import timeline
from .visualize import picture_of


def _named(where: str, given: Any) -> str:
    if not isinstance(given, str):
        way_out = "Plan.params, .inputs, .outputs and .values have them."
        raise ShardingError(where, f"it takes the name of a value, and got {told(given)}", way_out)
    return given


@dataclass(repr=False)
class Plan(model.Plan):
    """The plan of a module: `model.Plan`, with what is to be said of it."""

    def __repr__(self) -> str:
        predicted = ", ".join(f"{name} {time_text(seconds)}" for name, seconds in self.predicted.items())
        return f"<Plan of {len(self.params)} weights over {self.mesh}, predicted: {predicted}>"

    def _repr_html_(self) -> str:
        """What a notebook shows: the report."""
        return self.report().html()

    @classmethod
    def of(cls, plan: model.Plan) -> Plan:
        """The same decisions, and the search that they came from."""
        made = cls(**{field.name: getattr(plan, field.name) for field in fields(plan) if field.init})
        made.searched = plan.searched
        return made

    @door(name=checks.maybe(_named))
    def explain(self, name: str | None = None) -> str:
        """Where a value lives, why, and what the next best choice would have cost; with no name, the whole plan in a page of text.

        Raises `ShardingError` for a name that the plan does not have.
        """
        return summary(self) if name is None else explanation(self, name)

    @door(name=_named)
    def alternatives(self, name: str) -> list[Alternative]:
        """The other shardings that a value could have, the best first, each solved again with all else free.

        Raises `ShardingError` for a name that the plan does not have, and for a plan that was loaded: it is known where it was planned.
        """
        known_name(self, name)
        if self.searched is None:
            raise ShardingError(f"Plan.alternatives({name!r})", "it is known only where the plan was made", "Plan the module again.")
        return self.searched.of(name)

    @door(name=_named)
    def visualize(self, name: str) -> Picture:
        """Which workers hold which part of a value, at the sizes that were planned for; see `spmd.visualize`.

        Raises `ShardingError` for a name that the plan does not have.
        """
        return picture_of(self, name)

    @door(function=checks.text)
    def listing(self, function: str) -> str:
        """All that each worker does in a function, a line a step: what it takes, computes, sends and returns. Equal layers are listed once.

        Raises `ShardingError` for a function that the plan does not have.
        """
        return listing(self, function)

    @door(function=checks.maybe(checks.text))
    def timeline(self, function: str | None = None) -> Timeline:
        """The predicted time line of a function, or of all one after another: what each worker computes and sends, and when.

        `Timeline.save` writes it for Perfetto; ``w["main"].timeline(...)`` of running workers is the traced one. Raises `ShardingError`
        for a function that the plan does not have.
        """
        return timeline(self, function)

    def report(self) -> Report:
        """What moves, how long it takes and what each worker holds, by function; prints as tables."""
        return report(self)

    @door(other=checks.instance(model.Plan))
    def diff(self, other: model.Plan) -> Difference:
        """What is different in `other`: shardings, collectives, predicted times; prints as text, and is false where nothing is."""
        return difference(self, other)

    @door(path=checks.maybe(checks.path))
    def show(self, path: str | Path | None = None) -> Path:
        """Write the plan as one HTML page that needs nothing else, to `path` or a new temporary file, and say where it is."""
        return write_page(self, path)
