"""CPU schedule rules, the most particular first; the first that answers wins."""

from tvm.s_tir.dlight.base import ScheduleRule

from .fallback import Fallback
from .matmul import Matmul
from .reduction import Reduction
from .rowwise import Rowwise

__all__ = ["Fallback", "Matmul", "Reduction", "Rowwise", "default_rules"]


def default_rules(parallel: bool = False) -> list[ScheduleRule]:
    """The rules that `CPUSchedules` tries in turn."""
    return [rule(parallel) for rule in (Matmul, Reduction, Rowwise, Fallback)]
