"""Floats of 8 bits give what ml_dtypes says: every number of theirs, and what lies between and beyond them."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from tvm import relax

from spmd.schedules.cpu.floats8 import FORMATS
from tests.schedules.kernels import module, run

op = relax.op


def every(kind):
    """All 256 of them, as they are."""
    return np.arange(256, dtype="uint8").view(getattr(ml_dtypes, kind)).reshape(16, 16)


def around(kind):
    """What is one of them, in the middle of two, beyond the largest, or hardly more or less than these."""
    known = np.unique(every(kind).astype("float64")[np.isfinite(every(kind).astype("float64"))])
    middle, step = (known[1:] + known[:-1]) / 2, known[-1] - known[-2]
    beyond = known[-1] + step * np.array([0.25, 0.5, 0.75, 1, 1000])
    found = np.concatenate([known, middle, beyond, -beyond]).astype("float32")
    return np.concatenate(
        [found, *(np.nextafter(found, np.float32(end)) for end in (-np.inf, np.inf)), [0.0, -0.0, np.inf, -np.inf, np.nan]]
    )


@pytest.mark.parametrize("kind", FORMATS)
def test_every_number_is_read(kind):
    x = every(kind)
    mod = module([(x.shape, kind)], lambda builder, args: builder.emit(op.astype(args[0], "float32")))
    np.testing.assert_array_equal(run(mod, [x]), x.astype("float32"))


@pytest.mark.parametrize("kind", FORMATS)
def test_what_lies_between_is_rounded(kind):
    x = around(kind).astype("float32")
    mod = module([(x.shape, "float32")], lambda builder, args: builder.emit(op.astype(args[0], kind)))
    found, wanted = run(mod, [x]), x.astype(getattr(ml_dtypes, kind))
    is_number = ~np.isnan(x)
    np.testing.assert_array_equal(np.asarray(found).view("uint8")[is_number], wanted.view("uint8")[is_number])
    assert np.isnan(np.asarray(found).astype("float32")[~is_number]).all()


ARITHMETIC = {
    "a sum": (lambda x, y: op.add(x, y), np.add),
    "a product": (lambda x, y: op.multiply(x, y), np.multiply),
    "the larger": (lambda x, y: op.maximum(x, y), np.maximum),
    "a choice": (lambda x, y: op.where(relax.const(np.tri(16) > 0), x, y), lambda x, y: np.where(np.tri(16) > 0, x, y)),
    "padding": (lambda x, y: op.nn.pad(x, [1, 2, 0, 3]), lambda x, y: np.pad(x, ((1, 2), (0, 3)))),
    "zeros": (lambda x, y: op.zeros((3, 4), x.ty.dtype), lambda x, y: np.zeros((3, 4))),
}


@pytest.mark.parametrize("name", ARITHMETIC)
@pytest.mark.parametrize("kind", FORMATS)
def test_arithmetic_is_that_of_float32_rounded_once(name, kind):
    ours, theirs = ARITHMETIC[name]
    x = np.nan_to_num(every(kind).astype("float32"), posinf=1, neginf=-1).astype(getattr(ml_dtypes, kind))
    y = x.T.copy()
    mod = module([(x.shape, kind), (y.shape, kind)], lambda builder, args: builder.emit(ours(*args)))
    wanted = theirs(x.astype("float32"), y.astype("float32")).astype(x.dtype)
    np.testing.assert_array_equal(np.asarray(run(mod, [x, y])).astype("float32"), wanted.astype("float32"))
