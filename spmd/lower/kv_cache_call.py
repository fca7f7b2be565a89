"""What a call of `vm.builtin.paged_attention_kv_cache_create` says, and the kernels that TVM makes for it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import tvm
from tvm import relax, tirx
from tvm.relax.frontend.nn.llm.kv_cache import AttnKind, RopeMode, TIRPagedKVCache
from tvm.target import Target

from spmd.errors import ShardingError
from spmd.ir.builder import NOTED

from .score_cap import capped

Position = tuple[int, int]
"""Argument of the call, and element of it where it is a tuple."""
Lookup = Callable[[Any], Any]

# Arguments of the call; the first one names the packed function
SIZES, QUERY, HEADS, QK_DIM, V_DIM, ATTN_KIND, ROPE_SCALE, ROPE_THETA, APPEND, RAGGED = 1, 3, 4, 5, 6, 7, 10, 11, 14, 16
ROTARY, COPY_PAGE, DEBUG, COMPACT, ARGUMENTS = 25, 26, 27, 28, 29
SLIDING_WINDOW = 5  # among the sizes
AS_MADE = "Shard the module with the cache as TIRPagedKVCache made it, or before a cache for the target replaces the generic one."


@dataclass(frozen=True)
class Parameters:
    """What `TIRPagedKVCache` is told besides head counts, hashable."""

    attn_kind: tuple[str, ...]
    layers: int
    head_dims: tuple[int, int]
    """The head sizes of query and key, and of value; `ragged_dims` has those before the compression of MLA."""
    ragged_dims: tuple[int, int]
    page_size: tuple[int | str, str]
    """The size or the name of its variable, and the type."""
    sliding_window: int
    rope: tuple[float, float]
    """Base and scale."""
    dtype: str
    rotary_dim: int = 0
    rope_scaling: str = "{}"
    """The scaling of rotary positions, as JSON."""
    target: str = ""
    """The target, as JSON."""
    score_cap: float = 0.0
    """What scores are capped to; 0: they are not."""


class CacheCall:
    """The arguments of the call that creates a cache."""

    def __init__(self, mod: tvm.IRModule, call: Any, where: str, lookup: Lookup) -> None:
        self.where, self.lookup = where, lookup
        self.args: list[Any] = [self._resolve(arg) for arg in call.args]
        self.kernels: dict[Position, tuple[str, tirx.PrimFunc]] = {}
        self.numbers: dict[Position, int] = {}
        for position, value in _leaves(self.args, self._resolve):
            if isinstance(value, tirx.IntImm):
                self.numbers[position] = int(value)
            if isinstance(value, tvm.ir.GlobalVar) and isinstance(mod[value], tirx.PrimFunc):
                self.kernels[position] = (value.name_hint, mod[value])

    def parameters(self) -> Parameters:
        """All but target and RoPE."""
        page = self._shape(COPY_PAGE, 0)[-2]
        names = {int(kind): kind.name.lower() for kind in AttnKind}
        kinds = [self._constant(ATTN_KIND, kind) for kind in self._values(ATTN_KIND)]
        attn_kind = tuple(names.get(int(kind), str(kind)) for kind in kinds)
        dims = (self.integer(QK_DIM), self.integer(V_DIM))
        return Parameters(
            attn_kind=attn_kind,
            layers=int(self._constant(DEBUG, self._shape(DEBUG, 2)[0])),
            head_dims=dims,
            ragged_dims=self._ragged_dims() if attn_kind[0] == "mla" else dims,
            page_size=(page.name if isinstance(page, tirx.Var) else int(self._constant(COPY_PAGE, page)), str(page.ty.dtype)),
            sliding_window=int(self._constant(SIZES, self._values(SIZES)[SLIDING_WINDOW])),
            rope=(self._number(ROPE_THETA), self._number(ROPE_SCALE)),
            dtype=str(self._buffer(APPEND, 0).dtype),
        )

    def kernel(self, position: Position) -> tuple[str, tirx.PrimFunc]:
        """Name and function of the kernel there."""
        if position not in self.kernels:
            raise self._unreadable(position[0], "a PrimFunc")
        return self.kernels[position]

    def integer(self, at: int) -> int:
        """The whole number that argument `at` is."""
        return int(self._number(at))

    def _number(self, at: int) -> float:
        return self._constant(at, self.args[at])

    def _constant(self, at: int, value: Any) -> float:
        number = getattr(value, "value", None)
        if not isinstance(number, (int, float)):
            raise self._unreadable(at, f"a constant, but {getattr(value, 'name', value)}")
        return number

    def _values(self, at: int) -> Any:
        if not isinstance(self.args[at], relax.ShapeExpr):
            raise self._unreadable(at, "a shape")
        return self.args[at].values

    def _ragged_dims(self) -> tuple[int, int]:
        """The sizes of q and v: in the call of FlashInfer the last two numbers, else those in the kernel."""
        if (RAGGED, 4) in self.numbers:
            return self.numbers[RAGGED, 3], self.numbers[RAGGED, 4]
        sizes = (self._shape((RAGGED, 1), param)[-1] for param in (0, 3))
        query, value = (int(self._constant(RAGGED, size)) for size in sizes)
        return query, value

    def _buffer(self, at: int | Position, param: int) -> Any:
        name, kernel = self.kernel(at if isinstance(at, tuple) else (at, 0))
        if param >= len(kernel.params) or not hasattr(kernel.params[param], "shape"):
            raise ShardingError(self.where, f"kernel '{name}' has no buffer as parameter {param}", AS_MADE)
        return kernel.params[param]

    def _shape(self, at: int | Position, param: int) -> Any:
        return self._buffer(at, param).shape

    def _resolve(self, value: Any) -> Any:
        found = self.lookup(value) if isinstance(value, relax.Var) else None
        return value if found is None else self._resolve(found)

    def _unreadable(self, at: int, needed: str) -> ShardingError:
        what = f"argument {at} of the call that creates the KV cache does not give {needed}"
        return ShardingError(self.where, what, AS_MADE)


def _leaves(args: list[Any], resolve: Lookup = lambda value: value) -> Iterator[tuple[Position, Any]]:
    for i, arg in enumerate(args):
        for j, field in enumerate(arg.fields if isinstance(arg, relax.Tuple) else [arg]):
            yield (i, j), resolve(field)


@lru_cache(maxsize=16)
def make_kernels(parameters: Parameters, query_heads: int, kv_heads: int) -> dict[Position, tirx.PrimFunc]:
    """The kernels that TVM's class passes for these head counts; 0.5 to 1 second."""
    with NOTED:
        return _made_kernels(parameters, query_heads, kv_heads)


