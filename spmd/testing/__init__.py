"""Proofs that a sharded program computes what the unsharded one does."""

from .equivalence import FREE_LINKS, Run, assert_equivalent, difference, random_arguments, simulate
from .oracle import Verdict, find_missing, prove

__all__ = ["FREE_LINKS", "Run", "Verdict", "assert_equivalent", "difference", "find_missing", "prove", "random_arguments", "simulate"]
