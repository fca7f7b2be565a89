"""What tests of one engine share."""

import sys

import pytest


@pytest.fixture
def by_numbers(monkeypatch):
    """No function is shown by relations."""
    engine = sys.modules["spmd.verify.proof"].Relational
    monkeypatch.setattr(engine, "unrelated", lambda self, signatures: dict.fromkeys(signatures, "it is not asked"))
