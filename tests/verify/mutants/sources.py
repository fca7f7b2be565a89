"""Right programs to make wrong ones of: models, of which layers are proven once, and random programs without end."""

from dataclasses import dataclass, field, replace
from typing import Any

import tvm
from tvm import relax

import spmd
from spmd import Mesh, P, ShardingError
from spmd.costs.planning_sizes import symbols_of
from spmd.testing.equivalence import FREE_LINKS, difference, simulate
from tests.models.llama_block import llama_blocks, with_gradients
from tests.models.mlc_llama import TINY, mlc_llama
from tests.test_programs import drawn
from tests.verify.test_shrink import FUSED, Block

MEGATRON = {
    "layers.*.[qkv]_proj": P(None, "tp"), "layers.*.gate_proj": P(None, "tp"), "layers.*.up_proj": P(None, "tp"),
    "layers.*.o_proj": P("tp", None), "layers.*.down_proj": P("tp", None),
}  # fmt: skip
"""By rows and by columns in turn, so that all layers are equal."""


@dataclass
class Source:
    """A program, and what it gives."""

    name: str
    mod: tvm.IRModule
    sharded: Any
    sizes: dict[str, int] = field(default_factory=dict)
    can_run: bool = True
    _given: dict[str, Any] = field(default_factory=dict)

    def outcome(self, function, mutated):
        """What the verifier says of a mutant: "killed" or "undecided"; "equivalent" or "survived", as numbers tell, where it passes."""
        own, mutated = alone(self.mod, function), only(mutated, function)
        known = symbols_of(own)
        sizes = {name: size for name, size in self.sizes.items() if name in known}
        try:
            proof = spmd.verify(own, mutated, sizes=sizes)
        except ShardingError:
            return "killed"
        if not proof:
            return "undecided"
        if not self.can_run:
            return "not run"
        try:
            if function not in self._given:
                self._given[function] = simulate(only(self.sharded, function), sizes=sizes)
            return "survived" if difference(self._given[function], simulate(mutated, sizes=sizes)) else "equivalent"
        except ShardingError:
            return "not run"  # it takes a cache


def alone(mod, name):
    """A module without other functions that can be called from outside."""
    kept = {v: f for v, f in mod.functions.items() if v.name_hint == name or not (f.attrs and "global_symbol" in f.attrs)}
    return tvm.IRModule(kept, attrs=mod.attrs)


def only(sharded, name):
    """One function of a sharded module."""
    plan = replace(sharded.plan, functions={name: sharded.plan.functions[name]})
    return replace(sharded, mod=alone(sharded.mod, name), plan=plan)


def two_batches():
    """A step of training whose gradient is summed over two batches before it is over workers."""
    builder, op = relax.BlockBuilder(), relax.op
    w = relax.Var("w", relax.TensorType((6, 5), "float32"))
    batches = [relax.Var(f"x{i}", relax.TensorType((4, 6), "float32")) for i in (0, 1)]
    with builder.function("main", [*batches, w], attrs={"num_input": 2}):
        with builder.dataflow():
            outs = [builder.emit(op.tanh(builder.emit(op.matmul(x, w)))) for x in batches]
            parts = [builder.emit(op.matmul(builder.emit(op.permute_dims(x)), y)) for x, y in zip(batches, outs, strict=True)]
            step = builder.emit(op.multiply(builder.emit(op.add(*parts)), relax.const(0.125, "float32")))
            out = builder.emit_output(op.subtract(w, step))
        builder.emit_func_output(out)
    return builder.get()


def blocks():
    return Source("blocks", llama_blocks(4), spmd.shard(llama_blocks(4), 2, MEGATRON, profile=FREE_LINKS))


def gradients():
    mod, mesh = with_gradients(3), Mesh(dp=2, tp=2)
    specs = {**MEGATRON, "main_adjoint.x": P("dp", None, None)}
    return Source("gradients", mod, spmd.shard(mod, mesh, specs, profile=FREE_LINKS))


def cached():
    mod, _ = mlc_llama(TINY, symbolic_vocab=False, layers=1, functions=("prefill",))
    sharded = spmd.shard(mod, Mesh(dp=2, tp=2), spmd.presets.megatron(mod, "tp"), profile=FREE_LINKS)
    return Source("cached", mod, sharded, can_run=False)


def accumulated():
    mod, batch = two_batches(), {f"main.x{i}": P("dp", None) for i in (0, 1)}
    return Source("accumulated", mod, spmd.shard(mod, Mesh(dp=2), {**batch, "w": P(None, None)}, profile=FREE_LINKS))


def large():
    return Source("large", Block, spmd.shard(Block, 8, FUSED, profile=FREE_LINKS, memory=float("inf")), can_run=False)


MODELS = (blocks, gradients, cached, accumulated, large)


def sources(seed):
    """One of the models, and random programs."""
    yield MODELS[seed % len(MODELS)]()
    seed *= 1000
    while True:
        for i, case in enumerate(drawn(seed, 10)):
            known = symbols_of(case.mod)
            sizes = {n: size for n, size in case.sizes.items() if n in known}
            divisible = {n: by for n, by in case.divisible.items() if n in sizes}
            asked = {"profile": FREE_LINKS, "sizes": sizes, "divisible": divisible, "lift": case.lift}
            yield Source(f"program {i} of {seed}", case.mod, spmd.shard(case.mod, case.mesh, case.specs, **asked), sizes)
        seed += 1
