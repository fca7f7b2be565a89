"""The one table of rules: operator or packed-function name -> the function that gives the `Rule` of a call."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any

import tvm

from spmd.checks import told
from spmd.errors import ShardingError, nearest

from .expression import bind, check_expression
from .model import Rule, Shape


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


Named = tuple[str, Shape | None]
"""The name of a value and its shape, None of what is no tensor."""
RuleFunction = Callable[[OpCall], Rule | str | None]
_RULES: dict[str, RuleFunction] = {}
_OPERATORS: set[str] = set()
_BIND = "Let op.bind() make it, which reads the shapes of the call."


def rule(*names: str, expression: str | None = None) -> Callable[[RuleFunction], RuleFunction]:
    """Register the rule of the operators (or packed functions) `names`.

    ``rule("relax.my_op", expression="...m k, k n -> ...m n")`` alone says it all; as a decorator, the function takes an
    `OpCall` and returns an expression, a `Rule` made by `OpCall.bind`, or None for "replicate this call". A later
    registration replaces an earlier one.
    """
    if not names:
        raise ShardingError("spmd.rule()", "it names no operator", "Write @spmd.rule('relax.my_op').")
    for name in names:
        _check_name(name)
    if expression is not None:
        check_expression(expression)

    def register(function: RuleFunction) -> RuleFunction:
        _check_function(function, names[0])
        for name in names:
            _RULES[name] = function
        return function

    if expression is not None:
        register(lambda _: expression)
    return register


def function_of(name: str) -> RuleFunction | None:
    """The rule function of an operator or packed function, where one is registered."""
    _load_packages()
    return _RULES.get(name)


@functools.cache
def _load_packages() -> None:
    """Import what other installed packages name as entry points ``spmd.rules``: modules that register rules."""
    for point in entry_points(group="spmd.rules"):
        try:
            point.load()
        except Exception as error:
            what = f"the rules of package {point.dist.name if point.dist else '?'!r} cannot be imported: {type(error).__name__}: {error}"
            raise ShardingError(f"entry point {point.name!r} of 'spmd.rules'", what, "Mend that package, or uninstall it.") from error


def rule_of(op: OpCall) -> Rule | None:
    """The registered rule of this call, or None where there is none or it declines."""
    function = function_of(op.name)
    found = None if function is None else function(op)
    if found is not None and not isinstance(found, str | Rule):  # pyright: ignore[reportUnnecessaryIsInstance]
        way_out = "Return op.bind('m k, k n -> m n'), such a text, or None for \"replicate this call\"."
        raise ShardingError(f"rule of {op.name!r}", f"its function gives {told(found)}", way_out)
    return op.bind(found) if isinstance(found, str) else found


def check_rule(name: str, rule: Rule, inputs: Sequence[Named], outputs: Sequence[Named]) -> None:
    """Raise `ShardingError` unless a rule has a spec for each value of its call, with a dimension for each of a tensor's."""
    for side, specs, values in (("inputs", rule.inputs, inputs), ("outputs", rule.outputs, outputs)):
        if len(specs) != len(values):
            raise ShardingError(f"rule of {name!r}", f"it has {len(specs)} {side}, the call has {len(values)}", _BIND)
        for spec, (value, shape) in zip(specs, values, strict=True):
            if shape is not None and len(spec) != len(shape):
                what = f"{value!r} has {len(shape)} dimensions, and the rule {len(spec)} for it"
                raise ShardingError(f"rule of {name!r}", what, _BIND)
    lacking = next((f for f in rule.factors if f not in rule.sizes), None)
    if lacking is not None:
        raise ShardingError(f"rule of {name!r}", f"it has no size for factor {lacking!r}", _BIND)


def _check_name(name: object) -> None:
    where = "spmd.rule()"
    if not isinstance(name, str) or not name:
        raise ShardingError(where, f"it takes names of operators, and got {told(name)}", "Write @spmd.rule('relax.my_op').")
    if "->" in name:
        raise ShardingError(where, f"{name!r} stands where the name of an operator goes", f"Write spmd.rule(name, expression={name!r}).")
    if name.startswith("relax.") and name not in _OPERATORS:
        _OPERATORS.update(map(str, tvm.ir.Op.list_op_names()))  # which a user may have registered since
        if name not in _OPERATORS and tvm.get_global_func(name, allow_missing=True) is None:
            known = [n for n in _OPERATORS if n.startswith("relax.")]
            raise ShardingError(where, f"TVM has no operator {name!r}", f"{nearest(name, sorted(known))} Or register it first.")


def _check_function(function: object, name: str) -> None:
    if not callable(function):
        raise ShardingError(f"rule of {name!r}", f"it takes a function, and got {told(function)}", "Write it as a decorator.")
    try:
        inspect.signature(function).bind(None)
    except TypeError:
        what = f"its function is called with one argument, an OpCall, and takes {inspect.signature(function)}"
        raise ShardingError(f"rule of {name!r}", what, "Write def my_rule(op): ...") from None
    except ValueError:  # it has no signature that Python can tell
        pass
