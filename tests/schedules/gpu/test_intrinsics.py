"""Imports that ask for the whole stack find the modules of its frames at once."""

import inspect
import os

from spmd.schedules.gpu import quick_imports


def test_frames_of_the_import_system_are_known(monkeypatch):
    monkeypatch.setattr(inspect, "modulesbyfile", {})
    quick_imports()
    for name in ("importlib._bootstrap", "importlib._bootstrap_external"):
        assert inspect.modulesbyfile[os.path.normcase(os.path.abspath(f"<frozen {name}>"))] == name
