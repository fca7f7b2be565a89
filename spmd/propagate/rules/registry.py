"""The one table of rules: operator or packed-function name -> the function that gives the `Rule` of a call."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ...errors import ShardingError
from ...expression import Rule, Shape, bind


@dataclass(frozen=True)
class OpCall:
    """One operator call as a rule sees it: tensors in the order in which the call holds them."""

    name: str
    """Operator name, or the name of the packed function that a call_dps_packed or call_pure_packed calls."""
    call: Any
    """The Relax call itself, for its attributes and scalar arguments."""
    inputs: tuple[Shape, ...]
    outputs: tuple[Shape, ...]
    input_dims: tuple[tuple[Any, ...], ...]
    """The shapes again, with symbolic sizes as TVM expressions."""
    output_dims: tuple[tuple[Any, ...], ...]
    kernel: Any = None
    """The PrimFunc that a call_tir calls."""
    input_states: tuple[bool, ...] = ()
    """Which inputs are opaque states, such as a KV cache."""
    output_states: tuple[bool, ...] = ()

    @property
    def attrs(self) -> Any:
        """The attributes of the call."""
        return self.call.attrs

    def bind(self, text: str, **details: Any) -> Rule:
        """The `Rule` that `text` means for this call; see `expression.bind`."""
        return bind(text, self.inputs, self.outputs, **details)


RuleFunction = Callable[[OpCall], Rule | str | None]
_RULES: dict[str, RuleFunction] = {}


def rule(*names: str, expression: str | None = None) -> Callable[[RuleFunction], RuleFunction]:
    """Register the rule of the operators (or packed functions) `names`.

    ``rule("relax.my_op", expression="...m k, k n -> ...m n")`` alone says it all; as a decorator, the function takes an
    `OpCall` and returns an expression, a `Rule` made by `OpCall.bind`, or None for "replicate this call". A later
    registration replaces an earlier one.
    """
    if not names:
        raise ShardingError("spmd.rule()", "it names no operator", "Write @spmd.rule('relax.my_op').")

    def register(function: RuleFunction) -> RuleFunction:
        for name in names:
            _RULES[name] = function
        return function

    if expression is not None:
        register(lambda _: expression)
    return register


def function_of(name: str) -> RuleFunction | None:
    """The rule function of an operator or packed function, where one is registered."""
    return _RULES.get(name)


def rule_of(op: OpCall) -> Rule | None:
    """The registered rule of this call, or None where there is none or it declines."""
    function = function_of(op.name)
    found = None if function is None else function(op)
    return op.bind(found) if isinstance(found, str) else found
