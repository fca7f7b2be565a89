"""Functions of Relax that MLC-LLM's engine chooses tokens with: probabilities by temperature, and on GPUs the draws themselves."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tvm import relax, te, tirx

from .verify_draft import verify_draft

ON_GPUS = ("cuda", "vulkan", "metal", "webgpu")
"""Targets where the engine draws on the GPU."""
_COLD = 1e-5
"""Up to this temperature the likeliest tokens share all."""

Body = Callable[[relax.BlockBuilder, Sequence[relax.Var]], relax.Expr]


def add_samplers(builder: relax.BlockBuilder, target: str) -> None:
    """The functions for a kind of target."""
    batch, vocab, samples, positions = (tirx.Var(n, "int64") for n in ("batch_size", "vocab_size", "num_samples", "num_positions"))
    probs, rows = _tensor("float32", batch, vocab), _tensor("int32", samples)
    sorted_probs, order = _tensor("float32", batch, vocab), _tensor("int32", batch, vocab)
    uniform, top_p = _tensor("float32", samples), _tensor("float32", batch)
    _add(builder, "softmax_with_temperature", [_tensor("float32", batch, 1, vocab), _tensor("float32", batch)], _softmax)
    if target not in ON_GPUS:
        return
    _add(builder, "argsort_probs", [probs], _argsort)
    _add(builder, "sample_with_top_p", [sorted_probs, order, uniform, rows, top_p], _sample_top_p)
    if target == "webgpu":
        return
    _add(builder, "multinomial_from_uniform", [probs, uniform, rows], _multinomial)
    _add(builder, "sampler_take_probs", [probs, order, rows, _tensor("int32", samples), _tensor("int32", positions)], _take_probs)
    _add(builder, "renormalize_by_top_p", [probs, top_p, _tensor("float32", batch, 3)], _renormalize)
    nodes, trees = tirx.Var("num_nodes", "int64"), tirx.Var("nbatch", "int64")
    wide, one = _tensor("float32", nodes, vocab), _tensor("int32", nodes)
    types = [wide, one, wide, one, one, _tensor("float32", nodes), _tensor("int32", trees)]
    _add(builder, "sampler_verify_draft_tokens", types, _verify)


def _tensor(dtype: str, *shape: tirx.Var | int) -> relax.TensorType:
    return relax.TensorType(shape, dtype)


def _add(builder: relax.BlockBuilder, name: str, types: Sequence[relax.TensorType], body: Body) -> None:
    params = [relax.Var(f"x{i}", ty) for i, ty in enumerate(types)]
    with builder.function(name, params):
        with builder.dataflow():
            result = builder.emit_output(body(builder, params))
        builder.emit_func_output(result)


def _softmax(builder: relax.BlockBuilder, given: Sequence[relax.Var]) -> relax.Expr:
    logits, temperature = given
    hot = builder.emit(relax.op.reshape(temperature, [temperature.ty.shape[0], 1, 1]))
    is_hot = builder.emit(relax.op.greater(hot, relax.const(_COLD, "float32")))
    scaled = relax.op.divide(logits, relax.op.where(is_hot, hot, relax.const(1.0, "float32")))
    best = relax.op.astype(relax.op.equal(logits, relax.op.max(logits, -1, keepdims=True)), "float32")
    best = builder.emit(best)
    shared = relax.op.divide(best, relax.op.sum(best, -1, keepdims=True))
    return builder.emit(relax.op.where(is_hot, relax.op.nn.softmax(scaled, -1), shared))


def _argsort(builder: relax.BlockBuilder, given: Sequence[relax.Var]) -> relax.Expr:
    (probs,) = given
    order = builder.emit(relax.op.argsort(probs, descending=True, dtype="int32"))
    taken = builder.emit_te(
        lambda p, o: te.compute(p.shape, lambda i, j: p[i, o[i, j]], "sorted"), probs, order, primfunc_name_hint="sorted_probs"
    )
    return builder.emit(relax.Tuple([taken, order]))


def _multinomial(builder: relax.BlockBuilder, given: Sequence[relax.Var]) -> relax.Expr:
    """The first token up to which the probabilities sum to more than the number that was drawn."""
    probs, uniform, rows = given
    sums = builder.emit(relax.op.cumsum(probs, 1))

    def below(c: te.Tensor, u: te.Tensor, r: te.Tensor) -> te.Tensor:
        size = c.shape[1]
        k = te.reduce_axis((0, size), "k")
        return te.compute(u.shape, lambda i: te.sum((c[r[i], k] <= u[i] * c[r[i], size - 1]).astype("int32"), axis=k), "below")

    def token(count: te.Tensor, c: te.Tensor) -> te.Tensor:
        return te.compute(count.shape, lambda i: te.min(count[i], (c.shape[1] - 1).astype("int32")), "token")

    return builder.emit_te(token, builder.emit_te(below, sums, uniform, rows), sums)


def _kept(builder: relax.BlockBuilder, probs: relax.Expr, top_p: relax.Expr) -> tuple[relax.Expr, relax.Expr]:
    """Of sorted probabilities: their sums from the first on, and which of them are kept, those before which the sum is below top_p."""
    sums = builder.emit(relax.op.cumsum(probs, 1))
    kept = builder.emit_te(
        lambda p, c, t: te.compute(p.shape, lambda i, j: te.any(j == 0, c[i, j] - p[i, j] < t[i]).astype("int32"), "kept"),
        probs,
        sums,
        top_p,
        primfunc_name_hint="kept",
    )
    return sums, kept


def _sample_top_p(builder: relax.BlockBuilder, given: Sequence[relax.Var]) -> relax.Expr:
    probs, order, uniform, rows, top_p = given
    sums, kept = _kept(builder, probs, top_p)

    def total(c: te.Tensor, keep: te.Tensor) -> te.Tensor:
        k, none = te.reduce_axis((0, c.shape[1]), "k"), tirx.const(0.0, "float32")
        return te.compute((c.shape[0],), lambda i: te.max(te.if_then_else(keep[i, k] > 0, c[i, k], none), axis=k), "total")

    def below(c: te.Tensor, keep: te.Tensor, most: te.Tensor, u: te.Tensor, r: te.Tensor) -> te.Tensor:
        k = te.reduce_axis((0, c.shape[1]), "k")
        return te.compute(
            u.shape, lambda i: te.sum(te.all(keep[r[i], k] > 0, c[r[i], k] <= u[i] * most[r[i]]).astype("int32"), axis=k), "below"
        )

    def token(count: te.Tensor, o: te.Tensor, r: te.Tensor) -> te.Tensor:
        return te.compute(count.shape, lambda i: o[r[i], te.min(count[i], (o.shape[1] - 1).astype("int32"))], "token")

    counted = builder.emit_te(below, sums, kept, builder.emit_te(total, sums, kept), uniform, rows)
    return builder.emit_te(token, counted, order, rows)


def _take_probs(builder: relax.BlockBuilder, given: Sequence[relax.Var]) -> relax.Expr:
    """The probabilities of the tokens that were drawn, and those of positions among the sorted ones, with their tokens."""
    probs, order, rows, tokens, positions = given
    drawn = builder.emit_te(
        lambda p, r, t: te.compute(r.shape, lambda i: p[r[i], t[i]], "drawn"), probs, rows, tokens, primfunc_name_hint="drawn"
    )

    def token(o: te.Tensor, at: te.Tensor) -> te.Tensor:
        size = o.shape[1].astype("int32")
        return te.compute(at.shape, lambda i: o[te.floordiv(at[i], size), te.floormod(at[i], size)], "token")

    best = builder.emit_te(token, order, positions)
    found = builder.emit_te(
        lambda p, at, t: te.compute(at.shape, lambda i: p[te.floordiv(at[i], p.shape[1].astype("int32")), t[i]], "best"),
        probs,
        positions,
        best,
        primfunc_name_hint="best",
    )
    return builder.emit(relax.Tuple([drawn, found, best]))


def _renormalize(builder: relax.BlockBuilder, given: Sequence[relax.Var]) -> relax.Expr:
    """Probabilities of which the likeliest that sum to top_p stay; where to look for the last of them is not asked."""
    probs, top_p, _ = given
    ordered = builder.emit(relax.op.sort(probs, -1, descending=True))
    _, kept = _kept(builder, ordered, top_p)

    def least(p: te.Tensor, keep: te.Tensor) -> te.Tensor:
        k = te.reduce_axis((0, p.shape[1]), "k")
        more = tirx.const(2.0, "float32")
        return te.compute((p.shape[0], 1), lambda i, _: te.min(te.if_then_else(keep[i, k] > 0, p[i, k], more), axis=k), "least")

    bound = builder.emit_te(least, ordered, kept)
    chosen = builder.emit(relax.op.where(relax.op.greater_equal(probs, bound), probs, relax.const(0.0, "float32")))
    return builder.emit(relax.op.divide(chosen, relax.op.sum(chosen, -1, keepdims=True)))


def _verify(builder: relax.BlockBuilder, given: Sequence[relax.Var]) -> relax.Expr:
    kernel = builder.add_func(verify_draft(), "verify_draft")
    return builder.emit(relax.op.call_tir_inplace(kernel, list(given), [2, 6], [given[2].ty, given[6].ty]))
