"""Infinities, NaN, zeros of both signs and tensors without elements: whatever unsharded means, sharded means."""

import numpy as np
import pytest
from tvm import relax

import spmd
from spmd import P

SLOW_LINKS = spmd.Profile("slow links", flops=1e12, memory_bandwidth=1e12, link_bandwidth=1e9, link_latency=1e-6)
"""Makes partial sums go as far as they can."""
SLOW_CHIP = spmd.Profile("slow chip, fast link", 1e9, 1e8, 1e12, 1e-9)
"""Makes splitting pay."""
COLUMNS = 512
op = relax.op


def function(types, made):
    bb = relax.BlockBuilder()
    params = [relax.Var(name, relax.TensorType(*ty)) for name, ty in types.items()]
    with bb.function("main", params):
        with bb.dataflow():
            out = bb.emit_output(bb.normalize(made(bb, *params)))
        bb.emit_func_output(out)
    return bb.finalize()


def bits_equal(mod, mesh, arguments, specs=None, profile=SLOW_CHIP):
    """Sharded as unsharded: numbers, infinities, NaN and the signs of zeros."""
    with spmd.workers(mod) as whole, spmd.workers(spmd.shard(mod, mesh, specs, profile=profile)) as split:
        a, b = np.asarray(whole["main"](*arguments)), np.asarray(split["main"](*arguments))
    assert a.shape == b.shape
    np.testing.assert_array_equal(b, a)
    if a.dtype.kind == "f":
        there = ~np.isnan(a)
        np.testing.assert_array_equal(np.signbit(b[there]), np.signbit(a[there]))


FACTORS = {
    "divided": (lambda bb, x, z: op.divide(x, z), 0.0),
    "multiplied": (lambda bb, x, z: op.multiply(x, z), np.inf),
    "taken away from nothing": (lambda bb, x, z: op.multiply(bb.emit(op.negative(x)), z), 1.0),
    "added to a product": (lambda bb, x, z: op.add(x, bb.emit(op.multiply(x, z))), -np.inf),
    "in an einsum": (lambda bb, x, z: op.einsum((x, z), "ab,ab->ab"), np.inf),
    "in a product of matrices": (lambda bb, x, z: op.matmul(x, bb.emit(op.permute_dims(z))), np.inf),
}


@pytest.mark.parametrize("workers", [2, 3])
@pytest.mark.parametrize("name", FACTORS)
def test_rows_of_a_split_table_meet_infinity(name, workers):
    """The part of a look-up is zero on all workers but one, and zero times infinity is NaN."""
    operator, special = FACTORS[name]

    def made(bb, table, rows, z):
        found = bb.emit(op.take(table, rows, 0, mode="clip"))
        return op.sum(bb.emit(operator(bb, found, z)), [1])

    types = {"table": ([64, COLUMNS], "float32"), "rows": ([3], "int64"), "z": ([3, COLUMNS], "float32")}
    z = np.ones((3, COLUMNS), "float32")
    z[0, 5] = special
    arguments = (np.arange(64 * COLUMNS, dtype="float32").reshape(64, COLUMNS) % 7 + 1, np.array([2, 40, 63]), z)
    specs = {"main.table": P("tp", None), "main.rows": P(None), "main.z": P(None, None)}
    bits_equal(function(types, made), workers, arguments, specs, SLOW_LINKS)


@pytest.mark.parametrize("workers", [2, 3])
@pytest.mark.parametrize("after", [lambda x: x, op.negative, lambda x: op.subtract(x, x), lambda x: op.multiply(x, relax.const(-2.0))])
def test_rows_of_a_split_table_keep_the_signs_of_zeros(after, workers):
    mod = function(
        {"table": ([8, 4], "float32"), "rows": ([6], "int64")}, lambda bb, table, rows: after(bb.emit(op.take(table, rows, 0, mode="clip")))
    )
    table = np.where(np.arange(32).reshape(8, 4) % 3 == 0, -0.0, np.where(np.arange(32).reshape(8, 4) % 3 == 1, 0.0, -np.inf))
    specs = {"main.table": P("tp", None), "main.rows": P(None)}
    bits_equal(mod, workers, (table.astype("float32"), np.array([0, 7, 3, 5, 1, 2])), specs, SLOW_LINKS)


