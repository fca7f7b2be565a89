"""Writing Relax from several threads at once."""

from __future__ import annotations

import threading
from typing import Any

from tvm import relax

NOTED = threading.RLock()
"""Held by a thread while one of TVM's builders is noted as being at work, for code of TVM's that asks which one it is."""


class Builder(relax.BlockBuilder):
    """A `BlockBuilder` for use by one thread while others use theirs.

    TVM notes the builder that is at work in one list for all threads, where each finds those of the others, and those that an error left
    there. This one is not noted: what asks for `BlockBuilder.current()` needs one of TVM's.
    """

    def __init__(self, mod: Any = None) -> None:
        super().__init__(mod)
        self.declared: dict[str, Any] = {}
        """Functions that are called before they are written, by name."""

    def declare(self, name: str, empty: relax.Function) -> None:
        """A function that will be written, and is of this type."""
        self.declared[name] = self.add_func(empty.with_attr("name", name), name)  # equal functions would be one

    def _enter_function_scope(self, func_scope: Any) -> None:
        self._func_stack.append(func_scope)
        self.begin_scope(func_scope._params)
        self._begin_binding_block()

    def _exit_function_scope(self, exc_type: Any, exc_val: Any, exc_tb: Any) -> None:
        written = self._func_stack.pop()._is_emit_func_output_called
        if exc_type is None and not written:
            raise RuntimeError("emit_func_output must be called in a relax function")

    def emit_func_output(self, output: Any, params: Any = None) -> Any:
        """End the function that is written, as `BlockBuilder.emit_func_output` does."""
        scope = self._func
        scope._is_emit_func_output_called = True
        if scope._params is None:
            scope._params = params
        output = self._normalize_python_tuple(output)
        block = self._end_block()
        if len(block.bindings):
            scope._blocks.append(block)
        self.begin_scope(scope._params)
        try:
            body = self.normalize(relax.SeqExpr(scope._blocks, output))
        finally:
            self.end_scope()
        function = relax.Function(scope._params, body, is_pure=scope._is_pure)
        for key, value in scope._attrs.items():
            function = function.with_attr(key, value)
        self.end_scope()
        if scope._name in self.declared:
            self.update_func(self.declared[scope._name], function)
            return self.declared[scope._name]
        return self.add_func(function, scope._name)
