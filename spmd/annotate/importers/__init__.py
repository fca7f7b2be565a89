"""What other systems write about shardings, as specs; none of them needs to be installed."""

from .dist import Imported, from_dist
from .dtensor import from_dtensor, to_dtensor
from .huggingface import TensorParallelPlan, from_huggingface
from .jax import from_jax
from .mlc import from_mlc

__all__ = ["Imported", "TensorParallelPlan", "from_dist", "from_dtensor", "from_huggingface", "from_jax", "from_mlc", "to_dtensor"]
