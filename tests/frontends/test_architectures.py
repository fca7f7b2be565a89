"""Some 130 kinds of models of Hugging Face transformers, tiny ones: by their own plan and by none, their numbers are those of PyTorch.

They take long together; ``-k "causal and gemma"`` chooses some.
"""

import numpy as np
import pytest

import spmd
from spmd.annotate.importers import from_huggingface
from spmd.testing.plain import UNOPTIMIZED, linked
from tests.frontends.architectures import CONFIGURATIONS, REFUSED, made

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
BUSY = spmd.Profile("busy", flops=1e7, memory_bandwidth=1e8, link_bandwidth=1e9, link_latency=1e-6)
"""Workers so slow beside their links that the smallest model is split."""


WELL_KNOWN = ("encoder bert", "causal gpt2", "sequences t5", "picture vit", "other clip", "other whisper", "causal mamba", "picture resnet")
WELL_KNOWN += ("causal llama", "causal gemma2", "causal qwen3", "causal mixtral")


def compare(model, given, imported, workers, specs, quick=False):
    """Runs a model on some workers, and gives what it was sharded to; `quick`: what is not optimized is compiled in half of the time."""
    with torch.no_grad():
        expected = [x.numpy() for x in torch.utils._pytree.tree_leaves(model(**given))]
    sharded = spmd.shard(imported.mod, workers, specs, profile=BUSY)
    with spmd.workers(linked(spmd.build(sharded, UNOPTIMIZED)) if quick else sharded) as w:
        found = w["main"](*given.values(), *w.load(imported.named(model.state_dict())))
    found = [np.asarray(x) for x in (found if isinstance(found, (list, tuple)) else [found])]
    for got, want in zip(found, expected, strict=True):
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-5 * max(1.0, np.abs(want).max()))
    return sharded


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in CONFIGURATIONS if name not in REFUSED])
def test_numbers_are_those_of_the_model(name):
    model, given = made(transformers, torch, name)
    imported = spmd.from_torch(model, (), kwargs=given)
    own = from_huggingface(model.tp_plan, imported.weights).specs
    for specs in (None, own) if own else (None,):
        compare(model, given, imported, 2, specs, quick=True)


@pytest.mark.slow
@pytest.mark.parametrize("name", WELL_KNOWN)
def test_on_three_and_four_workers(name):
    """Heads, channels and experts that do not divide are split in units, or stay whole; others are split."""
    model, given = made(transformers, torch, name)
    imported = spmd.from_torch(model, (), kwargs=given)
    for workers in (3, 4):
        plan = compare(model, given, imported, workers, None).plan
        assert plan.collectives and any("tp" in str(sharding) for sharding in plan.params.values())


@pytest.mark.slow
@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_says_why(name):
    model, given = made(transformers, torch, name)
    with pytest.raises(spmd.ShardingError, match=REFUSED[name]):
        spmd.from_torch(model, (), kwargs=given)