NAN = np.nan
COMPARED = np.array(
    [[NAN, -1.8, -4.3, -2.4, -8], [3.6, NAN, -0.6, 3.1, -3], [5.1, 1.1, NAN, 5.8, -4], [1, 2, 3, 4, NAN], [-np.inf] * 5, [NAN] * 5],
    "float32",
)


@pytest.mark.parametrize("workers", [2, 3])
@pytest.mark.parametrize("axis", [None, 0, 1])
@pytest.mark.parametrize("name", ["max", "min", "argmax", "argmin"])
def test_what_nan_means_where_numbers_are_compared(name, axis, workers):
    """TVM starts anew after the last NaN, wherever that stands."""
    axes = axis if axis is None or name.startswith("arg") else [axis]
    mod = function({"x": (COMPARED.shape, "float32")}, lambda bb, x: getattr(op, name)(x, axes))
    split = 1 if axis is None else axis
    specs = {"main.x": P(*("tp" if d == split else None for d in range(2)))}
    bits_equal(mod, workers, (COMPARED,), specs)
    bits_equal(mod, workers, (COMPARED[::-1].copy(),), specs)


EDGES = {
    "nothing tiled": ((3, 2), lambda x: op.tile(x, (1, 0))),
    "nothing tiled in more dimensions": ((3, 2), lambda x: op.tile(x, (0, 1, 2))),
    "negative padding leaves nothing": ((5, 3), lambda x: op.nn.pad(x, [1, 1, -1, -2])),
    "negative padding of one dimension": ((5, 6), lambda x: op.nn.pad(x, [2, 1, -1, 3], "constant", 1.5)),
    "listed axes that are not of size 1": ((2, 1, 2), lambda x: op.squeeze(op.permute_dims(x, [2, 0, 1]), [0, 1, 2])),
    "listed axes from the end": ((2, 1, 3), lambda x: op.squeeze(x, [-2, -1])),
    "a constant without elements": ((5, 5), lambda x: op.full((2, 0), relax.const(4.0, "float32"), "float32")),
    "a slice that leaves nothing": ((5, 4), lambda x: op.strided_slice(x, [1], [3], [3])),
    "concatenated with nothing": ((5, 4), lambda x: op.concat([x, relax.const(np.zeros((5, 0), "float32"))], 1)),
}


@pytest.mark.parametrize("workers", [2, 3])
@pytest.mark.parametrize("name", EDGES)
def test_nothing_is_left(name, workers):
    shape, made = EDGES[name]
    x = np.random.default_rng(0).uniform(-1, 1, shape).astype("float32")
    bits_equal(function({"x": (shape, "float32")}, lambda _, x: made(x)), workers, (x,))


@pytest.mark.parametrize("workers", [2, 3])
def test_padding_beside_infinity(workers):
    """Padding is zero in one factor only, and what it meets in the other is infinite: it is no term of the sum over it."""

    def made(bb, x, y):
        return op.sum(bb.emit(op.multiply(x, y)), [0])

    mod = function({"x": ([5, 4], "float32"), "y": ([4], "float32")}, made)
    y = np.array([np.inf, 1, -np.inf, 2], "float32")
    bits_equal(mod, workers, (np.ones((5, 4), "float32"), y), {"main.x": P("tp", None)})
    bits_equal(
        function({"x": ([5, 4], "float32"), "y": ([4], "float32")}, lambda bb, x, y: op.einsum((x, y), "ab,b->b")),
        workers,
        (np.ones((5, 4), "float32"), y),
        {"main.x": P("tp", None)},
    )


