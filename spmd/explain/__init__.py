"""What a plan says to people: the reasons of one value, tables, differences, a page. It reads plans and decides nothing."""

from .difference import Difference, difference
from .listing import listing
from .page import write_page
from .report import Report, report
from .text import explanation, known_name, summary

__all__ = ["Difference", "Report", "difference", "explanation", "known_name", "listing", "report", "summary", "write_page"]
