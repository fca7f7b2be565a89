"""Proofs that a sharded program computes what the unsharded one does."""

from .batch import assert_all_equivalent
from .equivalence import FREE_LINKS, Run, assert_equivalent, difference, random_arguments, simulate
from .missing import find_missing
from .oracle import Verdict, prove
from .shrink import Case

__all__ = [
    "FREE_LINKS",
    "Case",
    "Run",
    "Verdict",
    "assert_all_equivalent",
    "assert_equivalent",
    "difference",
    "find_missing",
    "prove",
    "random_arguments",
    "simulate",
]
