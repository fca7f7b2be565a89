"""The training step beside Adam written in NumPy, and the character model on several workers beside one."""

from itertools import islice

import numpy as np
import pytest
from tvm.script import ir as I
from tvm.script import relax as R

import spmd
from examples.train.model import CharacterModel
from examples.train.step import Adam, state_at_start, training_step
from examples.train.train import PRESETS, batches
from spmd import Mesh, P

BUSY = spmd.Profile("busy", flops=1e7, memory_bandwidth=1e8, link_bandwidth=1e9, link_latency=1e-6)
"""Workers so slow beside their links that the smallest model is split."""


@I.ir_module
class Linear:
    """The mean square of a product that misses its target."""

    @R.function
    def loss(x: R.Tensor((6, 5), "float32"), y: R.Tensor((6, 4), "float32"), w: R.Tensor((5, 4), "float32"), b: R.Tensor((4,), "float32")):
        R.func_attr({"num_input": 2})
        with R.dataflow():
            off = R.subtract(R.add(R.matmul(x, w), b), y)
            made = R.mean(R.multiply(off, off))
            R.output(made)
        return made


def adam(w, b, data, rate, clip):
    """What `Linear` becomes, and its losses."""
    params, m, v, found = [w, b], [0.0, 0.0], [0.0, 0.0], []
    for t, (x, y) in enumerate(data, 1):
        off = x @ params[0] + params[1] - y
        found.append((off**2).mean())
        each = 2 * off / off.size
        gradients = [x.T @ each, each.sum(0)]
        norm = np.sqrt(sum((g**2).sum() for g in gradients))
        gradients = [g * min(1.0, clip / (norm + 1e-6)) for g in gradients] if clip else gradients
        for i, g in enumerate(gradients):
            m[i], v[i] = 0.9 * m[i] + 0.1 * g, 0.999 * v[i] + 0.001 * g * g
            params[i] = params[i] - rate * (m[i] / (1 - 0.9**t)) / (np.sqrt(v[i] / (1 - 0.999**t)) + 1e-8)
    return params, found


@pytest.mark.parametrize(
    ("clip", "parts", "mesh"), [(0.0, 1, 1), (0.5, 1, Mesh(dp=2)), (0.5, 3, Mesh(dp=2)), (0.5, 2, Mesh(tp=2))], ids=str
)
def test_steps_are_those_of_adam(clip, parts, mesh):
    rng = np.random.default_rng(0)
    w, b = rng.normal(size=(5, 4)).astype("float32"), rng.normal(size=4).astype("float32")
    data = [(rng.normal(size=(6 * parts, 5)).astype("float32"), rng.normal(size=(6 * parts, 4)).astype("float32")) for _ in range(4)]
    optimizer = Adam(0.05)
    mod = training_step(Linear, optimizer, clip=clip, parts=parts)
    ahead = [None] * (parts > 1)
    split = {f"step.{name}": P(*ahead, "dp", None) for name in "xy"} if isinstance(mesh, Mesh) and "dp" in mesh.axes else {}
    sharded = spmd.shard(mod, mesh, {**split, **spmd.presets.state(mod)}, profile=BUSY)
    with spmd.workers(sharded) as workers:
        held, found = workers.load(state_at_start(optimizer, mod, {"w": w, "b": b})), []
        for x, y in data:
            given = [value.reshape(parts, 6, -1) for value in (x, y)] if parts > 1 else (x, y)
            loss, *held = workers["step"](*given, *held, keep=True)
            found.append(float(loss.numpy()))
        made = [handle.numpy() for handle in held[:2]]
    params, losses = adam(w, b, data, 0.05, clip)
    np.testing.assert_allclose(found, losses, rtol=1e-5)
    for got, want in zip(made, params, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


SLOW = spmd.Profile("slow", flops=1e10, memory_bandwidth=1e10, link_bandwidth=1e9, link_latency=1e-5)
"""Workers that gain by splitting a batch of 2,048 characters."""


def small(vocabulary=16, length=8, width=8, batch=4):
    """A step of a character model of one layer, and its weights and moments."""
    model, optimizer = CharacterModel(vocabulary, length, width, heads=2, layers=1), Adam(1e-2)
    mod = training_step(model.export(batch), optimizer, clip=1.0)
    rng = np.random.default_rng(0)
    weights = {n: rng.normal(0, 0.3, [int(s) for s in p.shape]).astype("float32") for n, p in model.named_parameters()}
    return mod, state_at_start(optimizer, mod, weights)


def test_losses_are_those_of_one_worker():
    mod, state = small()
    tokens = np.random.default_rng(1).integers(0, 16, (4, 9)).astype("int32")

    def losses(mesh, specs):
        with spmd.workers(spmd.shard(mod, mesh, specs, profile=BUSY)) as workers:
            held = workers.load(state)
            for _ in range(4):
                loss, *held = workers["step"](tokens[:, :-1], tokens[:, 1:], *held, keep=True)
                yield float(loss.numpy())

    alone = list(losses(1, {}))
    assert alone[-1] < alone[0]
    np.testing.assert_allclose(list(losses(Mesh(dp=2, tp=2), PRESETS["fsdp+megatron"](mod))), alone, atol=1e-5)


def test_zero_gathers_each_weight_once_and_scatters_each_gradient_once():
    mod, state = small(64, 32, 64, 64)
    plan = spmd.plan(mod, Mesh(dp=2), spmd.presets.fsdp(mod), profile=SLOW)
    weights = {name: array.nbytes for name, array in state.items() if not name.endswith((".0", ".1", ".2"))}
    gathered = [one for one in plan.collectives if one.kind == "all_gather" and one.value in weights]
    assert sorted(one.value for one in gathered) == sorted(weights)
    assert sum(one.bytes for one in gathered) == sum(weights.values()) // 2
    scattered = [one for one in plan.collectives if one.kind == "reduce_scatter"]
    assert (len(scattered), sum(one.bytes for one in scattered)) == (len(weights), sum(weights.values()))
    assert all(plan.outputs[f"step[{i}]"] == plan.params[name] for i, name in enumerate(_names(mod), 1))


def test_data_parallelism_sums_each_gradient_once():
    mod, state = small(64, 32, 64, 64)
    plan = spmd.plan(mod, Mesh(dp=2), spmd.presets.data_parallel(mod), profile="cpu")
    weights = [array.nbytes for name, array in state.items() if not name.endswith((".0", ".1", ".2"))]
    sent = [one.bytes for one in plan.collectives if one.bytes > 4]
    assert {one.kind for one in plan.collectives} == {"all_reduce"}
    assert sorted(sent) == sorted(weights)
    assert all(not plan.params[name].axes() for name in _names(mod))


def test_batches_are_the_text_and_its_next_characters():
    (tokens, targets), (others, _) = islice(batches(), 2)
    assert (tokens[:, 1:] == targets[:, :-1]).all()
    assert (tokens != others).any()


def _names(mod):
    return [var.name for var in mod["step"].params[2:]]
