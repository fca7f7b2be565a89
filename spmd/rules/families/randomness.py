"""Functions that draw random numbers."""

from __future__ import annotations

from spmd.errors import ShardingError
from spmd.rules.model import Rule
from spmd.rules.registry import OpCall, rule


@rule(*(f"tvm.contrib.random.{name}" for name in ("uniform", "normal", "randint", "random_fill", "random_fill_for_measure")))
def drawn(op: OpCall) -> Rule:
    """Refused: a generator is the state of a thread, so workers would go on with different numbers for the same tensor."""
    raise ShardingError(
        f"{op.name}",
        "each worker would draw numbers of its own",
        "Draw them outside and pass them in, as multinomial_from_uniform takes them.",
    )
