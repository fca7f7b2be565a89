"""What the layers of one call share: the cache and what is seen of it, the positions of its tokens, the angles of rotary embeddings."""

from __future__ import annotations

from enum import Enum

import numpy as np
from tvm import relax
from tvm.relax.frontend import nn
from tvm.relax.frontend.nn import Tensor, op
from tvm.relax.frontend.nn.llm.kv_cache import PagedKVCache

from .rope import angles


class Sees(Enum):
    """Where what the tokens of a call attend to is: a cache whose attention is one call finds out itself."""

    BEGUN = "in this call, with which all sequences begin"
    LAST = "in the cache, to which each sequence adds one token first"
    BOTH = "in the cache, and in this call"


class Step:
    """One call of a model with a cache, for `b` sequences of `s` tokens."""

    def __init__(self, cache: PagedKVCache, b: relax.Expr | int, s: relax.Expr | int, sees: Sees = Sees.BOTH) -> None:
        self.cache, self.shape, self.sees = cache, (b, s), sees
        self._positions: Tensor | None = None
        self._angles: dict[bytes, tuple[Tensor, Tensor]] = {}

    def positions(self) -> Tensor:
        """(b, s) int32: the place of each token in its sequence."""
        if self._positions is None:
            b, s = self.shape
            self._positions = op.reshape(self.cache.get_query_positions(b * s), (b, s))
        return self._positions

    def angles(self, frequencies: np.ndarray) -> tuple[Tensor, Tensor]:
        """Cos and sin of position * frequency, each (b, s, 1, 2 * len(frequencies)) in float32."""
        key = frequencies.tobytes()
        if key not in self._angles:
            positions = op.reshape(op.astype(self.positions(), "float32"), (*self.shape, 1, 1))
            self._angles[key] = angles(positions, nn.Tensor.from_const(frequencies.astype("float32")))
        return self._angles[key]
