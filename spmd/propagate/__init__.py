"""What everything else becomes: rules, costs, the exact search, and the plan. This stage only decides; it edits no IR."""

from .cost import Cost, CostFactory, Work
from .graph import build_graph
from .planner import make_plan
from .rules import OpCall, rule

__all__ = ["Cost", "CostFactory", "OpCall", "Work", "build_graph", "make_plan", "rule"]
