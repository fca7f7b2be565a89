"""Images: resizing up and down in every mode, grids, regions and boxes."""

import numpy as np
import tvm
from tvm.script import ir as I
from tvm.script import relax as R


@I.ir_module
class MODULE:
    @R.function
    def resize2d_up(x: R.Tensor((2, 4, 6, 5), "float32")):
        return R.image.resize2d(x, (12, 20))

    @R.function
    def resize2d_down(x: R.Tensor((2, 8, 6, 4), "float32")):
        return R.image.resize2d(x, (4, 2), layout="NHWC", method="cubic")

    @R.function
    def resize2d_cubic(x: R.Tensor((1, 2, 6, 5), "float32")):
        return R.image.resize2d(x, (12, 5), method="cubic", coordinate_transformation_mode="asymmetric")

    @R.function
    def resize2d_nearest(x: R.Tensor((2, 4, 6, 5), "float32")):
        return R.image.resize2d(
            x, (12, 10), method="nearest_neighbor", coordinate_transformation_mode="asymmetric", rounding_method="floor"
        )

    @R.function
    def resize2d_rounding(x: R.Tensor((1, 2, 5, 8), "int32")):
        return R.image.resize2d(x, (20, 4), method="nearest_neighbor", coordinate_transformation_mode="half_pixel")

    @R.function
    def resize2d_ceil(x: R.Tensor((1, 2, 5, 6), "float32")):
        return R.image.resize2d(
            x, (10, 3), method="nearest_neighbor", coordinate_transformation_mode="pytorch_half_pixel", rounding_method="ceil"
        )

    @R.function
    def resize2d_corners(x: R.Tensor((2, 4, 6, 5), "float32")):
        return R.image.resize2d(x, (12, 7), coordinate_transformation_mode="align_corners")

    @R.function
    def resize3d(x: R.Tensor((1, 2, 4, 6, 3), "float32")):
        return R.image.resize3d(x, (8, 2, 3))

    @R.function
    def affine_grid(x: R.Tensor((4, 2, 3), "float32")):
        return R.image.affine_grid(x, (4, 6))

    @R.function
    def grid_sample(x: R.Tensor((2, 4, 6, 5), "float32"), g: R.Tensor((2, 2, 4, 7), "float32")):
        return R.image.grid_sample(x, g, padding_mode="border")

    @R.function
    def grid_sample3d(x: R.Tensor((2, 4, 3, 4, 5), "float32"), g: R.Tensor((2, 3, 4, 2, 3), "float32")):
        return R.image.grid_sample(x, g, method="nearest", layout="NCDHW")

    @R.function
    def roi_align(x: R.Tensor((4, 2, 8, 8), "float32"), r: R.Tensor((5, 5), "float32")):
        return R.vision.roi_align(x, r, (2, 3), 0.5, sample_ratio=2, aligned=True)

    @R.function
    def roi_align_nhwc(x: R.Tensor((3, 8, 8, 4), "float32"), r: R.Tensor((5, 5), "float32")):
        return R.vision.roi_align(x, r, (2, 2), 1.0, sample_ratio=2, layout="NHWC", mode="max")

    @R.function
    def roi_pool(x: R.Tensor((4, 2, 8, 8), "float32"), r: R.Tensor((5, 5), "float32")):
        return R.vision.roi_pool(x, r, (2, 2), 1.0)

    @R.function
    def multibox_transform_loc(c: R.Tensor((2, 3, 7), "float32"), b: R.Tensor((2, 28), "float32"), a: R.Tensor((1, 7, 4), "float32")):
        return R.vision.multibox_transform_loc(c, b, a, clip=True, threshold=0.3, keep_background=False)

    @R.function
    def get_valid_counts(x: R.Tensor((3, 6, 6), "float32")):
        return R.vision.get_valid_counts(x, 0.1, id_index=0, score_index=1)

    @R.function
    def non_max_suppression(x: R.Tensor((3, 6, 6), "float32"), v: R.Tensor((3,), "int32"), i: R.Tensor((3, 6), "int32")):
        return R.vision.non_max_suppression(x, v, i, return_indices=False)

    @R.function
    def non_max_suppression_indices(x: R.Tensor((3, 6, 6), "float32"), v: R.Tensor((3,), "int32"), i: R.Tensor((3, 6), "int32")):
        return R.vision.non_max_suppression(x, v, i)

    @R.function
    def all_class_non_max_suppression(b: R.Tensor((2, 6, 4), "float32"), s: R.Tensor((2, 3, 6), "float32")):
        return R.vision.all_class_non_max_suppression(b, s, R.const(3, "int64"), R.const(0.5, "float32"), R.const(0.1, "float32"))


def _regions(images: int) -> np.ndarray:
    rng = np.random.default_rng(1)
    corners = rng.uniform(0, 5, (5, 2))
    return np.hstack([rng.integers(0, images, (5, 1)), corners, corners + rng.uniform(1, 6, (5, 2))]).astype("float32")


def _boxes() -> list[np.ndarray]:
    rng = np.random.default_rng(2)
    corners = rng.uniform(0, 3, (3, 6, 2))
    classes, scores = rng.integers(0, 2, (3, 6, 1)), rng.uniform(0.1, 1, (3, 6, 1))
    boxes = np.concatenate([classes, scores, corners, corners + rng.uniform(1, 3, (3, 6, 2))], axis=2).astype("float32")
    return [boxes, np.array([6, 4, 5], "int32"), np.tile(np.arange(6, dtype="int32"), (3, 1))]


def _array(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype("float32")


ARGUMENTS: dict[str, list] = {
    "roi_align": [_array(3, 4, 2, 8, 8), _regions(4)],
    "roi_align_nhwc": [_array(4, 3, 8, 8, 4), _regions(3)],
    "roi_pool": [_array(5, 4, 2, 8, 8), _regions(4)],
    "grid_sample": [_array(6, 2, 4, 6, 5), _array(7, 2, 2, 4, 7)],
    "non_max_suppression": _boxes(),
    "non_max_suppression_indices": _boxes(),
}
MISSING: dict[str, str] = {}
_ROUNDED = (
    "the weight of a neighbour is zero but for rounding, and infinity times it NaN or not: TVM itself gives one or the other as it fuses "
    "multiplications, alone and beside other functions"
)
SPECIAL: dict[str, str] = dict.fromkeys(("resize2d_corners", "resize2d_cubic", "resize3d"), _ROUNDED)
"""Function -> why it has no right answer with special numbers in any place."""

assert isinstance(MODULE, tvm.IRModule)
