"""The kernels of a paged KV cache for the heads of one worker.

The call that creates a cache passes some 14 kernels with the head counts baked into them. They are not rewritten but made again: what
TVM's `TIRPagedKVCache` was told is read off the call and its kernels, and every kernel is made for the local head counts. That this is
the same kernel is proven: it differs from the module's in whole numbers alone, each of them scaled as the heads are; or else (tiles may
hang on head counts), made for the global head counts, it is the module's to the letter. `mlc.create_paged_kv_cache_generic` passes no
kernels and needs nothing of this. A FlashInfer cache does: its attention functions are extern, the TIR kernels beside them are those of
`TIRPagedKVCache`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import tvm
import tvm_ffi
from tvm import tirx
from tvm.relax.frontend.nn.llm.kv_cache import llama_rope_with_position_map
from tvm.target import Target

from spmd.errors import ShardingError

from .kv_cache_call import ARGUMENTS, AS_MADE, COMPACT, HEADS, QUERY, ROTARY, CacheCall, Lookup, Parameters, Position, make_kernels
from .rope_scaling import Scaling, find_rope, looks_plain
from .score_cap import cap_of

# The GPUs that TVM makes kernels of their own for; all others get those of cuda. Their largest block is read off the kernels
_GPUS = ({"kind": "cuda", "arch": "sm_80"}, {"kind": "metal"}, {"kind": "webgpu"}, {"kind": "opencl", "device": "adreno"})
_ATTRIBUTE = "Give the Relax function that creates the cache the attribute rope_scaling, as the model's configuration has it, in JSON."


def local_kernels(
    mod: tvm.IRModule,
    call: Any,
    query_heads: int,
    kv_heads: int,
    where: str,
    *,
    attrs: Mapping[str, Any] | None = None,
    lookup: Lookup | None = None,
) -> dict[str, tirx.PrimFunc]:
    """The PrimFuncs that `call` passes, by the names of their GlobalVars in `mod`, made for `query_heads` and `kv_heads`.

    `call` is a call of `vm.builtin.paged_attention_kv_cache_create` with the global head counts; `lookup` gives the value bound to a
    variable among its arguments, or None. `attrs` are those of the function that creates the cache: its `rope_scaling`, a dictionary as
    JSON text, is needed where RoPE is scaled in another way than none, gptj, llama3 or llama4. Attributes that a kernel got since it was
    made are kept. A second call for the same cache takes milliseconds, the first one 0.5 to 2 seconds.
    Raises ShardingError naming the kernel that is not what TVM makes; `where` is the place that it names.
    """
    cache = CacheCall(mod, call, where, lookup or (lambda _: None))
    if not cache.kernels:
        return {}
    if kv_heads < 1 or query_heads % kv_heads:
        raise ShardingError(where, f"{query_heads} query heads a worker do not share {kv_heads} KV heads evenly", "Cut by whole KV heads.")
    if len(call.args) != ARGUMENTS:
        what = f"the call that creates the KV cache has {len(call.args)} arguments, that of this TVM has {ARGUMENTS}"
        raise ShardingError(where, what, "Export the module again with the TVM that is installed.")
    heads = cache.integer(QUERY), cache.integer(HEADS)
    parameters = replace(cache.parameters(), score_cap=cap_of(attrs, where))
    local: dict[Position, tirx.PrimFunc] | None = None
    if looks_plain(cache.kernel((ROTARY, 0))[1], parameters.head_dims[0]):  # nothing need be made to find out
        local = _scaled(cache, replace(parameters, rotary_dim=parameters.head_dims[0]), heads, (query_heads, kv_heads))
    if local is None:
        parameters = _with_rope(cache, parameters, heads, (attrs or {}).get("rope_scaling"))
        local = _scaled(cache, parameters, heads, (query_heads, kv_heads))
    if local is None:
        parameters = _with_target(cache, parameters, heads)
        try:
            local = make_kernels(parameters, query_heads, kv_heads)
        except Exception as error:  # its asserts, ValueErrors and parser errors alike
            what = f"TVM makes no KV cache kernels for {query_heads} query and {kv_heads} KV heads ({_first_line(error)})"
            raise ShardingError(where, what, "Use fewer workers along this mesh axis.") from error
    found: dict[str, tirx.PrimFunc] = {}
    for position, (name, kernel) in cache.kernels.items():
        made = _dressed(local[position], kernel)
        if not _equal(found.setdefault(name, made), made):
            raise ShardingError(where, f"kernel '{name}' has two uses that need two local kernels", "Pass a copy of it under another name.")
    return found


def _with_rope(cache: CacheCall, parameters: Parameters, heads: tuple[int, int], text: Any) -> Parameters:
    """`parameters` with the RoPE of the kernel that splits and rotates query, key and value."""
    name, kernel = cache.kernel((ROTARY, 0))
    theta, scale = parameters.rope
    given: Scaling | None = None
    if text is not None:
        try:
            given = dict(json.loads(str(text)))
        except (TypeError, ValueError) as error:
            raise ShardingError(cache.where, f"the attribute rope_scaling, {text}, is no dictionary in JSON", _ATTRIBUTE) from error
        if given.get("rope_type") == "yarn":  # as the class does, which passes on what is there
            given.setdefault("inv_theta_log_scale", 1.0 / (2 * math.log(theta)))

    def make(scaling: Scaling, rotary_dim: int) -> tirx.PrimFunc:
        return llama_rope_with_position_map(theta, scale, parameters.head_dims[0], *heads, parameters.dtype, scaling, rotary_dim)

    try:
        found = find_rope(kernel, parameters.head_dims[0], make, _same, given)
    except Exception as error:
        raise ShardingError(cache.where, f"TVM makes no RoPE kernel for rope_scaling {text} ({_first_line(error)})", _ATTRIBUTE) from error
    if found is None:
        scalings = "rope_scaling of type none, gptj, llama3 or llama4" if given is None else f"rope_scaling {text}"
        what = f"kernel '{name}' is not what TVM makes for rope_theta {theta}, rope_scale {scale} and {scalings}"
        raise ShardingError(cache.where, what, f"{_ATTRIBUTE} {AS_MADE}")
    scaling, rotary_dim = found
    return replace(parameters, rope_scaling=json.dumps(scaling, sort_keys=True), rotary_dim=rotary_dim)


def _scaled(
    cache: CacheCall, parameters: Parameters, heads: tuple[int, int], local_heads: tuple[int, int]
) -> dict[Position, tirx.PrimFunc] | None:
    """The kernels for `local_heads`, where all those of the call are the same but for numbers that are scaled as the heads are."""
    for target in _targets(_threads(cache.kernel((COMPACT, 0))[1])):
        try:
            made = make_kernels(replace(parameters, target=str(target)), *local_heads)
        except Exception:  # `_with_target` says why
            continue
        scales = tuple(zip(heads, local_heads, strict=True))
        if all(at in made and _same_but_scaled(made[at], kernel, scales) for at, (_, kernel) in cache.kernels.items()):
            return made
    return None


def _same_but_scaled(made: tirx.PrimFunc, kernel: tirx.PrimFunc, scales: tuple[tuple[int, int], ...]) -> bool:
    ours, numbers = _without_numbers(_dressed(made, kernel))
    theirs, global_numbers = _without_numbers(kernel)
    return (
        len(numbers) == len(global_numbers)
        and all(a == b or any(a * q == b * p for p, q in scales) for a, b in zip(global_numbers, numbers, strict=True))
        and _equal(ours, theirs)
    )


def _without_numbers(kernel: tirx.PrimFunc) -> tuple[tirx.PrimFunc, list[int]]:
    """`kernel` with 0 for every whole number, and these numbers in order."""
    numbers: list[int] = []

    def forget(number: Any, _: Any) -> Any:
        numbers.append(int(number))
        return tirx.IntImm(str(number.ty.dtype), 0)

    return tvm_ffi.structural_mutate(kernel, [(tirx.IntImm, forget)]), numbers


def _with_target(cache: CacheCall, parameters: Parameters, heads: tuple[int, int]) -> Parameters:
    """`parameters` with the target for which the global head counts give every kernel of the call."""
    threads = _threads(cache.kernel((COMPACT, 0))[1])
    failures: list[tuple[int, str]] = []
    for target in _targets(threads):
        trial = replace(parameters, target=str(target))
        try:
            made = make_kernels(trial, *heads)
        except Exception as error:  # too large for this GPU, for one
            failures.append((len(cache.kernels) + 1, f"TVM makes no KV cache kernels for {target.kind} ({_first_line(error)})"))
            continue
        differ = [name for at, (name, kernel) in cache.kernels.items() if at not in made or not _same(made[at], kernel)]
        if not differ:
            return trial
        names = ", ".join(f"'{name}'" for name in differ)
        what = f"KV cache kernel {names} is not what TIRPagedKVCache makes for {heads[0]} query and {heads[1]} KV heads on {target.kind}"
        failures.append((len(differ), what))
    advice = AS_MADE if threads is None else f"Run spmd.shard inside `with target:` of the GPU that the cache was made for. {AS_MADE}"
    raise ShardingError(cache.where, min(failures)[1], advice)


def _threads(kernel: tirx.PrimFunc) -> int | None:
    """The size of its thread blocks; None on a CPU."""
    found: list[int] = []

    def see(loop: Any) -> None:
        if loop.thread_binding is not None and loop.thread_binding.thread_tag == "threadIdx.x":
            found.append(int(loop.extent))

    tvm_ffi.structural_walk(kernel.body, [((tirx.For,), see)])
    return max(found, default=None)


def _targets(threads: int | None) -> Iterator[Target]:
    if threads is None:
        yield Target("llvm")
        return
    current = Target.current(allow_none=True)
    if current is not None and "gpu" in current.keys:
        yield current
    for gpu in _GPUS:
        limits = ("max_num_threads",) if gpu["kind"] == "webgpu" else ("max_num_threads", "max_threads_per_block")
        yield Target({**gpu, **dict.fromkeys(limits, threads)})


def _dressed(made: tirx.PrimFunc, like: tirx.PrimFunc) -> tirx.PrimFunc:
    """`made` with the name of `like` and the attributes that only `like` has: passes add such, the loops do not depend on them."""
    mine: Mapping[str, Any] = made.attrs or {}
    extra = {key: value for key, value in (like.attrs or {}).items() if key == "global_symbol" or key not in mine}
    return made.with_attrs(extra) if extra else made


def _same(made: tirx.PrimFunc, kernel: tirx.PrimFunc) -> bool:
    return _equal(_dressed(made, kernel), kernel)


def _equal(a: tirx.PrimFunc, b: tirx.PrimFunc) -> bool:
    # the page size is a variable of the Relax function around, and free in the kernel
    return tvm_ffi.structural_equal(a, b, map_free_vars=True)


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__).removeprefix("error: ")
