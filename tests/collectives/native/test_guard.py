"""What a process sees of another on the board, and what it makes of it."""

import os
import sys

import pytest

from spmd.collectives import Site, Slot, Slots
from spmd.collectives.native.board import AXES, BEGUN, COUNT, DONE, ENDED, FAILED, LEFT, MET, RUNS, SITE, STATUS, Row, create, opened
from spmd.collectives.native.guard import Guard

SLOTS = Slots((Slot("all_reduce", "tp", 2, "float32", kind="sum"),), (Site(0, ("a",), ("float32",)), Site(0, ("b",), ("float32",))))


class Looked(Guard):
    """A guard that looks when it is asked."""

    def _watch(self) -> None:
        return


@pytest.fixture
def guard(monkeypatch: pytest.MonkeyPatch) -> Guard:
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    path, memory = create(2)
    other = opened(path, 2)
    os.unlink(path)
    made = Looked(0, {0: Row(memory, 0), 1: Row(other, 1)}, 2, lambda: None)
    made.slots, made.groups, made.axes, made.timeout = SLOTS, {"tp": [0, 1]}, {"tp": 0}, 5.0
    return made


def at(row: Row, site: int, begun: int = 1, count: int = 8) -> None:
    """A process that is in a collective, its `begun`-th of the run."""
    for field, value in ((SITE, site), (COUNT, count), (AXES, begun), (BEGUN, begun), (DONE, begun - 1), (STATUS, RUNS)):
        row.numbers[field] = value


def after(row: Row, begun: int, status: int, text: str = "") -> None:
    """A process that is in no collective any more, after so many."""
    at(row, 0, begun)
    row.numbers[DONE], row.numbers[STATUS] = begun, status
    row.text = text


def test_who_comes_late_is_waited_for(guard: Guard) -> None:
    at(guard.rows[0], 0)
    after(guard.rows[1], 0, RUNS)
    assert guard._problem(4.0) == ""
    assert guard._problem(6.0) == "worker 0 waited 5 seconds"


@pytest.mark.parametrize(
    ("status", "text", "said"),
    [(ENDED, "", "returned"), (FAILED, "failed with KeyError: 'lr'", "failed with KeyError: 'lr'"), (LEFT, "left", "left")],
)
def test_who_is_gone_is_not(guard: Guard, status: int, text: str, said: str) -> None:
    at(guard.rows[0], 1, begun=2)
    after(guard.rows[1], 1, status, text)
    assert guard._problem(0.1) == f"worker 1 {said} while worker 0 waits for it"


@pytest.mark.parametrize("status", [RUNS, ENDED, FAILED, LEFT])
def test_who_did_the_collective_may_have_gone_on(guard: Guard, status: int) -> None:
    """The last of a run ends for one process before it ends for another."""
    at(guard.rows[0], 1, begun=2)
    after(guard.rows[1], 2, status)
    assert guard._problem(0.1) == ""


def test_who_is_behind_is_no_disagreement(guard: Guard) -> None:
    at(guard.rows[0], 1, begun=2)
    at(guard.rows[1], 0, begun=1)
    assert guard._problem(0.1) == ""


def test_another_collective_or_size_is_a_disagreement(guard: Guard) -> None:
    for site, count in ((1, 8), (0, 9)):
        at(guard.rows[0], 0)
        at(guard.rows[1], site, count=count)
        assert guard._problem(0.1) == "workers disagree on a collective over mesh axis 'tp'"
    assert guard._state(1) == "is in all_reduce('sum') of 'a', 9 elements of float32, over axis 'tp'"


def test_meetings(guard: Guard) -> None:
    other = guard.rows[1]
    with guard.meeting("the start of 'main'"):
        assert guard.row.waits and guard._state(0) == "is at the start of 'main'"
        after(other, 0, ENDED)
        assert guard._problem(0.1) == "", "it is still to come"
        after(other, 0, LEFT, "left")
        assert guard._problem(0.1) == "worker 1 left while worker 0 waits for it"
        other.numbers[MET] = guard.row.numbers[MET]
        assert guard._problem(0.1) == "", "it was here"
    assert not guard.row.waits and guard._state(0) == "runs"
    after(other, 0, RUNS)
    with guard.meeting("the compilation", patient=True):
        assert guard._problem(6.0) == ""


def test_what_a_process_failed_with_stays_to_be_read(guard: Guard) -> None:
    guard.say(FAILED, "failed with ValueError: é" + "é" * 2000)
    with guard.meeting("the end of the run"):
        assert guard.row.text.startswith("failed with ValueError: é") and len(guard.row.text.encode()) < 780
