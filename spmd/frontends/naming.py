"""A builder of Relax that names values."""

from __future__ import annotations

from typing import Any

from tvm import relax


class NamingBuilder(relax.BlockBuilder):
    """Names what it emits after what `hint` says at the time: the module and the operator that it comes from."""

    hint = ""

    def emit(self, expr: Any, name_hint: str = "") -> Any:
        """A new value."""
        return super().emit(expr, name_hint or self.hint)
