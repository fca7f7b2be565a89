"""Casts to types of few digits that are cast back: what they round off is gone, wherever kernels are put together."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from tvm import relax

from tests.schedules.kernels import module, run, scheduled

op = relax.op
TYPES = ("float16", "bfloat16", "float8_e4m3fn", "float8_e5m2")


def there_and_back(builder, args, kind):
    return builder.emit(op.astype(builder.emit(op.astype(args[0], kind)), "float32"))


def scaled(builder, args, kind):
    """As weights and activations are quantized to 8 bits."""
    scale = relax.const(3.0, "float32")
    small = builder.emit(op.astype(builder.emit(op.divide(args[0], scale)), kind))
    return builder.emit(op.multiply(builder.emit(op.astype(small, "float32")), scale))


def summed(builder, args, kind):
    return builder.emit(op.sum(there_and_back(builder, args, kind), [1]))


def after_a_sum(builder, args, kind):
    total = builder.emit(op.sum(args[0], [1]))
    return there_and_back(builder, [builder.emit(op.add(total, relax.const(1.0, "float32")))], kind)


def moved(builder, args, kind):
    """By another order, a part, one of two and the larger of two, which round nothing themselves."""
    small = builder.emit(op.permute_dims(builder.emit(op.astype(args[0], kind))))
    pair = builder.emit(op.split(small, 2))
    chosen = builder.emit(op.where(relax.const(np.tri(4, 8) > 0), *(builder.emit(relax.TupleGetItem(pair, i)) for i in (1, 0))))
    most = builder.emit(op.max(builder.emit(op.concat([chosen, builder.emit(op.nn.relu(chosen))], 0)), [1]))
    return builder.emit(op.astype(most, "float32"))


def looked_up(builder, args, kind):
    """What makes a table is put into the kernel that reads rows of it."""
    return builder.emit(op.take(there_and_back(builder, args, kind), relax.const([3, 0, 5], "int32"), axis=0, mode="clip"))


def multiplied(builder, args, kind):
    """As is what makes the right operand of a product."""
    weight = builder.emit(op.permute_dims(there_and_back(builder, args, kind)))
    return builder.emit(op.matmul(relax.const(np.eye(8, dtype="float32")), weight))


def rounded(x, kind):
    return x.astype(getattr(ml_dtypes, kind, kind)).astype("float32")


def by_numpy_moved(x):
    chosen = np.where(np.tri(4, 8) > 0, x.T[4:], x.T[:4])
    return np.concatenate([chosen, np.maximum(chosen, 0)]).max(1)


BY_NUMPY = {
    there_and_back: rounded,
    scaled: lambda x, kind: rounded(x / np.float32(3), kind) * np.float32(3),
    summed: lambda x, kind: rounded(x, kind).sum(1),
    looked_up: lambda x, kind: rounded(x, kind)[[3, 0, 5]],
    multiplied: lambda x, kind: rounded(x, kind).T,
    moved: lambda x, kind: by_numpy_moved(rounded(x, kind)),
    after_a_sum: lambda x, kind: rounded(x.sum(1) + np.float32(1), kind),
}


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("function", BY_NUMPY, ids=lambda f: f.__name__)
def test_what_is_cast_back_is_rounded(function, kind):
    x = np.arange(-32, 32).reshape(8, 8).astype("float32") / 4 + np.float32(1 / 16 + 1 / 512)
    mod = module([(x.shape, "float32")], lambda builder, args: function(builder, args, kind))
    np.testing.assert_allclose(run(mod, [x]), BY_NUMPY[function](x, kind), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("wide", "kind"), [("float16", "bfloat16"), ("bfloat16", "float8_e4m3fn"), ("float64", "bfloat16")])
def test_other_types_are_rounded_too(wide, kind):
    x = (np.arange(-32, 32).reshape(8, 8) / 4 + 1 / 16 + 1 / 512).astype(getattr(ml_dtypes, wide, wide))
    mod = module([(x.shape, wide)], lambda builder, args: builder.emit(op.astype(builder.emit(op.astype(args[0], kind)), wide)))
    np.testing.assert_array_equal(run(mod, [x]), x.astype(getattr(ml_dtypes, kind)).astype(x.dtype))


def test_arithmetic_in_bfloat16_is_fused():
    def arithmetic(builder, args):
        small = builder.emit(op.astype(args[0], "bfloat16"))
        return builder.emit(op.multiply(builder.emit(op.add(small, small)), small))

    mod = module([((8, 8), "float32")], arithmetic)
    assert len(scheduled(mod)) == 1
