"""What other systems write about shardings, as specs, and plans as what they take; none of them needs to be installed."""

from .dist import Imported, from_dist
from .dtensor import from_dtensor, to_dtensor
from .huggingface import TensorParallelPlan, from_huggingface
from .jax import from_jax
from .mlc import from_mlc
from .to_huggingface import Styles, to_huggingface

__all__ = [
    "Imported",
    "Styles",
    "TensorParallelPlan",
    "from_dist",
    "from_dtensor",
    "from_huggingface",
    "from_jax",
    "from_mlc",
    "to_dtensor",
    "to_huggingface",
]
