"""The command line: ``python -m spmd``."""

from .main import main

__all__ = ["main"]
