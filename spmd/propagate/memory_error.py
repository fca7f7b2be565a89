"""What fills the memory of a worker, in words."""

from __future__ import annotations

import re

from spmd.errors import ShardingError

from .memory import Usage

_SHOWN = 5
_MUCH = 0.1
"""What part of the memory constants that are whole must be to be spoken of."""


def gigabytes(count: float) -> str:
    """Bytes as people write them."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.2f} {unit}"
    return f"{count:.0f} bytes"


def nothing_fits(usage: Usage, budget: float, least: float) -> ShardingError:
    """No plan fits: the leanest found, what it holds most of, and the way out. `least` bytes are proven to be needed."""
    memory = usage.of(usage.worst)
    what = "no plan fits" if least > budget else "no plan was found that fits"
    found = "leanest" if least >= memory.peak else "leanest found"
    at_least = f", any needs {gigabytes(least)} or more" if budget < least < memory.peak else ""
    parts = f"weights {gigabytes(memory.weights)}, KV cache {gigabytes(memory.cache)}, activations {gigabytes(memory.activations)}"
    largest = ", ".join(f"{name} {gigabytes(count)}" for name, count in largest_residents(usage)[:_SHOWN])
    constants = sum(count for value, count in usage.residents.items() if value.role == "constant")
    whole = f"; {gigabytes(constants)} of it are constants that stay in the program, whole: make them arguments, or `lift` less, "
    whole = f"{whole}to have them cut" if constants > _MUCH * memory.peak else ""
    return ShardingError(
        f"{usage.worst}, memory of a worker",
        f"{what} into {gigabytes(budget)}{at_least}: the {found} needs {gigabytes(memory.peak)} ({parts}), most of it for {largest}",
        f"Use more workers than the {usage.problem.cost.mesh.size} of {usage.problem.cost.mesh}, memory={memory.peak} or more, "
        f"smaller sizes=, or looser specs{whole}.",
    )


def largest_residents(usage: Usage) -> list[tuple[str, int]]:
    """Names and bytes of what is held when the most is held, the largest first; names that differ in numbers only count as one."""
    held = [(value.name, count) for value, count in usage.residents.items()]
    held += [(f"{usage.worst}.{h.value.name}", h.bytes) for h in usage.timelines[usage.worst].live()]
    alike: dict[str, list[tuple[str, int]]] = {}
    for name, count in held:
        alike.setdefault(re.sub(r"\d+", "*", name), []).append((name, count))
    found: list[tuple[str, int]] = []
    for key, of in alike.items():
        names = {name for name, _ in of}
        found.append((f"{key} ({len(names)} of them)" if len(names) > 1 else of[0][0], sum(count for _, count in of)))
    return sorted(found, key=lambda pair: -pair[1])