def _made_kernels(parameters: Parameters, query_heads: int, kv_heads: int) -> dict[Position, tirx.PrimFunc]:
    p = parameters
    size, dtype = p.page_size
    page = tirx.Var(size, dtype) if isinstance(size, str) else size if dtype == "int32" else tirx.IntImm(dtype, size)
    others = [tirx.Var(name, "int64") for name in ("batch", "total", "chunk", "window")]
    builder = relax.BlockBuilder()
    with builder.function("main", [relax.Var("sizes", relax.ShapeType(others + [page] * isinstance(size, str)))]):
        cache = TIRPagedKVCache(
            attn_kind=list(p.attn_kind),
            max_batch_size=others[0],
            max_total_seq_len=others[1],
            prefill_chunk_size=others[2],
            page_size=page,
            support_sliding_window=others[3],
            layer_partition=relax.ShapeExpr([0, p.layers]),
            num_hidden_layers=p.layers,
            num_attention_heads=query_heads,
            num_key_value_heads=kv_heads,
            qk_head_dim=p.head_dims[0],
            v_head_dim=p.head_dims[1],
            mla_original_qk_head_dim=p.ragged_dims[0],
            mla_original_v_head_dim=p.ragged_dims[1],
            rope_mode=RopeMode.NORMAL,  # passed on, in no kernel
            rope_scale=p.rope[1],
            rope_theta=p.rope[0],
            rope_scaling=json.loads(p.rope_scaling),
            rope_ext_factors=relax.prim_value(0),
            rotary_dim=p.rotary_dim,
            enable_disaggregation=False,
            dtype=p.dtype,
            target=Target(json.loads(p.target)),
            layer_sliding_window_size=p.sliding_window,
        )
        builder.emit_func_output(cache._expr)
    made = builder.get()
    call = made["main"].body.blocks[0].bindings[-1].value
    kernels = {at: made[value] for at, value in _leaves(list(call.args)) if isinstance(value, tvm.ir.GlobalVar)}
    return {at: capped(kernel, p.score_cap, "KV cache") for at, kernel in kernels.items()} if p.score_cap else kernels
