"""Proof without running: a per-worker program computes what its module computes. It shares no code with what made the program."""

from .proof import Proof, verify

__all__ = ["Proof", "verify"]
