"""Train the character model on the documentation of this project, on one worker or several.

python -m examples.train.train --mesh dp=2 --preset fsdp --steps 200
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tvm

import spmd
from examples.train.model import CharacterModel
from examples.train.step import Adam, state_at_start, training_step

BATCH, LENGTH, WIDTH, RATE, CLIP = 16, 32, 32, 3e-3, 1.0
PROFILE = "cpu"
TEXT = "\n".join(path.read_text(encoding="utf-8") for path in sorted((Path(__file__).parents[2] / "docs").glob("*.md")))
CHARACTERS = sorted(set(TEXT))
PRESETS = {
    "data_parallel": spmd.presets.data_parallel,
    "fsdp": spmd.presets.fsdp,
    "megatron": spmd.presets.megatron,
    "data_parallel+megatron": lambda mod: spmd.presets.data_parallel(mod) | spmd.presets.megatron(mod),
    "fsdp+megatron": lambda mod: spmd.presets.fsdp(mod, "dp", spmd.presets.megatron(mod)),
}


def step_and_state(parts: int = 1) -> tuple[tvm.IRModule, dict[str, np.ndarray]]:
    """The training step of the model, and what its parameters begin with, by name; always the same."""
    model, optimizer = CharacterModel(len(CHARACTERS), LENGTH, WIDTH), Adam(RATE)
    mod = training_step(model.export(BATCH // parts), optimizer, clip=CLIP, parts=parts)
    rng, weights = np.random.default_rng(0), {}
    for name, parameter in model.named_parameters():
        shape = tuple(int(size) for size in parameter.shape)
        made = np.ones(shape) if len(shape) == 1 else rng.normal(0.0, shape[-1] ** -0.5, shape)
        weights[name] = made.astype("float32")
    return mod, state_at_start(optimizer, mod, weights)


def batches(seed: int = 1) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pieces of the text, and the same one character later, without end."""
    numbers = {character: i for i, character in enumerate(CHARACTERS)}
    text, rng = np.array([numbers[character] for character in TEXT], "int32"), np.random.default_rng(seed)
    while True:
        pieces = np.stack([text[at : at + LENGTH + 1] for at in rng.integers(0, len(text) - LENGTH, BATCH)])
        yield pieces[:, :-1], pieces[:, 1:]


def losses(sharded: Any, state: Mapping[str, np.ndarray]) -> Iterator[float]:
    """The loss of each step, without end; weights and moments stay on the workers."""
    with spmd.workers(sharded) as workers:
        held = workers.load(state)
        for tokens, targets in batches():
            loss, *held = workers["step"](tokens, targets, *held, keep=True)
            yield float(loss.numpy())


def main() -> None:
    """Print the loss as it falls."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mesh", default="dp=2", help="workers by axis, as dp=2,tp=2")
    parser.add_argument("--preset", choices=PRESETS, help="where weights and batches live (default: what is fastest)")
    parser.add_argument("--steps", type=int, default=200)
    options = parser.parse_args()
    mod, state = step_and_state()
    axes = {name: int(size) for name, size in (axis.split("=") for axis in options.mesh.split(","))}
    specs = PRESETS[options.preset](mod) if options.preset else spmd.presets.state(mod)
    sharded = spmd.shard(mod, spmd.Mesh(**axes), specs, profile=PROFILE)
    print(sharded.plan.explain())
    for i, loss in zip(range(options.steps), losses(sharded, state), strict=False):
        if i % 20 == 0 or i == options.steps - 1:
            print(f"step {i}: loss {loss:.3f}")


if __name__ == "__main__":
    main()
