"""Norms over a split dimension: each worker normalizes what it holds by statistics of all.

Floats below 32 bits are computed in float32, as TVM's own norms are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tvm import relax

from .context import FormContext, form
from .statistics import centred, count, divided, like, squared, total, widened


def _scaled(f: FormContext, x: Any, mean_square: Any) -> Any:
    """``x / sqrt(mean_square + epsilon)``."""
    shifted = f.emit(relax.op.add(mean_square, f.scalar(float(f.call.attrs.epsilon), str(x.ty.dtype))))
    return f.emit(relax.op.multiply(x, f.emit(relax.op.rsqrt(shifted))))


def _spread(f: FormContext, vector: Any, like: Any, dims: Sequence[int]) -> Any:
    """A weight of the dimensions `dims` of `like`, with size 1 elsewhere."""
    shape = [like.ty.shape.values[d] if d in dims else 1 for d in range(like.ty.ndim)]
    return f.emit(relax.op.reshape(widened(f, vector), shape))


def _affine(f: FormContext, x: Any, weights: Sequence[Any], dims: Sequence[int]) -> Any:
    """``x * gamma + beta``."""
    gamma, beta = (_spread(f, w, x, dims) for w in weights)
    return f.emit(relax.op.add(f.emit(relax.op.multiply(x, gamma)), beta))


def _whitened(f: FormContext, x: Any, dim: int, axes: Sequence[int], n: int) -> Any:
    """`x` with mean 0 and variance 1 over `axes`, `n` elements in all."""
    _, deviation = centred(f, x, dim, axes, n)
    return _scaled(f, deviation, divided(f, total(f, squared(f, deviation), axes), n))


def _axes(f: FormContext, rank: int) -> list[int]:
    return [int(a) % rank for a in f.call.attrs.axes]


@form("layer_norm")
def layer_norm(f: FormContext) -> Any:
    """(x - mean) / sqrt(variance + epsilon) * gamma + beta."""
    x = widened(f, f.args[0])
    axes = _axes(f, x.ty.ndim)
    return like(f, _affine(f, _whitened(f, x, f.dim_of(0), axes, count(f, axes)), f.args[1:], axes), f.args[0])


@form("rms_norm")
def rms_norm(f: FormContext) -> Any:
    """X / sqrt(mean of squares + epsilon) * weight."""
    x = widened(f, f.args[0])
    axes = _axes(f, x.ty.ndim)
    mean_square = divided(f, total(f, squared(f, f.masked(x, f.dim_of(0), 0)), axes), count(f, axes))
    weight = _spread(f, f.args[1], x, axes)
    return like(f, f.emit(relax.op.multiply(_scaled(f, x, mean_square), weight)), f.args[0])


@form("instance_norm")
def instance_norm(f: FormContext) -> Any:
    """A norm over `axes` alone, gamma and beta by channel."""
    x = widened(f, f.args[0])
    axes, channel = _axes(f, x.ty.ndim), int(f.call.attrs.channel_axis) % x.ty.ndim
    return like(f, _affine(f, _whitened(f, x, f.dim_of(0), axes, count(f, axes)), f.args[1:], [channel]), f.args[0])


@form("group_norm")
def group_norm(f: FormContext) -> Any:
    """A norm over `axes` and the channels of each group; the channels are seen as (group, channel in it)."""
    x = widened(f, f.args[0])
    shape, groups = list(x.ty.shape.values), int(f.attrs.num_groups)
    channel, axes = int(f.call.attrs.channel_axis) % len(shape), _axes(f, len(shape))
    n = count(f, [*axes, channel]) // int(f.call.attrs.num_groups)
    inside = f.size if f.dim_of(0) == channel else int(shape[channel]) // groups
    grouped = f.emit(relax.op.reshape(x, [*shape[:channel], groups, inside, *shape[channel + 1 :]]))
    dim = f.dim_of(0) + (f.dim_of(0) >= channel)
    over = sorted([channel + 1, *(a + (a > channel) for a in axes)])
    made = _affine(f, _whitened(f, grouped, dim, over, n), f.args[1:], [channel, channel + 1])
    return like(f, f.emit(relax.op.reshape(made, shape)), f.args[0])


@form("batch_norm")
def batch_norm(f: FormContext) -> Any:
    """The batch norm of training: normalized by channel over all else, and the running mean and variance moved."""
    attrs, (given, gamma, beta, running_mean, running_variance) = f.call.attrs, f.args
    x = widened(f, given)
    channel = int(attrs.axis) % x.ty.ndim
    axes = [a for a in range(x.ty.ndim) if a != channel]
    n = count(f, axes)
    mean, deviation = centred(f, x, f.dim_of(0), axes, n)
    variance = divided(f, total(f, squared(f, deviation), axes), n)
    out = _scaled(f, deviation, variance)
    if attrs.scale:
        out = f.emit(relax.op.multiply(out, _spread(f, gamma, x, [channel])))
    if attrs.center:
        out = f.emit(relax.op.add(out, _spread(f, beta, x, [channel])))

    def moved(running: Any, now: Any) -> Any:
        momentum, dtype = float(attrs.momentum), str(running.ty.dtype)
        now = like(f, f.emit(relax.op.reshape(now, running.ty.shape)), running)
        kept = f.emit(relax.op.multiply(running, f.scalar(1 - momentum, dtype)))
        return f.emit(relax.op.add(kept, f.emit(relax.op.multiply(now, f.scalar(momentum, dtype)))))

    return like(f, out, given), moved(running_mean, mean), moved(running_variance, variance)
