"""Losses: the classes split, the batch split, targets that are ignored, weights or none."""

import numpy as np
import tvm
from tvm.script import ir as I
from tvm.script import relax as R


@I.ir_module
class MODULE:
    @R.function
    def cross_entropy(x: R.Tensor((5, 8), "float64"), y: R.Tensor((5, 8), "float64")):
        return R.nn.cross_entropy_with_logits(x, y)

    @R.function
    def cross_entropy_of_one(x: R.Tensor((7,), "float64"), y: R.Tensor((7,), "float64")):
        return R.nn.cross_entropy_with_logits(x, y)

    @R.function
    def nll_mean(p: R.Tensor((5, 7), "float64"), t: R.Tensor((5,), "int64"), w: R.Tensor((7,), "float64")):
        return R.nn.nll_loss(p, t, w, reduction="mean", ignore_index=2)

    @R.function
    def nll_mean_unweighted(p: R.Tensor((5, 7), "float64"), t: R.Tensor((5,), "int32")):
        return R.nn.nll_loss(p, t, reduction="mean", ignore_index=2)

    @R.function
    def nll_sum(p: R.Tensor((4, 6, 3), "float64"), t: R.Tensor((4, 3), "int64"), w: R.Tensor((6,), "float64")):
        return R.nn.nll_loss(p, t, w, reduction="sum", ignore_index=-100)

    @R.function
    def nll_none(p: R.Tensor((3, 7, 2, 5), "float64"), t: R.Tensor((3, 2, 5), "int64"), w: R.Tensor((7,), "float64")):
        return R.nn.nll_loss(p, t, w, reduction="none", ignore_index=0)

    @R.function
    def nll_of_one(p: R.Tensor((7,), "float64"), t: R.Tensor((), "int64"), w: R.Tensor((7,), "float64")):
        return R.nn.nll_loss(p, t, w, reduction="mean", ignore_index=2)

    @R.function
    def backward_mean(g: R.Tensor((), "float64"), p: R.Tensor((5, 7), "float64"), t: R.Tensor((5,), "int64"), w: R.Tensor((7,), "float64")):
        return R.grad.nll_loss_backward(g, p, t, w, reduction="mean", ignore_index=2)

    @R.function
    def backward_mean_unweighted(g: R.Tensor((), "float64"), p: R.Tensor((5, 7, 2), "float64"), t: R.Tensor((5, 2), "int64")):
        return R.grad.nll_loss_backward(g, p, t, reduction="mean", ignore_index=1)

    @R.function
    def backward_sum(g: R.Tensor((), "float64"), p: R.Tensor((5, 7), "float64"), t: R.Tensor((5,), "int64"), w: R.Tensor((7,), "float64")):
        return R.grad.nll_loss_backward(g, p, t, w, reduction="sum")

    @R.function
    def backward_none(
        g: R.Tensor((5, 3), "float64"), p: R.Tensor((5, 8, 3), "float64"), t: R.Tensor((5, 3), "int64"), w: R.Tensor((8,), "float64")
    ):
        return R.grad.nll_loss_backward(g, p, t, w, reduction="none", ignore_index=3)

    @R.function
    def backward_of_one(g: R.Tensor((), "float64"), p: R.Tensor((7,), "float64"), t: R.Tensor((), "int64"), w: R.Tensor((7,), "float64")):
        return R.grad.nll_loss_backward(g, p, t, w, reduction="sum")


def _arguments() -> dict[str, list]:
    rng = np.random.default_rng(0)
    upstream, five, six = np.array(1.7), rng.normal(0, 1, (5, 7)), rng.normal(0, 1, (4, 6, 3))
    weights = rng.random(8) + 0.5
    targets = np.array([6, 2, 0, 4, 6])
    return {
        "nll_mean": [five, targets, weights[:7]],
        "nll_mean_unweighted": [five, targets.astype("int32")],
        "nll_sum": [six, rng.integers(0, 6, (4, 3)), weights[:6]],
        "nll_none": [rng.normal(0, 1, (3, 7, 2, 5)), rng.integers(0, 7, (3, 2, 5)), weights[:7]],
        "nll_of_one": [five[0], np.array(5), weights[:7]],
        "backward_mean": [upstream, five, targets, weights[:7]],
        "backward_mean_unweighted": [upstream, rng.normal(0, 1, (5, 7, 2)), rng.integers(0, 7, (5, 2))],
        "backward_sum": [upstream, five, targets, weights[:7]],
        "backward_none": [rng.normal(0, 1, (5, 3)), rng.normal(0, 1, (5, 8, 3)), rng.integers(0, 8, (5, 3)), weights],
        "backward_of_one": [upstream, five[0], np.array(5), weights[:7]],
    }


ARGUMENTS = _arguments()
MISSING: dict[str, str] = {}

assert isinstance(MODULE, tvm.IRModule)
