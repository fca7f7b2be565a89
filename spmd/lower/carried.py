"""Functions of the original module that the lowered one has as they are."""

from __future__ import annotations

from typing import Any

import tvm
import tvm_ffi
from tvm import relax


class Carried:
    """The functions of `source` that are called as they are, put into `builder` once each."""

    def __init__(self, source: tvm.IRModule, builder: relax.BlockBuilder) -> None:
        self.source, self.bb = source, builder
        self._made: dict[str, Any] = {}

    def global_var(self, var: Any) -> Any:
        """The function of the original module that `var` names, carried over with all that it calls."""
        if var.name_hint not in self._made:
            func = self.source[var]
            made = self._made[var.name_hint] = self.bb.add_func(func, var.name_hint)
            if isinstance(func, relax.Function):  # which may call itself
                self.bb.update_func(made, tvm_ffi.structural_mutate(func, [(tvm.ir.GlobalVar, lambda g, _: self.global_var(g))]))
        return self._made[var.name_hint]
