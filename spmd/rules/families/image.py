"""Resizing and sampling images."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvm import relax

from spmd.rules.model import Form, Rule, Size
from spmd.rules.registry import OpCall, rule
from spmd.rules.windows import Window

from .spatial import axes_of, factors_of, is_blocked, size_of, spatial_axes, spell

_CENTERED = ("half_pixel", "pytorch_half_pixel")


@rule("relax.image.resize2d", "relax.image.resize3d")
def resize(op: OpCall) -> Rule | None:
    """Batch and channels split as they are; a spatial dimension with a whole ratio splits with edges from the neighbours.

    It stays whole where a worker's part of it would not be resized alike: corners that are aligned, a region that is cropped, weights that
    leave the outside out, and ratios that are no whole number (or, up, no power of two: their coordinates round differently elsewhere).
    """
    layout = str(op.attrs.layout)
    if is_blocked(layout):
        return None
    into: dict[str, str] = {}
    out: dict[str, str] = {}
    whole, sizes, slid, exact = ["cb"], dict[str, Size](), list[tuple[str, str, dict[str, Any]]](), set[str]()
    for place, axis in enumerate(spatial_axes(layout)):
        rows, made = size_of(layout, op.inputs[0], axis), size_of(layout, op.outputs[0], axis)
        row, step = f"{axis.lower()}o", f"{axis.lower()}s"
        into[axis] = out[axis] = row
        ratio = _ratio(op, rows, made)
        if ratio is None or rows is None:
            into[axis] = f"{axis.lower()}i"
            whole += [into[axis], row]
        elif ratio == 1:
            exact.add(axis)
        else:
            sizes[step] = abs(ratio)
            whole.append(step)
            (out if ratio > 0 else into)[axis] = f"({row} {step})"
            if ratio > 0 and _repeats(op):
                exact.add(axis)
            else:
                margin, each = (2 if op.attrs.method == "cubic" else 1, 1) if ratio > 0 else (1, -ratio)
                fields = {"size": rows, "kernel": (2 * margin + 1) * each, "stride": each, "before": margin * each, "rows": each}
                slid.append((row, step, {**fields, "place": place}))
    names = {"N": "n", "C": "c", "c": "cb"}
    spec = spell(layout, {**names, **into})
    forms: dict[str, Form] = {}
    for row, step, fields in slid:
        rest = " ".join(f for f in factors_of(spec) if f not in (row, step))
        forms[row] = Form("resize", Window(row, row, rest, **fields), ordered=True)

    def local(size: Callable[[str], int]) -> dict[int, Any]:
        given = list(op.call.args[1].values)
        for i, axis in enumerate(spatial_axes(layout)):
            if axis in exact:
                given[i] = 1
                for f in factors_of(out[axis]):
                    given[i] *= size(f)
        return {1: relax.ShapeExpr(given)}

    text = f"{spec} -> {spell(layout, {**names, **out})}"
    uncounted = frozenset(f for f in into.values() if f.endswith("i"))
    details: dict[str, Any] = {"forms": forms, "sizes": sizes, "uncounted": uncounted}
    if "c" not in axes_of(layout):
        whole.remove("cb")
    if exact and isinstance(op.call.args[1], relax.ShapeExpr):
        details["local_args"] = local
    return op.bind(text, whole=frozenset(whole), **details)


def _ratio(op: OpCall, rows: Size, made: Size) -> int | None:
    """How many rows one becomes, or minus how many become one; None where parts of the dimension are not resized alike."""
    attrs, mode = op.attrs, str(op.attrs.coordinate_transformation_mode)
    if not rows or not made or mode not in (*_CENTERED, "asymmetric"):
        return None
    if rows == made:
        return 1
    if (mode == "pytorch_half_pixel" and made == 1) or (attrs.method == "cubic" and attrs.cubic_exclude):
        return None
    if attrs.method == "nearest_neighbor" and mode == "asymmetric" and str(attrs.rounding_method).startswith("round"):
        return None  # half-way places may round to even ones
    if made % rows == 0 and (made // rows).bit_count() == 1:
        return made // rows
    return -(rows // made) if rows % made == 0 else None


def _repeats(op: OpCall) -> bool:
    """Whether enlarging only repeats each row."""
    mode, rounding = str(op.attrs.coordinate_transformation_mode), str(op.attrs.rounding_method)
    return op.attrs.method == "nearest_neighbor" and (
        (mode == "half_pixel" and rounding.startswith("round")) or (mode == "asymmetric" and rounding in ("floor", ""))
    )


@rule("relax.image.affine_grid")
def affine_grid(op: OpCall) -> Rule:
    """One grid for each matrix; the grid's coordinates depend on its whole size, and making all of them costs as little as a part."""
    grid = " ".join(f"d{i}" for i in range(len(op.outputs[0]) - 2))
    return op.bind(f"n p q -> n p {grid}", whole=f"p q {grid}", linear=((0,),), zero="all")


@rule("relax.image.grid_sample")
def grid_sample(op: OpCall) -> Rule | None:
    """Each place of the grid reads where it wants: the image is whole, and its batch, its channels and the grid split.

    Padding of the grid is masked: what it names may lie far outside of the image.
    """
    layout = str(op.attrs.layout)
    if axes_of(layout)[:2] != ["N", "C"]:
        return None
    axes = spatial_axes(layout)
    image, grid = " ".join(f"{a.lower()}i" for a in axes), " ".join(f"{a.lower()}o" for a in axes)
    forms = {f: Form("masked") for f in ("n", *grid.split())}
    return op.bind(f"n c {image}, n p {grid} -> n c {grid}", whole=f"p {image}", forms=forms, linear=((0,),), uncounted=image)
