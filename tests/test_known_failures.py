"""What is silently wrong, or refused, in one of the systems before this one: each case sharded just so, on 2, 3 and 4 workers.

TVM is `relax.distributed` of TVM 0.27, DTensor that of PyTorch 2.13, JAX is XLA with Shardy. Whatever the specs ask for is done: a split
that does not divide is padded, and none is weakened to a whole tensor.
"""

import numpy as np
import pytest
from tvm import relax

from spmd import P, ShardingError, shard
from spmd.testing import assert_equivalent
from tests.programs import BYTES_COUNT

op, nn = relax.op, relax.op.nn
S = "tp"


def attention(emit, q, k, v):
    """Causal: what a query may see hangs on where it stands in the whole sequence."""
    return emit(nn.attention(q, k, v, causal_mask="TopLeft"))


def cosine(emit, x, y):
    """1 - cosine of the rows, its mean: products of sums, which no partial sum goes through."""
    dot = emit(op.sum(emit(op.multiply(x, y)), axis=[1]))
    norms = [emit(op.sqrt(emit(op.sum(emit(op.multiply(v, v)), axis=[1])))) for v in (x, y)]
    similar = emit(op.divide(dot, emit(op.multiply(*norms))))
    return emit(op.mean(emit(op.subtract(relax.const(1.0, "float64"), similar))))


def mlp_with_bias(emit, x, w, b):
    """The bias of a product whose contraction is split is added once, not by every worker."""
    return emit(op.add(emit(op.matmul(x, w)), b))


def softmax_between(emit, x, up, down):
    """Softmax of what a product by columns left split, then a product by rows."""
    return emit(op.matmul(emit(nn.softmax(emit(op.matmul(x, up)), axis=-1)), down))


def two_products(emit, x, y, a, b):
    """Two partial sums that are added: one reduction is enough."""
    return emit(op.add(emit(op.matmul(x, a)), emit(op.matmul(y, b))))


def pooled(emit, x):
    """Windows that overlap reach into the neighbour's rows."""
    return emit(nn.max_pool2d(x, (3, 3), (2, 2), padding=1))


def sampled(emit, chances, uniform, rows):
    """Draws with given random numbers: the same ones whatever the mesh."""
    return emit(op.multinomial_from_uniform(chances, uniform, rows))


def one(make):
    """A program of one operator."""
    return lambda emit, *xs: emit(make(*xs))


IMAGE, KERNEL = (4, 6, 9, 7), (6, 6, 3, 3)
CASES = {
    # name: (program, shapes, specs: one a parameter)
    "TVM: rms_norm over a sharded hidden dimension": (one(lambda x, w: nn.rms_norm(x, w, axes=[-1])), [(5, 7), (7,)], [P(None, S), P(S)]),
    "TVM: a bias after a product by rows": (mlp_with_bias, [(5, 7), (7, 4), (4,)], [P(None, S), P(S, None), P(others=None)]),
    "TVM: take from a table sharded by rows": (
        one(lambda t, i: op.take(t, i, axis=0)),
        [(7, 5), ((6,), "int32")],
        [P(S, None), P(others=None)],
    ),
    "TVM: strided_slice": (one(lambda x: op.strided_slice(x, [0], [1], [8], [2])), [(9, 5)], [P(S, None)]),
    "TVM: split": (one(lambda x: op.split(x, [2, 5], axis=0)), [(9, 5)], [P(S, None)]),
    "TVM: concat": (one(lambda x, y: op.concat([x, y], axis=0)), [(5, 4), (2, 4)], [P(S, None), P(S, None)]),
    "TVM: flip": (one(lambda x: op.flip(x, axis=0)), [(9, 5)], [P(S, None)]),
    "TVM: tile": (one(lambda x: op.tile(x, (2, 3))), [(5, 7)], [P(S, None)]),
    "TVM: pad": (one(lambda x: nn.pad(x, [1, 2, 0, 0])), [(9, 5)], [P(S, None)]),
    "TVM: tril": (one(op.tril), [(9, 5)], [P(S, None)]),
    "TVM: a reshape that merges a dimension that does not lead": (one(lambda x: op.reshape(x, (3, 20))), [(3, 5, 4)], [P(None, S, None)]),
    "TVM: conv2d over split rows": (
        one(lambda x, w: nn.conv2d(x, w, padding=1)),
        [IMAGE, KERNEL],
        [P(None, None, S, None), P(others=None)],
    ),
    "TVM: pooling whose windows overlap": (pooled, [IMAGE], [P(None, None, S, None)]),
    "TVM: causal attention over a split sequence": (attention, [(2, 7, 4, 8)] * 3, [P(None, S, None, None)] * 3),
    "DTensor: a cosine loss, classes split": (cosine, [(5, 7), (5, 7)], [P(None, S), P(None, S)]),
    "DTensor: a cosine loss, batch split": (cosine, [(5, 7), (5, 7)], [P(S, None), P(S, None)]),
    "DTensor: random operators": (
        sampled,
        [((5, 6), "float32"), ((8, 1), "float32"), ((8, 1), "int64")],
        [P(S, None), P(S, None), P(S, None)],
    ),
    "DTensor: (12, 8) viewed as (16, 6), dimension 1 split": (one(lambda x: op.reshape(x, (16, 6))), [(12, 8)], [P(None, S)]),
    "DTensor: gather with uneven shards": (
        one(lambda x, i: op.gather_elements(x, i, axis=0)),
        [(7, 5), ((4, 5), "int64")],
        [P(S, None), P(S, None)],
    ),
    "DTensor: an uneven view": (one(lambda x: op.reshape(x, (35,))), [(5, 7)], [P(S, None)]),
    "DTensor: softmax between products by columns and by rows": (
        softmax_between,
        [(5, 7), (7, 10), (10, 4)],
        [P(others=None), P(None, S), P(S, None)],
    ),
    "JAX: a split that does not divide is refused, or weakened": (one(op.add), [(5, 7), (5, 7)], [P(S, None), P(None, S)]),
    "JAX: a cumulative sum gathers": (one(lambda x: op.cumsum(x, axis=0)), [(9, 5)], [P(S, None)]),
    "JAX: two products that are added are reduced twice": (
        two_products,
        [(5, 7), (5, 7), (7, 4), (7, 4)],
        [P(None, S), P(None, S), P(S, None), P(S, None)],
    ),
}
for _rank in (1, 2, 3):
    _data, _weight = (4, 6, 9, 7, 5)[: _rank + 2], (6, 6, 3, 3, 3)[: _rank + 2]
    for _kind in ("", "_transpose"):
        _make = getattr(nn, f"conv{_rank}d{_kind}")
        for _dim in range(_rank + 2):
            _split = P(*(S if d == _dim else None for d in range(_rank + 2)))
            _program = one(lambda x, w, make=_make: make(x, w, padding=1))
            CASES[f"DTensor: conv{_rank}d{_kind} of data split over dimension {_dim}"] = (
                _program,
                [_data, _weight],
                [_split, P(others=None)],
            )
            CASES[f"DTensor: conv{_rank}d{_kind} of a kernel split over dimension {_dim}"] = (
                _program,
                [_data, _weight],
                [P(others=None), _split],
            )


