"""Pooling, its gradients, and pixel shuffle."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from spmd.rules.attributes import attributes
from spmd.rules.model import Form, Rule
from spmd.rules.registry import OpCall, rule

from .helpers import is_float
from .spatial import Slide, is_blocked, numbers, size_of, spatial_axes, spell


@rule(*(f"relax.nn.{kind}_pool{n}d" for kind in ("max", "avg") for n in (1, 2, 3)))
def pooling(op: OpCall) -> Rule | None:
    """Batch and channels split as they are; a spatial dimension is split over its windows, whose rows neighbours send.

    The mean of integers rounds, so windows that reach into the padding cannot be scaled: there it is whole.
    """
    slide, mean = _slide(op), "avg" in op.name
    if slide is None:
        return None
    spec, out = _specs(op, slide)
    form = "max_pooling" if not mean else "avg_pooling" if is_float(op) else ""
    linear = ((0,),) if mean and is_float(op) else ()
    return op.bind(f"{spec} -> {out}", zero="all" if mean else "", linear=linear, **slide.details(form, spec))


@rule("relax.grad.max_pool2d_backward", "relax.grad.avg_pool2d_backward")
def pooling_backward(op: OpCall) -> Rule | None:
    """Takes the gradient of the windows and the rows, gives that of the rows. Linear in the first.

    Rows are split where each lies in one window; where windows overlap, a row would need the gradients of several workers.
    """
    slide = _slide(op)
    if slide is None:
        return None
    spec, out = _specs(op, slide)
    return op.bind(f"{out}, {spec} -> {spec}", linear=((0,),), zero="all", **slide.details("", spec))


@rule(*(f"relax.nn.adaptive_avg_pool{n}d" for n in (1, 2, 3)))
def adaptive_pooling(op: OpCall) -> Rule | None:
    """Windows that tile the rows split with them; one window over all rows leaves a partial mean; others overlap unevenly: whole."""
    layout = str(op.attrs.layout)
    if is_blocked(layout) or op.attrs.out_layout != layout:
        return None
    slide, forms, exact = Slide(), {}, is_float(op)
    for axis in spatial_axes(layout):
        rows, windows = size_of(layout, op.inputs[0], axis), size_of(layout, op.outputs[0], axis)
        if rows == windows and rows is not None:
            slide.same(axis)
        elif windows == 1 and rows and exact:
            slide.into[axis], slide.out[axis] = f"{axis.lower()}i", "1"
            forms[f"{axis.lower()}i"] = Form("global_mean", partial="sum")
        elif rows and windows and rows % windows == 0:
            slide.tiles(axis, rows // windows)
        else:
            slide.apart(axis)
    spec, out = _specs(op, slide)
    details = slide.details("", spec)
    details.update(forms=forms, uncounted=details["uncounted"] - set(forms))
    windows_of = [slide.out[axis] for axis in spatial_axes(layout)]

    def local(size: Callable[[str], int]) -> dict[str, Any]:
        return attributes(op.attrs, output_size=[1 if f == "1" else size(f) for f in windows_of])

    if all(size_of(layout, op.outputs[0], axis) is not None for axis in spatial_axes(layout)):
        details["local_attrs"] = local
    return op.bind(f"{spec} -> {out}", zero="all", linear=((0,),) if exact else (), **details)


@rule("relax.nn.pixel_shuffle")
def pixel_shuffle(op: OpCall) -> Rule:
    """Channels become pixels; the two steps are whole, as one number says both."""
    step = int(op.attrs.upscale_factor)
    return op.bind("...(c p q) h w -> ...c (h p) (w q)", sizes={"p": step, "q": step}, whole="p q", zero="all", linear=((0,),), work="view")


def _slide(op: OpCall) -> Slide | None:
    """The windows of a pooling call, or None for layouts that are not taken."""
    attrs = op.attrs
    layout, backward = str(attrs.layout), op.name.endswith("_backward")
    if is_blocked(layout) or attrs.out_layout != layout:
        return None
    axes, slide = spatial_axes(layout), Slide()
    rows, made = (op.inputs[1], op.inputs[0]) if backward else (op.inputs[0], op.outputs[0])
    kernel, strides, dilation, padding = (numbers(v) for v in (attrs.pool_size, attrs.strides, attrs.dilation, attrs.padding))
    for i, axis in enumerate(axes):
        slide.window(
            axis,
            size_of(layout, rows, axis),
            size_of(layout, made, axis),
            kernel=kernel[i],
            stride=strides[i],
            dilation=dilation[i],
            before=padding[i],
            after=padding[i + len(axes)],
            place=i,
        )
    return slide


def _specs(op: OpCall, slide: Slide) -> tuple[str, str]:
    """The specs of the rows and of the windows."""
    names = {"N": "n", "C": "c", "c": "cb"}
    layout = str(op.attrs.layout)
    return spell(layout, {**names, **slide.into}), spell(layout, {**names, **slide.out})
