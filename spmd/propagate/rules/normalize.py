"""Softmax and norms: the normalized dimensions stay whole, all others split."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ...expression import Exchange, Form, Rule
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
    """Over one axis; split along it, the maximum and the sum are reduced over the workers."""
    names = letters(len(op.inputs[0]))
    axis = axis_of(op.attrs.axis, len(names))
    rest = " ".join(n for i, n in enumerate(names) if i != axis)
    form = Form("softmax", (Exchange("all_reduce", rest), Exchange("all_reduce", rest)))
    return op.bind(f"{' '.join(names)} -> {' '.join(names)}", forms={names[axis]: form})


@rule("relax.nn.rms_norm", "relax.nn.layer_norm")
def norm(op: OpCall) -> Rule:
    """Over `axes`, with a weight (and for layer_norm a bias) of those dimensions."""
    return _over(op, op.attrs.axes, len(op.inputs) - 1)
