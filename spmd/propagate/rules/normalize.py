"""Softmax and norms: the normalized dimensions stay whole, all others split."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ...expression import Rule
from .helpers import axis_of, letters
from .registry import OpCall, rule


def _over(op: OpCall, axes: Iterable[Any], extra: int) -> Rule:
    names = letters(len(op.inputs[0]))
    axes = [axis_of(a, len(names)) for a in axes]
    inner = " ".join(names[a] for a in axes)
    ins = ", ".join([" ".join(names), *[inner] * extra])
    return op.bind(f"{ins} -> {' '.join(names)}", whole=inner)


@rule("relax.nn.softmax", "relax.nn.log_softmax")
def softmax(op: OpCall) -> Rule:
    """Over one axis."""
    return _over(op, [op.attrs.axis], 0)


@rule("relax.nn.rms_norm", "relax.nn.layer_norm")
def norm(op: OpCall) -> Rule:
    """Over `axes`, with a weight (and for layer_norm a bias) of those dimensions."""
    return _over(op, op.attrs.axes, len(op.inputs) - 1)
