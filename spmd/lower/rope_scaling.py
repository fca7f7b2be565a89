"""Which RoPE a kernel applies: how many dimensions turn, and how their frequencies are scaled, found by making the kernel again."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import tvm_ffi
from tvm import tirx

Scaling = dict[str, Any]

_INTERPOLATED = ("llama3", "llama4")
_PLAIN = 4
"""Constants in a kernel without scaling: base, scale, number of dimensions, -1."""
_PROBE = {"factor": 7.0, "low_freq_factor": 3.0, "high_freq_factor": 5.0, "original_max_position_embeddings": 11}
_USUAL_LOW = (1.0, 2.0, 4.0, 8.0, 0.5, 0.25)


def looks_plain(kernel: tirx.PrimFunc, head_dim: int) -> bool:
    """Whether all dimensions may well turn without scaling: that takes few constants, and no remainder by 2, which gptj takes."""
    numbers = set(_constants(kernel, tirx.FloatImm))
    by_two = any(isinstance(mod.b, tirx.IntImm) and int(mod.b) == 2 for mod in _found(kernel, tirx.FloorMod))
    return head_dim in numbers and len(numbers) <= _PLAIN and not by_two


def find_rope(
    kernel: tirx.PrimFunc,
    head_dim: int,
    make: Callable[[Scaling, int], tirx.PrimFunc],
    equal: Callable[[tirx.PrimFunc, tirx.PrimFunc], bool],
    given: Scaling | None = None,
) -> tuple[Scaling, int] | None:
    """The scaling (`given`, else none, gptj, llama3 or llama4) and the number of rotary dimensions that `make` needs to give `kernel`.

    None where there are none. The parameters of llama3 and llama4 are found up to those that give the same kernel.
    """
    numbers = _constants(kernel, tirx.FloatImm)
    # the number of rotary dimensions divides the exponents, as a float, and bounds those dimensions
    whole = {int(x) for x in _constants(kernel, tirx.IntImm)}
    smaller = sorted({int(x) for x in numbers if 0 < x < head_dim and x % 2 == 0 and int(x) in whole}, reverse=True)
    for rotary_dim in (head_dim, *smaller):
        for scaling in _scalings(numbers, lambda s, d=rotary_dim: make(s, d)) if given is None else [given]:
            if equal(make(scaling, rotary_dim), kernel):
                return scaling, rotary_dim
    return None


def _scalings(numbers: Sequence[float], make: Callable[[Scaling], tirx.PrimFunc]) -> Iterator[Scaling]:
    yield {}
    yield {"rope_type": "gptj"}
    for kind in _INTERPOLATED:
        probe = {"rope_type": kind, **_PROBE}
        probed = _constants(make(probe), tirx.FloatImm)
        if len(probed) != len(numbers):
            continue
        found = dict(zip(probed, numbers, strict=True))
        alpha, beta, shrink = (found[constant] for constant in _kept(probe))
        yield from ({"rope_type": kind, **fit} for fit in _fits((alpha, beta, shrink)))


def _kept(scaling: Scaling) -> tuple[float, float, float]:
    """What a kernel of llama3 or llama4 holds of its four parameters, computed as TVM does, to the last bit."""
    low = scaling["low_freq_factor"]
    inverse = 1.0 / (scaling["high_freq_factor"] - low)
    return scaling["original_max_position_embeddings"] / (2 * math.pi) * inverse, low * inverse, 1.0 / scaling["factor"]


def _fits(constants: tuple[float, float, float]) -> Iterator[Scaling]:
    """Parameters with these constants. Three do not tell four: a low frequency factor is tried, the others are rounded."""
    alpha, beta, shrink = constants
    if not (alpha > 0 and beta > 0 and shrink > 0):
        return
    for low in _USUAL_LOW:
        width = round(low / beta, 9)
        fit = {
            "factor": round(1.0 / shrink, 9),
            "low_freq_factor": low,
            "high_freq_factor": low + width,
            "original_max_position_embeddings": round(alpha * 2 * math.pi * width, 6),
        }
        if width and _kept(fit) == constants:
            yield fit


def _constants(kernel: tirx.PrimFunc, kind: type) -> list[float]:
    """The constants of this kind, in order."""
    return [number.value for number in _found(kernel, kind)]


def _found(kernel: tirx.PrimFunc, kind: type) -> list[Any]:
    found: list[Any] = []
    tvm_ffi.structural_walk(kernel.body, [((kind,), found.append)])
    return found