@pytest.mark.parametrize("workers", [2, 3])
@pytest.mark.parametrize("right", [False, True])
def test_infinite_boundaries_in_order(right, workers):
    mod = function(
        {"x": ([2, 4], "float32"), "bounds": ([6], "float32")}, lambda bb, x, bounds: op.bucketize(x, bounds, out_int32=False, right=right)
    )
    x = np.array([[NAN, np.inf, -np.inf, 0.0], [-0.0, 1, 2, 1e-45]], "float32")
    bounds = np.array([-np.inf, -np.inf, -0.0, 1, np.inf, np.inf], "float32")
    bits_equal(mod, workers, (x, bounds), {"main.x": P(None, None), "main.bounds": P("tp")}, SLOW_LINKS)


WHOLE, SECOND = P(None, None, None, None), P(None, "tp", None, None)
ALONG = {"queries": [SECOND, WHOLE, WHOLE], "keys": [WHOLE, SECOND, SECOND]}


@pytest.mark.parametrize("workers", [2, 3])
@pytest.mark.parametrize("mask", ["TopLeft", "BottomRight"])
@pytest.mark.parametrize("split", ALONG)
def test_what_a_causal_mask_hides_counts_as_a_score_of_zero(split, mask, workers):
    """TVM takes the largest score among zeros for what is hidden: where all others are far below, nothing is left."""
    shapes = {"q": [1, 5, 1, 2], "k": [1, 7, 1, 2], "v": [1, 7, 1, 2]}
    mod = function({n: (shape, "float64") for n, shape in shapes.items()}, lambda bb, q, k, v: op.nn.attention(q, k, v, causal_mask=mask))
    q, k, v = (np.random.default_rng(i).normal(size=shape) for i, shape in enumerate(shapes.values()))
    q[:, 1], k[:, 5] = 1e4, -1  # a row whose scores are below -1000, and one that only some may see
    k[:, :3], k[:, 6], v[:, 6] = -1, np.inf, np.nan
    specs = {f"main.{n}": spec for n, spec in zip(shapes, ALONG[split], strict=True)}
    with spmd.workers(mod) as whole, spmd.workers(spmd.shard(mod, workers, specs, profile=SLOW_LINKS)) as many:
        expected = np.asarray(whole["main"](q, k, v))
        np.testing.assert_allclose(np.asarray(many["main"](q, k, v)), expected, rtol=1e-12)
    assert np.isnan(expected).any()


@pytest.mark.parametrize("workers", [2, 3])
@pytest.mark.parametrize("spec", [("tp", None), (None, "tp")])
@pytest.mark.parametrize("weights", [[1, -1, 0], [np.inf, 1, 1], [0, 0, 0], [-0.0, 2, -np.inf]])
def test_a_loss_divided_by_weights_that_add_up_to_anything(weights, spec, workers):
    def made(bb, p, t, w):
        return op.nn.nll_loss(p, t, w, reduction="mean", ignore_index=255)

    mod = function({"p": ([4, 3], "float64"), "t": ([4], "int64"), "w": ([3], "float64")}, made)
    p = np.array([[1.0, 2, 3], [-0.0, 5, 6], [7, 8, 0.0], [1, 1, 1]])
    specs = {"main.p": P(*spec), "main.t": P(spec[0]), "main.w": P(spec[1])}
    bits_equal(mod, workers, (p, np.array([0, 1, 255, 255]), np.array(weights, "float64")), specs, SLOW_LINKS)


@pytest.mark.parametrize("workers", [2, 3])
@pytest.mark.parametrize("operator", [op.max, op.min])
@pytest.mark.parametrize("after", [False, True])
def test_nan_in_what_a_kernel_compares(operator, after, workers):
    """A kernel that ends with the extreme, or does something with it that is no softmax."""

    def made(bb, x):
        best = bb.emit(operator(x, [1], True))
        return op.subtract(op.exp(x), best) if after else best

    mod = relax.transform.FuseTIR()(
        relax.transform.FuseOps(4)(
            relax.transform.AnnotateTIROpPattern()(relax.transform.LegalizeOps()(function({"x": ([6, 5], "float32")}, made)))
        )
    )
    bits_equal(mod, workers, (COMPARED,), {"main.x": P(None, "tp")}, SLOW_LINKS)
