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
    guard.groups, guard.axes, guard.timeout = {"tp": [0, 1]}, {"tp": 0}, 60.0
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
