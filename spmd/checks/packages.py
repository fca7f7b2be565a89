"""Packages that are optional."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from spmd.errors import ShardingError


def package(name: str, where: str, what: str, install: str) -> Any:
    """The package `name`, imported. Raises `ShardingError` with `what` and how to `install` it where it is not there."""
    try:
        return import_module(name)
    except ImportError:
        raise ShardingError(where, what, f"pip install {install}") from None
