"""Kernels for GPUs that dlight has no rule for."""

from .add_norm import FuseAddNorm
from .few_rows import FEW, few_rows
from .intrinsics import quick_imports
from .resident import BoundRegisters

__all__ = ["FEW", "BoundRegisters", "FuseAddNorm", "few_rows", "quick_imports"]
