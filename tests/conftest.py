"""Hypothesis profiles: `ci` repeats the same examples, `fuzz` looks for new ones.

Choose with `--hypothesis-profile=fuzz` or `HYPOTHESIS_PROFILE=fuzz`; `ci` otherwise. How many random programs `test_programs.py` runs,
and from which seed on, are options of pytest.
"""

import inspect
import logging
import os

import pytest
from hypothesis import HealthCheck, settings

from spmd.collectives import backend

_NEAR = 3
"""TVMScript reads the source line of the frame two above its own."""


def _outer_frames(frame, context=1):
    """`inspect.getouterframes`, with source lines for the nearest frames only.

    TVMScript asks for all frames at each function and class. Below pytest these are a hundred, and for most of them Python looks through
    all modules that are loaded: four fifths of the time of collecting the tests.
    """
    found = []
    while frame is not None:
        code = frame.f_code
        if len(found) < _NEAR and not code.co_filename.startswith("<"):
            about = inspect.getframeinfo(frame, context)
        else:
            about = (code.co_filename, frame.f_lineno, code.co_name, None, None)
        found.append(inspect.FrameInfo(frame, *about))
        frame = frame.f_back
    return found


inspect.getouterframes = _outer_frames
backend.processors = lambda: [0]  # tests share the processors with each other

settings.register_profile(
    "ci",
    derandomize=True,
    database=None,
    deadline=None,
    max_examples=25,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile(
    "fuzz",
    deadline=None,
    max_examples=2_000,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


@pytest.fixture(autouse=True)
def leaves_logging_alone():
    """A test that turns logging off for good would hide what later tests of its process expect to read."""
    yield
    assert logging.root.manager.disable == logging.NOTSET and logging.getLogger("spmd").level == logging.NOTSET


def pytest_addoption(parser):
    parser.addoption("--programs", type=int, default=250, help="how many random programs test_programs.py runs")
    parser.addoption("--gpu-programs", type=int, default=50, help="how many testing/test_pocl.py compiles for GPUs")
    parser.addoption("--programs-seed", type=int, default=0, help="the first seed of their slices")
    parser.addoption("--every-count", action="store_true", help="run each architecture of examples/llm on 2, 3, 4 and 8 workers")


def pytest_terminal_summary(terminalreporter):
    """Say how many random programs ran."""
    passed = [dict(report.user_properties) for report in terminalreporter.getreports("passed")]
    if total := sum(found.get("programs", 0) for found in passed):
        functions = sum(found.get("functions", 0) for found in passed)
        terminalreporter.write_line(f"{total:,} random programs ran, of {functions:,} functions: all as they are unsharded")
