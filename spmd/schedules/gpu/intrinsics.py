"""Imports of TVM's tensor intrinsics, which dlight makes for CUDA, without the half minute that they take."""

from __future__ import annotations

import importlib._bootstrap as inner  # pyright: ignore[reportMissingModuleSource]
import importlib._bootstrap_external as outer  # pyright: ignore[reportMissingModuleSource]
import inspect
import os


def quick_imports() -> None:
    """Tell `inspect` which modules the frames of Python's own import system belong to.

    TVM's parser asks for the whole stack at each of some 500 functions that these modules define while they are imported. For frames
    whose file is frozen into Python, `inspect.getmodule` looks through all modules each time: 30 of 33 seconds.
    """
    for module in (inner, outer):
        file = os.path.normcase(os.path.abspath(f"<frozen {module.__name__}>"))
        inspect.modulesbyfile.setdefault(file, module.__name__)  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]
