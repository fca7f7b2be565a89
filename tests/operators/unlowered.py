"""Operators that this TVM cannot run, as it does not lower them: their rules are proven with the meaning that is written here."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import tvm
import tvm_ffi
from tvm import relax, te, tirx, topi
from tvm.script import ir as I
from tvm.script import relax as R


def _fma(bb, call):
    return bb.call_te(lambda a, b, c: te.compute(a.shape, lambda *i: a(*i) * b(*i) + c(*i)), *call.args)


def _pixel_shuffle(bb, call):
    step = int(call.attrs.upscale_factor)

    def shuffled(x):
        *outer, channels, rows, columns = x.shape

        def pixel(*at):
            *front, c, h, w = at
            return x(*front, c * step * step + h % step * step + w % step, h // step, w // step)

        return te.compute((*outer, channels // (step * step), rows * step, columns * step), pixel)

    return bb.call_te(shuffled, call.args[0])


def _attention_var_len(bb, call):
    """Queries and keys of one sequence see each other; a query in none of them sees nothing."""

    def attended(query, key, value, starts, key_starts, _most, _most_keys):
        batch, queries, heads, channels = query.shape
        keys, shared = key.shape[1], heads // key.shape[2]

        def sequence(begins, place):
            return sum((tirx.Cast("int32", begins[i] <= place) for i in range(begins.shape[0].value)), tirx.IntImm("int32", 0))

        d = te.reduce_axis((0, channels), "d")
        scores = te.compute(
            (batch, heads, queries, keys), lambda b, h, i, j: te.sum(query[b, i, h, d] * key[b, j, h // shared, d], axis=d), "scores"
        )
        seen = te.compute(
            scores.shape,
            lambda b, h, i, j: tirx.if_then_else(
                sequence(starts, i) == sequence(key_starts, j),
                tirx.exp(scores[b, h, i, j] / tirx.sqrt(tirx.Cast(query.dtype, channels))),
                tirx.FloatImm(query.dtype, 0),
            ),
            "seen",
        )
        j = te.reduce_axis((0, keys), "j")
        total = te.compute((batch, heads, queries), lambda b, h, i: te.sum(seen[b, h, i, j], axis=j), "total")
        k = te.reduce_axis((0, keys), "k")
        return te.compute(
            (batch, queries, heads, value.shape[3]),
            lambda b, i, h, e: te.sum(seen[b, h, i, k] / total[b, h, i] * value[b, k, h // shared, e], axis=k),
            "attended",
        )

    return bb.call_te(attended, *call.args)


def _cast(bb, call):
    return bb.call_te(topi.cast, call.args[0], str(call.ty.dtype))


def _itself(_, call):
    return call.args[0]


MEANING = {
    "relax.ewise_fma": _fma,
    "relax.nn.pixel_shuffle": _pixel_shuffle,
    "relax.nn.attention_var_len": _attention_var_len,
    "relax.wrap_param": _cast,
    "relax.hint_on_device": _itself,
    "relax.builtin.stop_lift_params": _itself,
}
"""Operator -> what it means, as a function that legalizes it."""
_KEPT = {name: tvm_ffi.convert(function) for name, function in MEANING.items()}


@contextmanager
def meaning() -> Iterator[None]:
    """While it is open, TVM lowers these operators as they are written here."""
    operators = [(tvm.ir.Op.get(name), function) for name, function in _KEPT.items()]
    before = [op.get_attr("FLegalize") for op, _ in operators]
    try:
        for op, function in operators:
            op.reset_attr("FLegalize")
            op.set_attr("FLegalize", function)
        yield
    finally:
        for (op, _), old in zip(operators, before, strict=True):
            op.reset_attr("FLegalize")
            if old is not None:
                op.set_attr("FLegalize", old)


@I.ir_module
class _WRITTEN:
    @R.function
    def ewise_fma(a: R.Tensor((5, 4), "float64"), b: R.Tensor((5, 4), "float64"), c: R.Tensor((5, 4), "float64")):
        return R.ewise_fma(a, b, c)

    @R.function
    def pixel_shuffle(x: R.Tensor((2, 12, 3, 5), "float64")):
        return R.nn.pixel_shuffle(x, 2)

    @R.function
    def wrap_param(x: R.Tensor((5, 4), "float64")):
        return R.wrap_param(x, "float32")

    @R.function
    def stop_lift_params(x: R.Tensor((5, 4), "float64")):
        return R.builtin.stop_lift_params(x)

    @R.function
    def hint_on_device(x: R.Tensor((5, 4), "float64")):
        return R.hint_on_device(x, R.device("cpu"))


def _module() -> tvm.IRModule:
    builder = relax.BlockBuilder()

    def attention(name, heads, shared):
        shapes = [(1, 7, heads, 8), (1, 7, heads // shared, 8), (1, 7, heads // shared, 6)]
        params = [relax.Var(n, relax.TensorType(s, "float64")) for n, s in zip("qkv", shapes, strict=True)]
        lengths = [relax.Var(n, relax.TensorType((s,), "int32")) for n, s in (("starts", 3), ("most", 1))]
        with builder.function(name, [*params, *lengths]):
            builder.emit_func_output(builder.emit(relax.op.nn.attention_var_len(*params, *lengths, *lengths)))

    attention("attention_var_len", 4, 1)
    attention("attention_var_len_groups", 6, 2)
    module = builder.finalize()
    module.update(_WRITTEN)
    return module


MODULE = _module()
_RNG = np.random.default_rng(0)


def _packed(heads: int, shared: int) -> list:
    shapes = [(1, 7, heads, 8), (1, 7, heads // shared, 8), (1, 7, heads // shared, 6)]
    return [*(_RNG.normal(0, 1, s) for s in shapes), np.array([0, 3, 7], "int32"), np.array([4], "int32")]


ARGUMENTS = {"attention_var_len": _packed(4, 1), "attention_var_len_groups": _packed(6, 2)}
MISSING: dict[str, str] = {}
