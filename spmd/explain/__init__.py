"""What a plan says to people: the reasons of one value, listings, tables, differences, a page. It reads plans and decides nothing."""

from .difference import Difference
from .picture import Picture
from .report import Report
from .scaling import Scaling
from .speaking import Plan
from .visualize import visualize

__all__ = ["Difference", "Picture", "Plan", "Report", "Scaling", "visualize"]
