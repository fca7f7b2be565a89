"""What stands beside our tokens a second is the same model, and a line says what was read."""

import numpy as np
import pytest

from benchmarks.llm import Candidate, bandwidth, row
from examples.llm.weights import assemble
from tests.examples.files import CONFIG
from tests.examples.reference import forward, random_checkpoint

IDS = [3, 14, 15, 9, 26, 5]


def test_the_peer_is_the_same_model():
    torch = pytest.importorskip("torch")
    from benchmarks.llm_torch import Llama

    checkpoint = random_checkpoint(CONFIG)
    peer = Llama(CONFIG, assemble(CONFIG, checkpoint.__getitem__, "test"), 4, compiled=False)
    with torch.inference_mode():
        found = [peer.step(torch.tensor(IDS[:4]), torch.arange(4))]
        found += [peer.step(torch.tensor([token]), torch.tensor([4 + i])) for i, token in enumerate(IDS[4:])]
    np.testing.assert_allclose(np.stack(found), forward(CONFIG, checkpoint, IDS)[3:], rtol=1e-4, atol=1e-4)


def test_a_line_of_the_table():
    """The median of three times: 4 steps in half a second read 80 bytes of 100 a second for each of two sequences at once."""
    one = Candidate("spmd", "q0f32", 2, 2, 10, lambda steps: (0.0, 0.0))
    assert row(one, [(1.0, 9.0), (2.0, 0.5), (4.0, 0.25)], 4, 100.0) == ("spmd", "q0f32", "2", "2", "128.0", "16.0", "0.80")
    assert bandwidth(1) > 1e6
