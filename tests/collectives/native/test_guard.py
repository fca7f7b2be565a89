"""What a process sees that waits for its device, whose collectives are on their way and not on the board; and what a library reports."""

import mmap
import sys
import time
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from spmd.collectives import Site, Slot, Slots
from spmd.collectives.native import guard as module
from spmd.collectives.native.board import AXES, BEGUN, FAILED, ON_DEVICE, ROW, SITE, STATUS, Row
from spmd.collectives.native.guard import Guard

DEVICE = "the end of its work on the device"


@pytest.fixture
def two(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """The guard of worker 0, which has come to two collectives, and the row of worker 1, which has come to one."""
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)  # which a guard replaces
    monkeypatch.setattr(module, "_kill", lambda: None)
    memory, ended = mmap.mmap(-1, 2 * ROW), []
    rows = {rank: Row(memory, rank) for rank in range(2)}
    guard = Guard(0, rows, 2, lambda: ended.append("all"))
    guard.slots = Slots((Slot("all_reduce", "tp", 2, "float32", kind="sum"),), (Site(0, ("total",), ("float32",)),))
    guard.groups, guard.axes, guard.timeout = {"tp": [[0, 1]]}, {"tp": 0}, 60.0
    guard.row.numbers[AXES], rows[1].numbers[AXES] = 2, 1
    yield SimpleNamespace(guard=guard, other=rows[1], ended=ended)
    guard.watched.clear()
    monkeypatch.undo()


def wait(ended: list[str], count: int = 1) -> None:
    deadline = time.monotonic() + 30.0
    while len(ended) < count and time.monotonic() < deadline:
        time.sleep(0.02)


def test_one_that_failed_does_not_come(two: SimpleNamespace, capsys: pytest.CaptureFixture[str]) -> None:
    two.other.text, two.other.numbers[STATUS] = "failed with ValueError: no such row", FAILED
    with two.guard.meeting(DEVICE, on_device=True):
        wait(two.ended)
    said = capsys.readouterr().err
    assert two.ended == ["all"]
    assert "worker 1 failed with ValueError: no such row while worker 0 waits for it:" in said and f"worker 0 is at {DEVICE}" in said


def test_one_that_waits_for_its_own_device_does_not_come(two: SimpleNamespace, capsys: pytest.CaptureFixture[str]) -> None:
    two.other.text = DEVICE
    two.other.numbers[SITE], two.other.numbers[BEGUN] = ON_DEVICE, 1
    with two.guard.meeting(DEVICE, on_device=True):
        wait(two.ended)
    said = capsys.readouterr().err
    assert two.ended == ["all"]
    assert "workers disagree on how often to meet over mesh axis 'tp':" in said and f"worker 1 is at {DEVICE}" in said


def test_one_that_is_under_way_is_waited_for(two: SimpleNamespace) -> None:
    with two.guard.meeting(DEVICE, on_device=True):
        time.sleep(0.5)
    assert not two.ended


def test_what_a_library_reports_ends_all(two: SimpleNamespace, capsys: pytest.CaptureFixture[str]) -> None:
    two.guard.watched.append(SimpleNamespace(problem=lambda: "NCCL reports on worker 0: timeout", abort=lambda: two.ended.append("NCCL")))
    wait(two.ended, 2)
    assert two.ended == ["NCCL", "all"], "the library's own first"
    assert "CollectiveError: NCCL reports on worker 0: timeout:" in capsys.readouterr().err


def test_workers_that_wait_for_one_another_are_ended(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Two of 2 x 2 workers are at an axis and two at the other: each waits for one of the others."""
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    monkeypatch.setattr(module, "_kill", lambda: None)
    memory, ended = mmap.mmap(-1, 4 * ROW), []
    rows = {rank: Row(memory, rank) for rank in range(4)}
    guard = Guard(0, rows, 4, lambda: ended.append("all"))
    guard.slots = Slots(
        tuple(Slot("all_reduce", axis, 2, "float32", kind="sum") for axis in ("dp", "tp")),
        (Site(0, ("gradient",), ("float32",)), Site(1, ("total",), ("float32",))),
    )
    guard.groups, guard.axes, guard.timeout = {"dp": [[0, 2], [1, 3]], "tp": [[0, 1], [2, 3]]}, {"dp": 0, "tp": 1}, 60.0
    sites = {0: 1, 1: 0, 3: 1}
    for rank, site in sites.items():
        rows[rank].numbers[SITE], rows[rank].numbers[AXES + site], rows[rank].numbers[BEGUN] = site, 1, 1
    time.sleep(0.5)
    assert not ended, "worker 2 is on its way"
    rows[2].numbers[SITE], rows[2].numbers[AXES], rows[2].numbers[BEGUN] = 0, 1, 1
    wait(ended)
    monkeypatch.undo()
    said = capsys.readouterr().err
    assert ended == ["all"]
    assert "workers wait for one another:" in said
    assert "worker 0 is in all_reduce('sum') of 'total'" in said and "worker 1 is in all_reduce('sum') of 'gradient'" in said
