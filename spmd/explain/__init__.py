"""What a plan says to people: the reasons of one value, listings, tables, differences, a page. It reads plans and decides nothing."""

from .difference import Difference
from .report import Report
from .speaking import Plan

__all__ = ["Difference", "Plan", "Report"]
