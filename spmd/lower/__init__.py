"""The program that each worker runs."""

from .fits import check_plan
from .lower import lower_graph
from .symbols import sizes_passed, told_by_shards

__all__ = ["check_plan", "lower_graph", "sizes_passed", "told_by_shards"]
