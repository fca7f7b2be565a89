"""Time lines as data and as JSON."""

import json
import math
import re

import pytest

import spmd
from spmd.plan.timeline import COLLECTIVE, COMPUTE, FUNCTION, Span, Timeline

LINE = Timeline(
    "traced",
    {
        0: [
            Span(FUNCTION, "main", 5.0, 10.0),
            Span(COMPUTE, "a", 5.0, 2.0),
            Span(COLLECTIVE, "r", 6.0, 5.0, {"bytes": 8}),
            Span(COMPUTE, "b", 8.0, 1.0),
            Span(COMPUTE, "c", 8.5, 1.0),
        ],
        1: [Span(FUNCTION, "main", 5.5, 9.0)],
    },
)


def test_a_collective_is_hidden_while_its_worker_computes():
    assert [(s.name, s.start, s.end) for s in LINE.exposed(0)] == [("r", 7.0, 8.0), ("r", 9.5, 11.0)]
    assert LINE.exposed(1) == []


def test_totals():
    assert (LINE.total(), LINE.total("main"), LINE.total("other"), Timeline("traced", {}).total()) == (10.0, 10.0, 0.0, 0.0)
    assert str(LINE).splitlines()[0] == (
        "worker 0, traced: 10000000.0 us, computes 4000000.0 us, collectives 5000000.0 us (2500000.0 us exposed)"
    )
    assert repr(LINE) == "<Timeline of 2 workers, traced: 10000000.0 us>"
    assert str(Timeline("predicted", {0: []}, 7)).endswith("\nand 7 more that do the same")


def checked(text):
    """The events of a trace, after what the format asks of each."""
    assert not re.search(r"\d[eE][-+]?\d", re.sub(r'"[^"]*"', "", text)), "Perfetto takes numbers with an exponent for others"
    data = json.loads(text)
    events = data["traceEvents"]
    for event in events:
        assert isinstance(event["pid"], int) and event["pid"] > 0 and isinstance(event["args"], dict)
        if event["ph"] == "X":
            assert set(event) == {"ph", "pid", "tid", "name", "cat", "ts", "dur", "args"} and event["name"] and event["cat"]
            assert all(isinstance(event[key], int | float) and 0 <= event[key] < math.inf for key in ("ts", "dur"))
        else:
            assert event["ph"] == "M" and event["name"] in ("process_name", "process_sort_index", "thread_name")
            assert set(event["args"]) == {"sort_index" if event["name"] == "process_sort_index" else "name"}
        assert isinstance(event.get("tid", 1), int) and event.get("tid", 1) > 0, "thread 0 is not shown"
    named = {(e["pid"], e["tid"]): e["args"]["name"] for e in events if e["name"] == "thread_name"}
    assert all(named[e["pid"], e["tid"]] == e["cat"] for e in events if e["ph"] == "X"), "every row has the name of what it holds"
    return events


def nests(events):
    """Whether of any two events of a row one is in the other, or over before it, in whole nanoseconds: a viewer draws no others."""
    rows: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for e in events:
        if e["ph"] == "X":
            start, long = (round(1000 * e[key]) for key in ("ts", "dur"))
            assert (start / 1000, long / 1000) == (e["ts"], e["dur"])
            rows.setdefault((e["pid"], e["tid"]), []).append((start, start + long))
    for row in rows.values():
        around: list[int] = []
        for start, end in sorted(row, key=lambda times: (times[0], -times[1])):
            while around and around[-1] <= start:
                around.pop()
            if around and end > around[-1]:
                return False
            around.append(end)
    return True


def test_what_overlaps_does_not_nest():
    assert not nests(checked(LINE.to_json()))
    apart = {0: [Span(COMPUTE, "a", 0.0, 2.0), Span(COMPUTE, "b", 2.0, 1.0), Span(COMPUTE, "in a", 0.5, 1.0)]}
    assert nests(checked(Timeline("traced", apart).to_json()))


def test_what_follows_begins_where_the_one_before_ends():
    """Times of less than a nanosecond, and sums of them that are rounded otherwise than the ends of spans."""
    spans, at = list[Span](), 0.0
    for number in range(3000):
        spans.append(Span(COMPUTE, f"{number}", at, (number % 7) * 1.23e-10))
        at += spans[-1].seconds + (1e-17 if number % 3 else -1e-17)
    assert nests(checked(Timeline("predicted", {0: spans}).to_json()))


def test_the_json_is_a_trace_that_perfetto_reads():
    events = checked((LINE + Timeline("predicted", LINE.workers, 3)).to_json())
    names = {e["pid"]: e["args"]["name"] for e in events if e["name"] == "process_name"}
    alike = "worker {}, predicted (3 more do the same)".format
    assert names == {1: "worker 0, traced", 2: alike(0), 3: "worker 1, traced", 4: alike(1)}
    first = [(e["name"], e["cat"], e["ts"], e["dur"]) for e in events if e["pid"] == 1 and e["ph"] == "X"]
    assert first[:2] == [("main", "function", 0.0, 1e7), ("a", "compute", 0.0, 2e6)]
    assert ("r", "collective", 1e6, 5e6) in first and ("r", "exposed communication", 2e6, 1e6) in first
    assert next(e for e in events if e["cat" if "cat" in e else "ph"] == "collective")["args"] == {"bytes": 8}


def test_where_it_is_written(tmp_path):
    LINE.save(tmp_path / "trace.json")
    assert (tmp_path / "trace.json").read_text() == LINE.to_json() + "\n"
    with pytest.raises(spmd.ShardingError, match=r"Timeline.save\(\), path: it takes the name of a file, and got None"):
        LINE.save(None)
