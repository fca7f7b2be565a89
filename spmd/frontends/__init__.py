"""Models of other frameworks as Relax modules, with their own names and weights."""

from .imported import ImportedModel
from .jax import from_jax
from .onnx import from_onnx
from .torch import from_torch

__all__ = ["ImportedModel", "from_jax", "from_onnx", "from_torch"]
