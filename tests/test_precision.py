"""Floats below 32 bits: a sum that is split over workers is about as exact as the whole one, measured against float64."""

import ml_dtypes
import numpy as np
import pytest
from tvm import relax

from spmd import P, shard
from spmd.placement.layout import reduce
from spmd.run.workers import workers
from spmd.testing import FREE_LINKS

op, nn = relax.op, relax.op.nn
LONG = 1536
COLUMNS = P(None, "tp")

CASES = {
    # name: (program, shapes, specs, NumPy in float64)
    "matmul": (op.matmul, [(8, LONG), (LONG, 8)], [COLUMNS, P("tp", None)], np.matmul),
    "sum": (lambda x: op.sum(x, axis=[1]), [(16, LONG)], [COLUMNS], lambda x: x.sum(1)),
    "mean": (lambda x: op.mean(x, axis=[1]), [(16, LONG)], [COLUMNS], lambda x: x.mean(1)),
    "variance": (lambda x: op.variance(x, axis=[1]), [(16, LONG)], [COLUMNS], lambda x: x.var(1)),
    "std": (lambda x: op.std(x, axis=[1]), [(16, LONG)], [COLUMNS], lambda x: x.std(1)),
    "softmax": (lambda x: nn.softmax(x, axis=1), [(16, LONG)], [COLUMNS], lambda x: np.exp(x) / np.exp(x).sum(1, keepdims=True)),
    "rms_norm": (
        lambda x, w: nn.rms_norm(x, w, axes=[-1]),
        [(16, LONG), (LONG,)],
        [COLUMNS, P("tp")],
        lambda x, w: x / np.sqrt((x * x).mean(1, keepdims=True) + 1e-5) * w,
    ),
    "cumsum": (lambda x: op.cumsum(x, axis=1), [(16, LONG)], [COLUMNS], lambda x: x.cumsum(1)),
    "conv1d": (lambda x, w: nn.conv1d(x, w), [(2, LONG // 4, 5), (4, LONG // 4, 5)], [P(None, "tp", None), P(None, "tp", None)], None),
    "attention": (
        nn.attention,
        [(1, 4, 2, 8), (1, 512, 2, 8), (1, 512, 2, 8)],
        [P(others=None), P(None, "tp", None, None), P(None, "tp", None, None)],
        None,
    ),
}


def _convolution(x, w):
    return np.einsum("nik,oik->no", x, w)[:, :, None]


def _attention(q, k, v):
    scores = np.einsum("bshd,bthd->bhst", q, k) / np.sqrt(q.shape[-1])
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return np.einsum("bhst,bthe->bshe", weights / weights.sum(-1, keepdims=True), v)


EXACT = {"conv1d": _convolution, "attention": _attention}


def measured(name, dtype, count, numbers=(0.05, 1)):
    """The largest errors of the whole and of the sharded program, over the largest magnitude, and the program."""
    program, shapes, specs, exact = CASES[name]
    builder = relax.BlockBuilder()
    params = [relax.Var(f"x{i}", relax.TensorType(s, dtype)) for i, s in enumerate(shapes)]
    with builder.function("main", params):
        builder.emit_func_output(builder.emit(program(*params)))
    mod, rng = builder.finalize(), np.random.default_rng(0)
    kind = np.dtype(getattr(ml_dtypes, dtype, dtype))
    given = [(rng.normal(*numbers, s)).astype(kind) for s in shapes]
    truth = (exact or EXACT[name])(*(x.astype("float64") for x in given))
    sharded = shard(mod, count, {f"main.x{i}": s for i, s in enumerate(specs)}, profile=FREE_LINKS)
    with workers(mod) as one, workers(sharded) as many:
        results = [w["main"](*given) for w in (one, many)]
    return [float(np.max(np.abs(r.astype("float64") - truth)) / np.max(np.abs(truth))) for r in results], sharded


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("name", CASES)
def test_a_split_sum_is_about_as_exact_as_the_whole_one(name, dtype):
    """Each of 3 workers rounds its term once, and the reduction once more: three roundings, where the whole one may have only one."""
    (whole, split), sharded = measured(name, dtype, 3)
    assert any(choice.splits for choice in sharded.plan.choices["main"]), "the operator itself runs split"
    rounding = float(ml_dtypes.finfo(np.dtype(getattr(ml_dtypes, dtype, dtype))).eps) / 2
    assert split <= max(1.5 * whole, 3 * rounding), f"{split:.2e} against {whole:.2e}, with roundings of {rounding:.2e}"


@pytest.mark.parametrize("name", ["mean", "variance", "std", "rms_norm"])
def test_sums_may_be_larger_than_the_largest_number(name):
    """1,536 numbers around 300, squares of 10,000: float16 ends at 65,504, and the results are far below."""
    (_, split), _ = measured(name, "float16", 3, (300, 100))
    assert split < 2e-3


def test_a_softmax_over_many_classes():
    """70,000 equal logits: their exponentials add up to more than float16 holds."""
    builder, x = relax.BlockBuilder(), relax.Var("x", relax.TensorType((2, 70_000), "float16"))
    with builder.function("main", [x]):
        builder.emit_func_output(builder.emit(nn.softmax(x, axis=1)))
    with workers(shard(builder.finalize(), 3, {"main.x": COLUMNS}, profile=FREE_LINKS)) as many:
        found = many["main"](np.zeros((2, 70_000), "float16"))
    assert np.all(found == np.float16(1 / 70_000))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_terms_are_added_in_float32(dtype):
    """Eight terms that are far larger than their sum: added one by one in half precision, nothing of it would be left."""
    kind = np.dtype(getattr(ml_dtypes, dtype, dtype))
    terms = [np.array([t], kind) for t in (2048, 1, 1, 1, 1, 1, 1, -2048)]
    out = np.empty(1, kind)
    reduce("sum", terms, out)
    assert float(out[0]) == 6
