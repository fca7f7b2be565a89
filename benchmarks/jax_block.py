"""The Llama block of `tests/models/llama_block.py` in JAX, what XLA makes of it on several devices, and Shardy's own passes over it.

Eight virtual CPU devices. Needs JAX (`pip install 'jax>=0.10'`); only `benchmarks.shardy` imports it.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from jaxlib.mlir.passmanager import PassManager

from tests.models.llama_block import BATCH, HEADS, HIDDEN, KV_HEADS, SEQUENCE, WEIGHTS

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)

Specs = Mapping[str, tuple[str | tuple[str, ...] | None, ...]]
"""Weight, or ``x`` -> for each dimension the mesh axes that split it. What is not named is left to Shardy; `x` is whole."""
_COLLECTIVE = re.compile(r"(all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute)(?:-start)?")
_INSTRUCTION = re.compile(r"\s*(?:ROOT )?%?([\w.-]+) = (\(.*?\)|\S+) ([\w-]+)\((.*?)\)")


class Sent(NamedTuple):
    """One collective: what each worker brings, in how many tensors, and how many workers meet."""

    kind: str
    bytes: int
    tensors: int
    workers: int


def block(x: Any, w: Mapping[str, Any]) -> Any:
    """The same operators in the same order as in Relax."""
    size = HIDDEN // HEADS

    def grouped(value: Any) -> Any:
        wide = jnp.broadcast_to(value.reshape(BATCH, SEQUENCE, KV_HEADS, 1, size), (BATCH, SEQUENCE, KV_HEADS, HEADS // KV_HEADS, size))
        return wide.reshape(BATCH, SEQUENCE, HEADS, size).transpose(0, 2, 1, 3)

    normed = _norm(x, w["norm1"])
    query = (normed @ w["q_proj"]).reshape(BATCH, SEQUENCE, HEADS, size).transpose(0, 2, 1, 3)
    key, value = grouped(normed @ w["k_proj"]), grouped(normed @ w["v_proj"])
    chances = jax.nn.softmax(query @ key.transpose(0, 1, 3, 2) / math.sqrt(size), -1)
    x = x + (chances @ value).transpose(0, 2, 1, 3).reshape(BATCH, SEQUENCE, HIDDEN) @ w["o_proj"]
    normed = _norm(x, w["norm2"])
    gate = normed @ w["gate_proj"]
    return x + (gate * jax.lax.logistic(gate) * (normed @ w["up_proj"])) @ w["down_proj"]


def blocks(x: Any, layers: Sequence[Mapping[str, Any]]) -> Any:
    """Several of them, one after the other."""
    for weights in layers:
        x = block(x, weights)
    return x


def loss(x: Any, layers: Sequence[Mapping[str, Any]]) -> Any:
    """The mean square of the result."""
    return (blocks(x, layers) ** 2).mean()


gradients = jax.value_and_grad(loss, argnums=(0, 1))
"""The loss, and its gradients by `x` and by every weight."""


def lowered(axes: Mapping[str, int], specs: Specs, *, layers: int = 1, backward: bool = False) -> Any:
    """What JAX hands to XLA. The result is like `x`; so is the gradient by it, and one by a weight like that weight; a loss is whole."""
    devices = np.array(jax.devices()[: math.prod(axes.values())]).reshape(tuple(axes.values()))
    mesh = jax.sharding.Mesh(devices, tuple(axes), axis_types=(AxisType.Auto,) * len(axes))
    placed = {name: NamedSharding(mesh, PartitionSpec(*spec)) for name, spec in specs.items()}
    whole = NamedSharding(mesh, PartitionSpec())
    x = placed.get("x", whole)
    weights = [{name: placed.get(name) for name in WEIGHTS}] * layers
    shapes = [{name: jax.ShapeDtypeStruct(shape, np.float32) for name, shape in WEIGHTS.items()}] * layers
    run, result = (gradients, (whole, (x, weights))) if backward else (blocks, x)
    jitted = jax.jit(run, in_shardings=(x, weights), out_shardings=result)
    return jitted.lower(jax.ShapeDtypeStruct((BATCH, SEQUENCE, HIDDEN), np.float32), shapes)


def measured(axes: Mapping[str, int], specs: Specs, *, backward: bool) -> tuple[list[Sent], int]:
    """The collectives of one block in XLA's optimized program, and the bytes of weights that a device holds."""
    compiled = lowered(axes, specs, backward=backward).compile()
    (held,) = compiled.input_shardings[0][1]
    return list(collectives(compiled.as_text())), sum(4 * math.prod(held[n].shard_shape(shape)) for n, shape in WEIGHTS.items())


def collectives(text: str) -> Iterator[Sent]:
    """Those of an optimized program in XLA's text form; groups of one worker exchange nothing."""
    sizes: dict[str, int] = {}
    for line in text.splitlines():
        found = _INSTRUCTION.match(line)
        if found is None:
            continue
        name, kind, operands = found[1], _COLLECTIVE.fullmatch(found[3]), re.findall(r"%([\w.-]+)", found[4])
        sizes[name] = sum(_bytes(*shape) for shape in re.findall(r"([a-z]+\d*)\[([\d,]*)\]", found[2]))
        if kind is None:
            continue
        workers = 2 if kind[1] == "collective-permute" else _workers(line)
        if workers > 1:
            tensors = 1 if kind[1] == "all-to-all" else len(operands)  # an all-to-all takes the pieces of one tensor
            yield Sent(kind[1].removeprefix("collective-").replace("-", "_"), sum(sizes[o] for o in operands), tensors, workers)


def planner(axes: Mapping[str, int], specs: Specs, layers: int) -> Callable[[], float]:
    """A run of Shardy's propagation and of its explicit reshards, which gives CPU seconds; the program is there before."""
    module = lowered(axes, specs, layers=layers).compiler_ir("stablehlo")
    passes = "builtin.module(sdy-propagation-pipeline,func.func(sdy-insert-explicit-reshards{enable-full-version=true}))"

    def run() -> float:
        with module.context:
            fresh, manager = module.operation.clone(), PassManager.parse(passes)
            start = time.process_time()
            manager.run(fresh)
            taken = time.process_time() - start
        made = str(fresh).count("sdy.all_reduce")
        if made != 2 * layers:
            raise RuntimeError(f"Shardy's passes made {made} all-reduces in {layers} layers, not 2 in each: this JAX works otherwise")
        return taken

    return run


def _norm(x: Any, weight: Any) -> Any:
    return x / jnp.sqrt((x * x).mean(-1, keepdims=True) + 1e-5) * weight


def _bytes(dtype: str, shape: str) -> int:
    bits = re.search(r"\d+", dtype)
    return (int(bits[0]) // 8 if bits else 1) * math.prod(int(size) for size in shape.split(",") if size)


def _workers(line: str) -> int:
    """How many meet, in each of the three ways in which XLA writes groups."""
    if found := re.search(r"replica_groups=\[\d+,(\d+)\]", line):
        return int(found[1])
    if found := re.search(r"replica_groups=\{\{([\d,]+)\}", line):
        return found[1].count(",") + 1
    found = re.search(r"replica_groups=mesh\[(.*?)\].*?\{(.*?)\}", line)
    if found is None:
        raise RuntimeError(f"this JAX writes the groups of a collective in a way that is not known: {line.strip()}")
    sizes = {name: int(size) for name, size in re.findall(r"'(\w+)'=(\d+)", found[1])}
    return math.prod(int(part) if part else sizes[name] for name, part in re.findall(r"'(\w+)'(?::\(\d+\)(\d+))?", found[2]))
