"""A model that came from another framework."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import tvm

from spmd.errors import ShardingError


@dataclass(frozen=True)
class ImportedModel:
    """A module that `shard` takes, and its weights by the names that they have in the model.

    ``w.load(imported.weights)`` places them; those of another checkpoint of the same model go by ``w.load(imported.named(state_dict))``.
    """

    mod: tvm.IRModule
    """One function, ``main``, whose first `num_input` parameters are the inputs."""
    weights: dict[str, Any]
    """Name -> array, in the order of the parameters after the inputs: parameters, buffers and constants of the model."""
    same: Mapping[str, str] = field(default_factory=dict[str, str])
    """Other names of weights that are tied: name -> the one that `weights` has."""
    unsaved: frozenset[str] = frozenset()
    """Names of weights that no checkpoint has, such as constants."""
    unused: frozenset[str] = frozenset()
    """Names of weights that checkpoints have, and the module does not read, such as how many batches a norm has seen."""

    def __repr__(self) -> str:
        inputs = [var.name for var in self.mod["main"].params[: -len(self.weights) or None]]
        return f"<ImportedModel main({', '.join(inputs)}) with {len(self.weights)} weights>"

    def named(self, checkpoint: Mapping[str, Any]) -> dict[str, Any]:
        """The weights of a checkpoint of this model; what is in no checkpoint, such as a constant, is the model's own.

        Raises `ShardingError` for a name that the model does not have, and for a parameter that the checkpoint lacks.
        """
        found: dict[str, Any] = {}
        for name, array in checkpoint.items():
            own = self.same.get(name, name)
            if own in self.unused:
                continue
            if own not in self.weights:
                raise ShardingError(f"checkpoint, {name!r}", "the model has no such weight", "Give the checkpoint of this model.")
            found.setdefault(own, array)
        lacking = [name for name in self.weights if name not in found and name not in self.unsaved]
        if lacking:
            raise ShardingError("checkpoint", f"it lacks {', '.join(map(repr, lacking[:5]))}", "Give the checkpoint of this model.")
        return {name: found.get(name, array) for name, array in self.weights.items()}
