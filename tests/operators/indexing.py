"""Reading and writing at given indices."""

import numpy as np
import tvm
from tvm.script import ir as I
from tvm.script import relax as R


@I.ir_module
class MODULE:
    @R.function
    def take(x: R.Tensor((7, 4), "float64"), i: R.Tensor((5, 2), "int32")):
        return R.take(x, i, axis=0, mode="fast")

    @R.function
    def take_clip(x: R.Tensor((3, 7), "float64"), i: R.Tensor((4,), "int64")):
        return R.take(x, i, axis=-1, mode="clip")

    @R.function
    def take_wrap(x: R.Tensor((7,), "int32"), i: R.Tensor((4,), "int32")):
        return R.take(x, i, mode="wrap")

    @R.function
    def take_nan(x: R.Tensor((5, 2), "float64"), i: R.Tensor((4,), "int32")):
        return R.take(x, i, axis=0, mode="nan")

    @R.function
    def take_bool(x: R.Tensor((5, 2), "bool"), i: R.Tensor((4,), "uint8")):
        return R.take(x, i, axis=0, mode="clip")

    @R.function
    def take_number(x: R.Tensor((5, 4), "float64")):
        return R.take(x, R.prim_value(3), axis=0)

    @R.function
    def take_scalar(x: R.Tensor((5, 4), "float64"), i: R.Tensor((), "int64")):
        return R.take(x, i, axis=1)

    @R.function
    def gather_elements(x: R.Tensor((7, 4), "float64"), i: R.Tensor((5, 4), "int64")):
        return R.gather_elements(x, i, axis=0)

    @R.function
    def gather_elements_fewer(x: R.Tensor((8, 6), "float64"), i: R.Tensor((4, 5), "int64")):
        return R.gather_elements(x, i, axis=1)

    @R.function
    def gather_nd(x: R.Tensor((5, 4, 3), "float64"), i: R.Tensor((6, 2), "int64")):
        return R.gather_nd(x, i)

    @R.function
    def gather_nd_batched(x: R.Tensor((4, 5, 3), "float64"), i: R.Tensor((4, 6, 1), "int64")):
        return R.gather_nd(x, i, batch_dims=1)

    @R.function
    def index_tensor(x: R.Tensor((5, 4, 3), "float64"), i: R.Tensor((6, 1), "int64"), j: R.Tensor((4,), "int64")):
        return R.index_tensor(x, (i, j))

    @R.function
    def scatter_update(x: R.Tensor((7, 4), "float64"), i: R.Tensor((3, 4), "int64"), u: R.Tensor((3, 4), "float64")):
        return R.scatter_elements(x, i, u, axis=0, reduction="update")

    @R.function
    def scatter_add(x: R.Tensor((5, 7), "float64"), i: R.Tensor((5, 4), "int64"), u: R.Tensor((5, 4), "float64")):
        return R.scatter_elements(x, i, u, axis=1, reduction="add")

    @R.function
    def scatter_mul(x: R.Tensor((7, 4), "float64"), i: R.Tensor((5, 4), "int32"), u: R.Tensor((5, 4), "float64")):
        return R.scatter_elements(x, i, u, axis=0, reduction="mul")

    @R.function
    def scatter_min(x: R.Tensor((7, 4), "float64"), i: R.Tensor((5, 4), "int64"), u: R.Tensor((5, 4), "float64")):
        return R.scatter_elements(x, i, u, axis=0, reduction="min")

    @R.function
    def scatter_max(x: R.Tensor((7, 4), "int32"), i: R.Tensor((5, 4), "int64"), u: R.Tensor((5, 4), "int32")):
        return R.scatter_elements(x, i, u, axis=0, reduction="max")

    @R.function
    def scatter_mean(x: R.Tensor((7, 4), "float64"), i: R.Tensor((5, 2), "int64"), u: R.Tensor((5, 2), "float64")):
        return R.scatter_elements(x, i, u, axis=0, reduction="mean")

    @R.function
    def scatter_nd_update(x: R.Tensor((5, 4, 3), "float64"), i: R.Tensor((2, 3, 1), "int64"), u: R.Tensor((2, 3, 4, 3), "float64")):
        return R.scatter_nd(x, i, u, reduction="update")

    @R.function
    def scatter_nd_add(x: R.Tensor((5, 4, 3), "float64"), i: R.Tensor((6, 2), "int64"), u: R.Tensor((6, 3), "float64")):
        return R.scatter_nd(x, i, u, reduction="add")

    @R.function
    def scatter_nd_max(x: R.Tensor((5, 4), "float64"), i: R.Tensor((7, 2), "int64"), u: R.Tensor((7,), "float64")):
        return R.scatter_nd(x, i, u, reduction="max")

    @R.function
    def index_put(x: R.Tensor((5, 4), "float64"), i: R.Tensor((3,), "int64"), j: R.Tensor((3,), "int64"), v: R.Tensor((3,), "float64")):
        return R.index_put(x, (i, j), v, accumulate=False)

    @R.function
    def index_put_add(x: R.Tensor((7,), "float64"), i: R.Tensor((5,), "int64"), v: R.Tensor((5,), "float64")):
        return R.index_put(x, (i,), v, accumulate=True)

    @R.function
    def take_backward(g: R.Tensor((3, 5, 2), "float64"), x: R.Tensor((3, 7, 2), "float64"), i: R.Tensor((5,), "int32")):
        return R.grad.take_backward(g, x, i, axis=1)


