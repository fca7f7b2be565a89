"""Functions that are called by name, whose loops nobody sees: uninterpreted functions of what they are given.

A call in the per-worker program means something only if the module makes it too, with the same arguments, or if it is one of those whose
heads are known to be independent: attention on a cache of keys and values.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

from . import field
from .expressions import is_float, storage
from .field import Array
from .values import Tensor, Unknown, digest

ATTENTION = "vm.builtin.attention_kv_cache_"
FUSED, _APPEND = f"{ATTENTION}attention_with_fused_qkv", f"{ATTENTION}append_mla_kv"
_OWN, _PAST, _MERGE = (f"{ATTENTION}{name}" for name in ("self_attention", "cross_attention", "merge_attn_output_inplace"))
_LATENT = -1
"""In the place of a head, what all heads share."""
_CREATE = {"vm.builtin.paged_attention_kv_cache_create": (2, 3), "mlc.create_paged_kv_cache_generic": (4, 5)}
"""Arguments of functions that create caches which count query heads and heads of keys and values."""
_KERNELS_FROM = 13


class Cache:
    """A cache of keys and values: what it was made from, and what was put into it since, head by head."""

    def __init__(self, name: str, heads: int | None = None) -> None:
        self.name, self.heads = name, heads
        self.history: dict[tuple[int, int], str] = {}
        """(layer, head) -> all that was put there."""
        self.asked = 0

    def __str__(self) -> str:
        return f"cache {self.name} {self.asked}"


class Opaque:
    """The calls that the module made; with `known`, those of a per-worker program, which may only make the same."""

    def __init__(self, known: Opaque | None = None) -> None:
        self.known = known
        self.calls: set[str] = set()
        self._made: Counter[tuple[int, str]] = Counter()

    def call(self, name: str, args: list[Any], in_place: list[int] | None, out: Any, rank: int) -> Any:
        """What a packed function gives, and leaves in what it writes: all that it is given, where `in_place` is None. Such a function may
        give something else when it is called again.
        """
        if name == FUSED:
            return _attention(*args, out=out)
        if name in _CREATE:
            return _created(name, args)
        if name == _APPEND:
            return _appended(*args)
        if name in (_OWN, _MERGE) or (name == _PAST and (args[1], _LATENT) in args[0].history):
            return _by_heads(name, args, out)
        key = f"{name} {digest(tuple(args))} {out}"
        if in_place is None:
            self._made[rank, key] += 1
            key, in_place = f"{key} call {self._made[rank, key]}", list(range(len(args)))
        self.calls.add(key)
        for arg in args:
            if isinstance(arg, Cache):
                arg.asked += 1
        if self.known is not None and key not in self.known.calls:
            return Unknown(f"{name.split()[0]!r} is given what the module never gives it, and nothing says what it does with a part")
        for i in in_place:
            if isinstance(args[i], Tensor):
                args[i].data[...] = _filled(f"{key} writes {i}", args[i].data.shape, args[i].dtype)
        return self._result(key, out)

    def _result(self, key: str, out: Any) -> Any:
        if isinstance(out, tuple):
            return tuple(self._result(f"{key}[{i}]", one) for i, one in enumerate(out))
        return Tensor(_filled(key, out.shape, out.dtype), out.dtype) if out is not None else key


def _filled(name: str, shape: tuple[int, ...], dtype: str) -> Array:
    """Arbitrary numbers."""
    numbers = field.unknown(name, np.arange(int(np.prod(shape))).reshape(shape))
    return numbers if is_float(dtype) else (numbers % 4).astype(storage(dtype))


def _attention(cache: Any, layer: int, scale: float, qkv: Tensor, *, out: Any) -> Tensor:
    """Heads are independent: each result is a function of its query head, of its head of keys and values, and of what that kept."""
    tokens, query, _ = out.shape
    heads = (qkv.data.shape[1] - query) // 2
    found = np.zeros(out.shape, "int64")
    for head in range(heads):
        keys = Tensor(qkv.data[:, query + head], qkv.dtype), Tensor(qkv.data[:, query + heads + head], qkv.dtype)
        before = cache.history.get((layer, head), cache.name)
        cache.history[layer, head] = digest((before, *keys))
        for q in range(head * query // heads, (head + 1) * query // heads):
            name = digest((f"attention {layer} {scale}", cache.history[layer, head], Tensor(qkv.data[:, q], qkv.dtype)))
            found[:, q] = field.unknown(name, np.arange(tokens * out.shape[2]).reshape(tokens, out.shape[2]))
    return Tensor(found, out.dtype)


def _appended(cache: Any, layer: int, latent: Tensor) -> Any:
    """A cache that keeps one more latent vector for each token."""
    cache.history[layer, _LATENT] = digest((cache.history.get((layer, _LATENT), cache.name), latent))
    return cache


def _by_heads(name: str, args: list[Any], out: Any) -> tuple[Tensor, ...]:
    """Results (tokens, heads, ...), each head a function of its own part of each argument and of what the cache shares."""
    cache, *rest = args
    tensors = [arg for arg in rest if isinstance(arg, Tensor)]
    heads = int(tensors[0].data.shape[1])
    told = [name, *(arg for arg in rest if not isinstance(arg, Tensor)), cache.history.get((rest[0], _LATENT)) if name == _PAST else ""]
    found = [np.zeros(one.shape, "int64") for one in out]
    for head in range(heads):
        parts = tuple(Tensor(t.data[:, head * t.data.shape[1] // heads], t.dtype) for t in tensors)
        for i, numbers in enumerate(found):
            shape = numbers[:, head].shape
            numbers[:, head] = field.unknown(digest((f"{told} {i}", *parts)), np.arange(numbers[:, head].size).reshape(shape))
    return tuple(Tensor(numbers, one.dtype) for numbers, one in zip(found, out, strict=True))


def _created(name: str, args: list[Any]) -> Cache:
    """A cache knows what it was made from, but for its heads and the kernels for them."""
    counts = _CREATE[name]
    rest = tuple(arg for i, arg in enumerate(args[:_KERNELS_FROM]) if i not in counts)
    return Cache(digest((name, rest)), int(args[counts[1]]))
