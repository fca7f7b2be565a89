"""TVM's own attention kernels on CPUs, recognized by what they compute, and faster ones in their place."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import tvm
import tvm_ffi
from tvm import tirx
from tvm.relax.frontend.nn.llm import kv_cache

from spmd.ir.expressions import intrinsic, static
from spmd.schedules.rows import with_choice

from .attention import own, past
from .attention_decode import decode

_PAGE = 16
"""The tokens of a page in TVM's kernels."""
_ANY = -1
"""A size that is symbolic."""
_UNLIKELY = 7919
"""A size of a window that no model has."""
_INLINE = 1
"""TVM's number of rotary embeddings that attention itself applies, for which its own loops stay."""


@tirx.transform.prim_func_pass(opt_level=0, name="spmd.KnownAttention")
class KnownAttention:
    """Attention of TVM's paged KV caches takes loops of ours where its rotary embeddings are applied before, which is so by default.

    A kernel must compute what TVM's does, whatever its name: one with capped scores stays as it is.
    """

    def __init__(self, *, parallel: bool = False) -> None:
        self.parallel = parallel

    def transform_function(self, func: tirx.PrimFunc, _mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tirx.PrimFunc:
        """`func` itself where it is none of these."""
        for recognized in (_own, _past, _decode):
            if (made := recognized(func, self.parallel)) is not None:
                return _beside(func, made)
        return func


def _own(func: tirx.PrimFunc, parallel: bool) -> tirx.PrimFunc | None:
    shapes = _shapes(func, 14)
    if shapes is None or [len(shapes[i]) for i in (0, 2, 3, 7)] != [3, 3, 3, 3]:
        return None
    (_, heads, d_qk), (_, groups, _), (_, _, d_v) = shapes[0], shapes[2], shapes[3]
    if _ANY in (heads, groups, d_qk, d_v) or not _computes(func, _their_own, groups, heads, d_qk, d_v, _dtype(func)):
        return None
    return own(heads, groups, d_qk, d_v, _dtype(func), parallel)


def _past(func: tirx.PrimFunc, parallel: bool) -> tirx.PrimFunc | None:
    shapes = _shapes(func, 15)
    if shapes is None or [len(shapes[i]) for i in (0, 2)] != [3, 5]:
        return None
    (_, heads, d), groups, sliding = shapes[0], shapes[2][2], len(shapes[5]) == 2
    if _ANY in (heads, groups, d):
        return None
    windows = _windows(func, _their_past(groups, heads, d, _dtype(func), _UNLIKELY)) if sliding else [None]
    window = next((one for one in windows if _computes(func, _their_past, groups, heads, d, _dtype(func), one)), _ANY)
    return None if window == _ANY else past(heads, groups, d, _dtype(func), window, _PAGE, parallel)


def _windows(func: tirx.PrimFunc, other: tirx.PrimFunc) -> list[int | None]:
    """What may be the tokens that `func` sees, of which it has no parameter: the numbers in it, first those that are not in `other`."""

    def numbers(one: tirx.PrimFunc) -> set[int]:
        found: set[int] = set()
        tvm_ffi.structural_walk(one.body, ((tirx.IntImm,), lambda number: found.add(int(number.value))))
        return {number for number in found if number > 0}

    mine, its = numbers(func), numbers(other)
    return [*sorted(mine - its), *sorted(mine & its)]


def _decode(func: tirx.PrimFunc, parallel: bool) -> tirx.PrimFunc | None:
    shapes = _shapes(func, 13)
    if shapes is None or [len(shapes[i]) for i in (0, 1)] != [3, 5]:
        return None
    (_, heads, d), groups, sliding = shapes[0], shapes[1][2], len(shapes[4]) == 2
    if _ANY in (heads, groups, d) or not _computes(func, _their_decode, groups, heads, d, _dtype(func), sliding):
        return None
    return decode(heads, groups, d, _dtype(func), sliding, _PAGE, parallel)


@lru_cache
def _their_own(groups: int, heads: int, d_qk: int, d_v: int, dtype: str) -> tirx.PrimFunc:
    return kv_cache._attention_prefill_ragged_cpu(groups, heads, d_qk, d_v, dtype, {})


@lru_cache
def _their_past(groups: int, heads: int, d: int, dtype: str, window: int | None) -> tirx.PrimFunc:
    return kv_cache._attention_prefill_cpu(
        groups, heads, d, dtype, window is not None, {}, _PAGE, **({} if window is None else {"sliding_window_size": window})
    )


@lru_cache
def _their_decode(groups: int, heads: int, d: int, dtype: str, sliding: bool) -> tirx.PrimFunc:
    return kv_cache._attention_decode_cpu(groups, heads, d, dtype, sliding, {}, _PAGE)


def _shapes(func: tirx.PrimFunc, count: int) -> list[list[int]] | None:
    """The sizes of the parameters, where there are so many; nothing for numbers."""
    if len(func.params) != count:
        return None

    def sizes(param: Any) -> list[int]:
        found = [static(size) for size in param.shape]
        return [_ANY if size is None else size for size in found]

    return [sizes(param) if isinstance(param.ty, tirx.BufferType) else [] for param in func.params]


def _dtype(func: tirx.PrimFunc) -> str:
    return str(func.params[0].dtype)


def _computes(func: tirx.PrimFunc, theirs: Callable[..., tirx.PrimFunc], *sizes: Any) -> bool:
    """Whether it is that of TVM's, but for rotary embeddings."""
    return bool(tvm_ffi.structural_equal(_unturned(func), _unturned(theirs(*sizes)), map_free_vars=True))


def _unturned(func: tirx.PrimFunc) -> tirx.PrimFunc:
    """A kernel that is not asked for rotary embeddings."""
    mode = _mode(func)

    def choice(node: Any, mutator: Any) -> Any:
        node = mutator.default_mutate(node)
        if intrinsic(node) != "if_then_else" or not isinstance(node.args[0], tirx.EQ) or not node.args[0].a.same_as(mode):
            return node
        return node.args[2] if static(node.args[0].b) == _INLINE else node

    return tirx.PrimFunc(func.params, tvm_ffi.structural_mutate(func.body, [(tvm.ir.Call, choice)]), func.ret_type, None)


def _mode(func: tirx.PrimFunc) -> Any:
    """The parameter that says how rotary embeddings are applied; `rope_scale`, `rope_theta` and `sm_scale` come after it."""
    return func.params[-4]


def _beside(func: tirx.PrimFunc, made: tirx.PrimFunc) -> tirx.PrimFunc:
    """Kernel `func`, with the loops of `made`, which has parameters like its own, where attention applies no rotary embeddings."""
    names: dict[Any, Any] = {}
    for mine, its in zip(func.params, made.params, strict=True):
        names[its] = mine
        if isinstance(its.ty, tirx.BufferType):
            pairs = [*zip(its.shape, mine.shape, strict=True), (its.elem_offset, mine.elem_offset)]
            names |= {old: new for old, new in pairs if isinstance(old, tvm.ir.Var)}
    loops = tvm_ffi.structural_mutate(made.body, [(tvm.ir.Var, lambda var, _: names.get(var, var))])
    choice = tirx.IfThenElse(tirx.EQ(_mode(func), tirx.const(_INLINE, "int32")), func.body, loops)
    return with_choice(func, choice).with_attr("tirx.is_scheduled", True)