def module(names):
    """One function a case; a shape that says no dtype is of float64."""
    builder, specs = relax.BlockBuilder(), {}
    for number, name in names:
        program, shapes, wanted = CASES[name]
        types = [
            relax.TensorType(*s) if isinstance(s[0], tuple) else relax.TensorType(s, "float32" if "norm" in name else "float64")
            for s in shapes
        ]
        params = [relax.Var(f"x{i}", ty) for i, ty in enumerate(types)]
        with builder.function(f"case{number}", params):
            builder.emit_func_output(program(builder.emit, *params))
        specs |= {f"case{number}.x{i}": spec for i, spec in enumerate(wanted)}
    return builder.finalize(), specs


NUMBERED = list(enumerate(CASES))
GROUPS = {
    "operators": [(i, n) for i, n in NUMBERED if ": conv" not in n],
    **{f"conv{r}d{k}": [(i, n) for i, n in NUMBERED if f": conv{r}d{k} " in n] for r in (1, 2, 3) for k in ("", "_transpose")},
}


@pytest.mark.parametrize("workers", [2, 3, 4])
@pytest.mark.parametrize("group", GROUPS)
def test_cases_that_others_get_wrong(group, workers):
    names = GROUPS[group]
    mod, specs = module(names)
    sharded = assert_equivalent(mod, workers, specs)
    for number, name in names:
        for i, (spec, shape) in enumerate(zip(CASES[name][2], CASES[name][1], strict=True)):
            held = sharded.plan.values[f"case{number}.x{i}"]
            asked = [d for d, entry in enumerate(spec.entries) if entry == S]
            assert [d for d, split in enumerate(held.dims) if split is not None] == asked, f"{name}: {shape} is held as {held}"


@pytest.mark.parametrize("name", ["uniform", "normal"])
def test_numbers_that_each_worker_would_draw_for_itself_are_refused(name):
    """DTensor's random operators differ between ranks; generators in TVM are the state of a thread."""
    builder, x = relax.BlockBuilder(), relax.Var("x", relax.TensorType((5, 4), "float32"))
    with builder.function("main", [x]):
        noise = builder.emit(op.call_dps_packed(f"tvm.contrib.random.{name}", [relax.prim_value(0.0), relax.prim_value(1.0)], out_ty=x.ty))
        builder.emit_func_output(builder.emit(op.add(x, noise)))
    with pytest.raises(ShardingError, match=rf"tvm.contrib.random.{name}: each worker would draw numbers of its own. Draw them outside"):
        shard(builder.finalize(), 2)


def test_two_products_that_are_added_are_reduced_once():
    """Of ``x @ a + y @ b`` both contractions are split."""
    name = "JAX: two products that are added are reduced twice"
    mod, specs = module([(0, name)])
    sharded = assert_equivalent(mod, 2, specs, profile="generic")
    assert [c.kind for c in sharded.plan.collectives] == ["all_reduce"]


def test_a_cumulative_sum_exchanges_one_row_of_totals():
    """No gather of the whole tensor: each worker sends the total of its rows."""
    mod, specs = module([(0, "JAX: a cumulative sum gathers")])
    specs["case0.return"] = P(S, None)
    sharded = assert_equivalent(mod, 3, specs, profile=BYTES_COUNT)
    assert [(c.kind, c.bytes) for c in sharded.plan.collectives] == [("all_gather", 5 * np.dtype("float64").itemsize)]
