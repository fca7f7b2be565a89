"""What other systems write about shardings, as specs; none of them needs to be installed."""

from .dist import Imported, from_dist
from .jax import from_jax
from .mlc import from_mlc

__all__ = ["Imported", "from_dist", "from_jax", "from_mlc"]
