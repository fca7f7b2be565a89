"""What simulated workers do when, traced: every function of a program on random arguments."""

from __future__ import annotations

import sys

from spmd.errors import ShardingError
from spmd.pipeline import ShardedModule
from spmd.plan.timeline import Span, Timeline
from spmd.run.workers import workers
from spmd.testing import random_arguments


def traced(sharded: ShardedModule) -> Timeline:
    """Every function once, after a run that is not counted, at the sizes that were planned for.

    Functions that take more than tensors cannot be called so; they are left out, with a line on stderr.
    """
    known = {name: size for info in sharded.plan.tensors.values() for name, size in zip(info.shape, info.sizes, strict=True)}
    sizes = {name: size for name, size in known.items() if isinstance(name, str)}
    found: dict[int, list[Span]] = {rank: [] for rank in range(sharded.mesh.size)}
    with workers(sharded) as w:
        for name, signature in sharded.plan.functions.items():
            try:
                args = random_arguments(signature.params, name, 0, sizes)
            except ShardingError as error:
                print(f"not traced: {error}", file=sys.stderr)
                continue
            w[name](*args)
            for rank, spans in w[name].timeline(*args).workers.items():
                found[rank] += spans
    return Timeline("traced", found)
