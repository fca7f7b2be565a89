"""Proofs that a sharded program computes what the unsharded one does."""

from .equivalence import Run, assert_equivalent, random_arguments, simulate

__all__ = ["Run", "assert_equivalent", "random_arguments", "simulate"]
