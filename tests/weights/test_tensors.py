"""Sources of every kind, and what is made of tensors without reading them whole."""

from pathlib import Path

import numpy as np
import pytest

from spmd import ShardingError, weights
from spmd.weights.tensors import whole
from tests.weights.files import checkpoint, random_array

Q, K, V = (random_array((rows, 4), "float32", rows) for rows in (6, 2, 3))


def test_fused_and_converted(tmp_path: Path) -> None:
    found = weights.source(checkpoint(tmp_path, {"q": Q, "k": K, "v": V, "n": Q}), {"qkv": ["q", "k", "v"], "norm": "n"}, convert=True)
    assert set(found.names() or ()) == {"qkv", "norm"}
    assert np.array_equal(whole(found.tensor("qkv", "float32")), np.concatenate([Q, K, V]))
    assert np.array_equal(whole(found.tensor("norm", "float16")), Q.astype("float16"))
    part = np.empty((4, 2), "float32")
    found.tensor("qkv", "float32").read(((5, 9), (1, 3)), part)
    assert np.array_equal(part, np.concatenate([Q, K, V])[5:9, 1:3])


def test_functions_and_arrays() -> None:
    asked: list[str] = []

    def give(name: str) -> np.ndarray:
        asked.append(name)
        return {"q": Q, "k": K, "v": V}[name]

    found = weights.source(give, {"qkv": ["q", "k", "v"]})
    assert found.names() is None and found.identity() is None
    assert np.array_equal(whole(found.tensor("qkv", "float32")), np.concatenate([Q, K, V]))
    assert asked == ["q", "k", "v"]
    found.tensor("v", "float32")
    assert asked == ["q", "k", "v"]  # the last array is kept
    assert np.array_equal(whole(weights.source({"q": Q}).tensor("q", "float32")), Q)
    with pytest.raises(ShardingError, match=r"weights: 'k' is missing\. There are 'q'\."):
        weights.source({"q": Q}).tensor("k", "float32")
    with pytest.raises(ShardingError, match=r"weight 'q': the function gave None for it, and no array\."):
        weights.source(lambda _: None).tensor("q", "float32")


def test_what_is_no_source(tmp_path: Path) -> None:
    with pytest.raises(ShardingError, match=r"there is no such file or folder\. Give a \.safetensors"):
        weights.source(tmp_path / "nowhere")
    with pytest.raises(ShardingError, match=r"there is no checkpoint in it\."):
        weights.source(tmp_path)
    (tmp_path / "x.txt").write_text("")
    with pytest.raises(ShardingError, match=r"x\.txt: its name says of no format that it is read\."):
        weights.source(tmp_path / "x.txt")
    with pytest.raises(
        ShardingError, match=r"source\(\), given: it takes a folder, a file or a function from names to arrays, and got int"
    ):
        weights.source(3)
    with pytest.raises(ShardingError, match=r"source\(\), names: weight 'x' is to be made of int 3\."):
        weights.source({"q": Q}, {"x": 3})
    with pytest.raises(ShardingError, match=r"source\(\), names: it maps names of weights to names of tensors, and got"):
        weights.source({"q": Q}, ["x"])


def test_what_does_not_fit(tmp_path: Path) -> None:
    made = checkpoint(tmp_path, {"q": Q, "k": K.T.copy(), "h": K.astype("float16")})
    with pytest.raises(ShardingError, match=rf"{made}: there is no tensor 'x' in it\. Did you mean"):
        weights.source(made).tensor("x", "float32")
    with pytest.raises(ShardingError, match=r"there is no tensor 'v' in it, of which weight 'qkv' is made\."):
        weights.source(made, {"qkv": ["q", "v"]}).tensor("qkv", "float32")
    text = r"weight 'qk': tensor 'q' of .*model\.safetensors is float32\[6, 4\] and tensor '{}' of .* is {}, and they are to stand"
    for other, what in (("k", r"float32\[4, 2\]"), ("h", r"float16\[2, 4\]")):
        with pytest.raises(ShardingError, match=text.format(other, what)):
            weights.source(made, {"qk": ["q", other]}).tensor("qk", "float32")