def _at(function: str, **indices: object) -> list:
    """Random tensors, and these indices, for the parameters of a function."""
    rng = np.random.default_rng(0)
    made = []
    for p in MODULE[function].params:
        shape, dtype = [int(s) for s in p.ty.shape.values], str(p.ty.dtype)
        made.append(np.array(indices[p.name], dtype).reshape(shape) if p.name in indices else (rng.normal(size=shape) * 4).astype(dtype))
    return made


ARGUMENTS = {
    "take": _at("take", i=[0, 6, 3, 3, 5, 1, 2, 4, 6, 0]),
    "take_clip": _at("take_clip", i=[-3, 9, 6, 2]),
    "take_wrap": _at("take_wrap", i=[-1, 9, 6, 2]),
    "take_nan": _at("take_nan", i=[-1, 5, 4, 0]),
    "take_scalar": _at("take_scalar", i=[2]),
    "gather_elements": _at("gather_elements", i=np.arange(20) % 7),
    "gather_elements_fewer": _at("gather_elements_fewer", i=np.arange(20) % 6),
    "gather_nd": _at("gather_nd", i=[0, 0, 4, 3, 2, 1, 3, 0, 1, 2, 4, 0]),
    "gather_nd_batched": _at("gather_nd_batched", i=np.arange(24) % 5),
    "index_tensor": _at("index_tensor", i=[4, 0, 3, 1, 2, 4], j=[3, 0, 1, 2]),
    "scatter_update": _at("scatter_update", i=[0, -1, 2, 3, 4, 5, 6, 0, 1, 2, -4, 4]),
    "scatter_add": _at("scatter_add", i=np.arange(20) % 3 - 2),
    "scatter_mul": _at("scatter_mul", i=np.arange(20) % 7),
    "scatter_min": _at("scatter_min", i=np.arange(20) % 5 - 3),
    "scatter_max": _at("scatter_max", i=np.arange(20) % 5),
    "scatter_mean": _at("scatter_mean", i=np.arange(10) % 3 + 3),
    "scatter_nd_update": _at("scatter_nd_update", i=[4, 0, 3, 1, 2, 0]),
    "scatter_nd_add": _at("scatter_nd_add", i=[0, 0, 4, 3, 2, 1, 4, 3, 1, 2, 4, 0]),
    "scatter_nd_max": _at("scatter_nd_max", i=[0, 0, 4, 3, 2, 1, 4, 3, 1, 2, 4, 0, 0, 0]),
    "index_put": _at("index_put", i=[4, 0, -2], j=[-1, 2, 0]),
    # no place twice: TVM's kernel adds in parallel
    "index_put_add": _at("index_put_add", i=[6, 0, -2, 3, 1]),
    "take_backward": _at("take_backward", i=[6, 0, 3, 3, 1]),
}
MISSING: dict[str, str] = {}

assert isinstance(MODULE, tvm.IRModule)
