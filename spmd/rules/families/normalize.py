"""Softmax and norms: split along what they normalize over, statistics are all that is reduced over the workers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from spmd.rules.model import Exchange, Form, Rule
from spmd.rules.registry import OpCall, rule

from .helpers import axis_of, letters, wide


@rule("relax.nn.softmax", "relax.nn.log_softmax")
def softmax(op: OpCall) -> Rule:
    """Over one axis; split along it, the maximum and the sum are reduced over the workers."""
    names = letters(len(op.inputs[0]))
    axis = axis_of(op.attrs.axis, len(names))
    rest = " ".join(n for i, n in enumerate(names) if i != axis)
    form = Form("softmax", (Exchange("all_reduce", rest, wide(op)),) * 2)
    return op.bind(f"{' '.join(names)} -> {' '.join(names)}", forms={names[axis]: form})


def _normalized(op: OpCall, text: str, over: list[str], rest: list[str], form: str, reductions: int = 2, **details: Any) -> Rule:
    """A norm over the factors `over`: `reductions` numbers for each of `rest` are reduced over the workers, in float32 at least."""
    bound = op.bind(text, **details)
    if any(bound.sizes[f] is None for f in over):  # the number of elements must be known
        return op.bind(text, whole=" ".join(over), **details)
    exchange = Exchange("all_reduce", " ".join(rest), wide(op))
    return op.bind(text, forms=dict.fromkeys(over, Form(form, (exchange,) * reductions)), **details)


@rule("relax.nn.rms_norm", "relax.nn.layer_norm")
def norm(op: OpCall) -> Rule:
    """Over `axes`, with a weight (and for layer_norm a bias) of those dimensions."""
    names = letters(len(op.inputs[0]))
    axes = [axis_of(a, len(names)) for a in op.attrs.axes]
    inner = " ".join(names[a] for a in axes)
    text = f"{', '.join([' '.join(names), *[inner] * (len(op.inputs) - 1)])} -> {' '.join(names)}"
    if axes != sorted(axes):  # TVM's kernels read the weight in the order of the dimensions, whatever its shape says
        return op.bind(text, whole=inner)
    rest = [n for i, n in enumerate(names) if i not in axes]
    rms = op.name == "relax.nn.rms_norm"
    return _normalized(op, text, [names[a] for a in axes], rest, "rms_norm" if rms else "layer_norm", 1 if rms else 2)


@rule("relax.nn.instance_norm")
def instance_norm(op: OpCall) -> Rule:
    """Over `axes`, with a weight and a bias by channel."""
    names = letters(len(op.inputs[0]))
    axes = [axis_of(a, len(names)) for a in op.attrs.axes]
    channel = names[axis_of(op.attrs.channel_axis, len(names))]
    text = f"{' '.join(names)}, {channel}, {channel} -> {' '.join(names)}"
    return _normalized(op, text, [names[a] for a in axes], [n for i, n in enumerate(names) if i not in axes], "instance_norm")


@rule("relax.nn.group_norm")
def group_norm(op: OpCall) -> Rule | None:
    """Over `axes` and the channels of a group, ``(g c)``: a worker takes whole groups, or a part of each."""
    names = letters(len(op.inputs[0]), skip="gc")
    axes = [axis_of(a, len(names)) for a in op.attrs.axes]
    channel, groups = axis_of(op.attrs.channel_axis, len(names)), int(op.attrs.num_groups)
    size = op.inputs[0][channel]
    if size is None or size % groups or channel in axes:
        return None
    dims = [*names[:channel], "(g c)", *names[channel + 1 :]]
    rest = [n for i, n in enumerate(names) if i not in axes and i != channel]
    text = f"{' '.join(dims)}, (g c), (g c) -> {' '.join(dims)}"
    over, attrs = ["c", *(names[a] for a in axes)], op.attrs

    def local(local_size: Callable[[str], int]) -> dict[str, Any]:
        kept = {k: getattr(attrs, k) for k in ("channel_axis", "axes", "epsilon", "center", "scale")}
        return {**kept, "num_groups": local_size("g")}

    return _normalized(op, text, over, ["g", *rest], "group_norm", sizes={"g": groups, "c": size // groups}, local_attrs=local)


@rule("relax.nn.batch_norm")
def batch_norm(op: OpCall) -> Rule:
    """A rule that splits by channel; in training, the mean and variance of each channel over all else are reduced over the workers."""
    names = letters(len(op.inputs[0]))
    channel = axis_of(op.attrs.axis, len(names))
    c = names[channel]
    text = f"{' '.join(names)}, {c}, {c}, {c}, {c} -> {' '.join(names)}, {c}, {c}"
    if not op.attrs.training:
        return op.bind(text)
    over = [n for n in names if n != c]
    if wide(op):  # TVM's kernel gives float32 whatever the type says
        return op.bind(text, whole=" ".join(names), reduce=None)
    return _normalized(op, text, over, [c], "batch_norm")
