"""Detection: boxes, regions of interest, suppression of overlapping boxes."""

from __future__ import annotations

from spmd.rules.model import Form, Rule
from spmd.rules.registry import OpCall, rule

from .spatial import axes_of


@rule("relax.vision.roi_align", "relax.vision.roi_pool")
def regions(op: OpCall) -> Rule | None:
    """Regions and channels split; the image is whole, as a region may lie anywhere.

    Split over the batch, each worker answers for the regions of its images: a partial sum. Padding names no image, and is masked.
    """
    layout = str(op.attrs.layout)
    if axes_of(layout) not in (["N", "C", "H", "W"], ["N", "H", "W", "C"]):
        return None
    image, made = ("b c h w", "k c p q") if layout == "NCHW" else ("b h w c", "k p q c")
    forms = {"b": Form("regions_by_image", partial="sum", ordered=True), "k": Form("masked")}
    return op.bind(f"{image}, k f -> {made}", whole="h w f p q", forms=forms, uncounted="b h w f")


@rule("relax.vision.multibox_transform_loc")
def multibox_transform_loc(op: OpCall) -> Rule:
    """Boxes of each image and anchor; scores go through a softmax over the classes."""
    return op.bind("n k a, n (a f), 1 a f -> n a f, n k a", sizes={"f": 4}, whole="k f")


@rule("relax.vision.get_valid_counts")
def get_valid_counts(op: OpCall) -> Rule:
    """Image by image; valid boxes of an image move to its front, across all of its boxes."""
    return op.bind("n b e -> n, n b e, n b", whole="b e", forms={"n": Form("masked")})


@rule("relax.vision.non_max_suppression")
def non_max_suppression(op: OpCall) -> Rule:
    """Image by image; whether a box stays depends on every better box of the image. Padding is masked: its counts would be obeyed."""
    made = "n b, n 1" if len(op.outputs) == 2 else "n b e"
    return op.bind(f"n b e, n, n b -> {made}", whole="b e", forms={"n": Form("masked")})


@rule("relax.vision.all_class_non_max_suppression")
def all_class_non_max_suppression(op: OpCall) -> Rule:
    """Whole: the boxes that stay, of all images and classes, come one after another, and how many there are is known at the end."""
    scores = "n k b" if len(op.inputs[1]) == 3 else "k b"
    rest = [" ".join(f"x{i}{d}" for d in range(len(s))) for i, s in enumerate(op.inputs[2:])]
    outs = [" ".join(f"y{i}{d}" for d in range(len(s))) for i, s in enumerate(op.outputs)]
    inputs = ", ".join(["m b e" if len(op.inputs[0]) == 3 else "b e", scores, *rest])
    text = f"{inputs} -> {', '.join(outs)}"
    rule = op.bind(text, reduce=None)
    return op.bind(text, reduce=None, whole=frozenset(rule.factors))
