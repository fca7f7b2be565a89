"""Convolutions and transposed convolutions, in any layout, grouped or not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from spmd.rules.attributes import attributes
from spmd.rules.model import Rule
from spmd.rules.registry import OpCall, rule

from .linearity import linear_product
from .spatial import Slide, axes_of, is_blocked, numbers, size_of, spatial_axes, spell

_OPS = [f"relax.nn.conv{n}d{kind}" for n in (1, 2, 3) for kind in ("", "_transpose")]


@rule(*_OPS)
def convolution(op: OpCall) -> Rule | None:
    """Batch, groups and output channels split as they are, input channels leave a partial sum.

    A spatial dimension is split over its windows, each worker fetching from its neighbours the rows that its windows reach. The
    kernel's own dimensions are whole: a part of a kernel needs all rows. Groups cannot be told from blocks (``NCHW4c``), so both
    together are replicated.
    """
    attrs, transposed = op.attrs, op.name.endswith("_transpose")
    data, kernel, made = (str(s) for s in (attrs.data_layout, attrs.kernel_layout, attrs.out_layout))
    groups = int(attrs.groups)
    blocks = [("c" in axes_of(data), "i" in axes_of(kernel)), ("c" in axes_of(made), "o" in axes_of(kernel))]
    if any(map(is_blocked, (data, kernel, made))) or any(a != b for a, b in blocks) or (groups > 1 and any(map(any, blocks))):
        return None
    slide = _windows(op, data, kernel, made, transposed)
    many = {"ci": "(g ci)", "co": "(g co)"} if groups > 1 else {"ci": "ci", "co": "co"}
    inner, outer = (many["ci"], "co") if transposed else ("ci", many["co"])
    spec = spell(data, {"N": "n", "C": many["ci"], "c": "cib", **slide.into})
    weight = spell(kernel, {"O": outer, "I": inner, "o": "cob", "i": "cib", **{a: f"{a.lower()}k" for a in slide.into}})
    out = spell(made, {"N": "n", "C": many["co"], "c": "cob", **slide.out})
    details = slide.details("transposed_convolution" if transposed else "convolution", spec)
    if groups > 1:
        details["sizes"] = {**details["sizes"], "g": groups}

        def local(size: Callable[[str], int]) -> dict[str, Any]:
            return attributes(attrs, groups=size("g"))

        details["local_attrs"] = local
    details["whole"] |= {f"{a.lower()}k" for a in slide.into} | ({"cob"} if "o" in axes_of(kernel) else set())
    return op.bind(f"{spec}, {weight} -> {out}", zero="any", linear=linear_product(op, (0,), (1,)), **details)


def _windows(op: OpCall, data: str, kernel: str, made: str, transposed: bool) -> Slide:
    attrs, slide, axes = op.attrs, Slide(), spatial_axes(data)
    padding, strides, dilation = numbers(attrs.padding), numbers(attrs.strides), numbers(attrs.dilation)
    for i, axis in enumerate(axes):
        reach = size_of(kernel, op.inputs[1], axis)
        if reach is None:
            slide.apart(axis)
            continue
        more = {"place": i, "transposed": True} if transposed else {"place": i}
        slide.window(
            axis,
            size_of(data, op.inputs[0], axis),
            size_of(made, op.outputs[0], axis),
            kernel=reach,
            stride=strides[i],
            dilation=dilation[i],
            before=padding[i],
            after=padding[i + len(axes)],
            **more,
        )
    return slide
