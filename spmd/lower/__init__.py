"""The program that each worker runs."""

from .lower import lower_graph
from .partition import partition

__all__ = ["lower_graph", "partition"]
