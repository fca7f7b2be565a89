"""Safetensors: what the library wrote is read; a header that lies is refused by name, before memory is taken."""

import json
import os
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from spmd import ShardingError, weights
from spmd.weights.safetensors import Slot, contents, header
from spmd.weights.tensors import whole
from tests.weights.files import checkpoint, random_array

ARRAYS = {
    "a": random_array((3, 4), "float32"),
    "b/../b": random_array((5,), "bfloat16"),
    "c": random_array((), "int64"),
    "d": random_array((0, 2), "uint8"),
    "e": random_array((2, 2), "float8_e4m3fn"),
    "f": random_array((4,), "bool"),
}


@pytest.mark.parametrize("files", [1, 3])
def test_what_the_library_wrote(tmp_path: Path, files: int) -> None:
    found = weights.source(checkpoint(tmp_path, ARRAYS, files))
    assert set(found.names() or ()) == set(ARRAYS)
    for name, array in ARRAYS.items():
        tensor = found.tensor(name, array.dtype.name)
        assert (tensor.shape, tensor.dtype) == (array.shape, array.dtype.name)
        assert whole(tensor).tobytes() == array.tobytes()


def test_the_library_reads_what_we_write(tmp_path: Path) -> None:
    slots = [Slot(name, array.shape, array.dtype.name) for name, array in ARRAYS.items() if name != "e"]  # which it cannot give to NumPy
    head = header(slots, {"who": "we"})
    assert len(head) % 8 == 0
    (tmp_path / "x.safetensors").write_bytes(head + b"".join(ARRAYS[slot.name].tobytes() for slot in slots))
    found = load_file(tmp_path / "x.safetensors")
    assert all(found[slot.name].tobytes() == ARRAYS[slot.name].tobytes() for slot in slots)
    assert contents(tmp_path / "x.safetensors").metadata == {"who": "we"}
    with pytest.raises(ShardingError, match=r"weight 'x': safetensors files hold no int4\."):
        header([Slot("x", (2,), "int4")], {})
    with pytest.raises(ShardingError, match=r"weight '__metadata__': safetensors files use this name for themselves\."):
        header([Slot("__metadata__", (2,), "int8")], {})


def entry(dtype: Any = "F32", shape: Any = (2,), begin: Any = 0, end: Any = 8) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def raw(head: bytes, data: int = 8) -> bytes:
    return len(head).to_bytes(8, "little") + head + bytes(data)


def said(tensors: dict[str, Any], data: int = 8) -> bytes:
    return raw(json.dumps(tensors).encode(), data)


HUGE = 1 << 60
HOSTILE: dict[str, tuple[bytes, str]] = {
    "empty": (b"", r"its header is said to have 0 bytes, and the file has 0\. It is no safetensors file, or truncated"),
    "huge header": (HUGE.to_bytes(8, "little") + b"{}", rf"its header is said to have {HUGE} bytes, and the file has 10\."),
    "cut header": (raw(b'{"a": 1}', 0)[:-3], r"its header is said to have 8 bytes, and the file has 13\."),
    "no JSON": (raw(b"\x80\x04."), r"bad\.safetensors, header: it is no JSON \("),
    "deep JSON": (raw(b"[" * 100_000), r"header: it is no JSON \(.*recursion"),
    "a list": (raw(b"[1]"), r"header: it is a JSON list, and no object\."),
    "a long number": (raw(b'{"a": 1' + b"0" * 5000 + b"}"), r"header: it is no JSON \(Exceeds the limit"),
    "twice": (raw(b'{"a": 1, "a": 2}'), r"header: it is no JSON \('a' comes twice\)"),
    "huge size": (
        said({"a": entry(shape=[1 << 61], end=1 << 63)}),
        r"tensor 'a' ends at byte 9223372036854775808 of the data, and the file has 8",
    ),
    "sizes that overflow": (
        said({"a": entry(shape=[1 << 32, 1 << 32])}),
        r"tensor 'a': F32\[4294967296, 4294967296\] has 73786976294838206464 bytes",
    ),
    "no size": (said({"a": entry(shape=[True])}), r"tensor 'a': its shape is \[True\], and no list of at most 64 sizes\."),
    "negative size": (said({"a": entry(shape=[-2])}), r"tensor 'a': its shape is \[-2\]"),
    "many dimensions": (said({"a": entry(shape=[1] * 65)}), r"tensor 'a': its shape is \[1, 1, .*\.\.\., and no list of at most 64 sizes"),
    "past the end": (said({"a": entry()}, 7), r"tensor 'a' ends at byte 8 of the data, and the file has 7 of them: it is truncated"),
    "overlap": (said({"a": entry(), "b": entry(begin=4, end=12)}, 12), r"the tensors 'a' and 'b' overlap, at byte 4 of the data\."),
    "the same place": (said({"a": entry(), "b": entry()}), r"the tensors 'a' and 'b' overlap, at byte 0 of the data\."),
    "a hole": (said({"a": entry(), "b": entry(begin=12, end=20)}, 20), r"bytes 8 to 12 of the data, before 'b', belong to no tensor\."),
    "more": (said({"a": entry()}, 9), r"bytes 8 to 9 of the data belong to no tensor\."),
    "backwards": (said({"a": entry(begin=8, end=0)}), r"tensor 'a': F32\[2\] has 8 bytes, and its data_offsets are 8 to 0\."),
    "before the data": (said({"a": entry(begin=-8, end=0)}), r"tensor 'a': F32\[2\] has 8 bytes, and its data_offsets are -8 to 0\."),
    "another size": (said({"a": entry(end=4)}), r"tensor 'a': F32\[2\] has 8 bytes, and its data_offsets are 0 to 4\."),
    "no dtype": (said({"a": entry(dtype=["F32"])}), r"tensor 'a': its dtype is \['F32'\]\. Those that are read are BOOL"),
    "no offsets": (said({"a": entry(end="8")}), r"tensor 'a': its data_offsets are no two numbers\."),
    "other fields": (said({"a": {"dtype": "F32"}}), r"tensor 'a': its entry has other fields than dtype, shape and data_offsets\."),
    "metadata": (said({"__metadata__": {"a": 1}}, 0), r"its __metadata__ is no object of texts\."),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_header_that_lies(tmp_path: Path, case: str) -> None:
    data, text = HOSTILE[case]
    (tmp_path / "bad.safetensors").write_bytes(data)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ShardingError, match=text) as caught:
        weights.source(tmp_path / "bad.safetensors")
    assert "bad.safetensors" in str(caught.value)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10  # kB


def index(**change: Any) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        path = folder / "model.safetensors.index.json"
        found = json.loads(path.read_text())
        found["weight_map"] |= change
        path.write_text(json.dumps(found))

    return write


def outside(folder: Path) -> None:
    checkpoint(folder.parent / "outside", {"z": ARRAYS["a"]})
    index(z="../outside/model.safetensors")(folder)


INDEXES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "a path": (outside, r"index\.json: it names the file '\.\./outside/model\.safetensors', which is no name of a file in its folder"),
    "an absolute path": (index(a="/etc/passwd"), r"it names the file '/etc/passwd', which is no name of a file in its folder"),
    "the folder": (index(a=".."), r"it names the file '\.\.', which is no name"),
    "another system's path": (index(a="c:\\model"), r"it names the file 'c:\\\\model', which is no name"),
    "no text": (index(a=["x"]), r"it names the file \['x'\], which is no name"),
    "a file that is not there": (index(a="x.safetensors"), r"x\.safetensors: there is no such file\."),
    "a tensor that is not there": (
        index(z="model-00001-of-00002.safetensors"),
        r"index\.json: it says that tensor 'z' is in model-00001-of-00002\.safetensors, and it is not\.",
    ),
    "no map": (lambda f: (f / "model.safetensors.index.json").write_text("{}"), r"index\.json: it has no weight_map"),
    "no JSON": (lambda f: (f / "model.safetensors.index.json").write_text("PK\x03"), r"index\.json: it is no JSON"),
    "twice": (
        lambda f: (f / "model.safetensors.index.json").write_text('{"weight_map": {"a": "x", "a": "y"}}'),
        r"index\.json: it is no JSON \('a' comes twice\)",
    ),
    "a pipe": (
        lambda f: ((f / "model-00001-of-00002.safetensors").unlink(), os.mkfifo(f / "model-00001-of-00002.safetensors")),
        r"model-00001-of-00002\.safetensors: it is no regular file\.",
    ),
}


@pytest.mark.parametrize("case", INDEXES)
def test_an_index_that_lies(tmp_path: Path, case: str) -> None:
    change, text = INDEXES[case]
    change(checkpoint(tmp_path / "model", ARRAYS, 2))
    with pytest.raises(ShardingError, match=text):
        weights.source(tmp_path / "model")


def test_files_without_an_index(tmp_path: Path) -> None:
    checkpoint(tmp_path, ARRAYS, 2)
    (tmp_path / "model.safetensors.index.json").unlink()
    assert set(weights.source(tmp_path).names() or ()) == set(ARRAYS)
    checkpoint(tmp_path, {"a": ARRAYS["a"]})
    with pytest.raises(ShardingError, match=r"tensor 'a' is in model-00001-of-00002\.safetensors and in model\.safetensors\."):
        weights.source(tmp_path)


def test_a_file_that_becomes_shorter_while_it_is_read(tmp_path: Path) -> None:
    tensor = weights.source(checkpoint(tmp_path, {"a": np.ones((8, 8), "float32")})).tensor("a", "float32")
    os.truncate(tmp_path / "model.safetensors", 200)
    with pytest.raises(ShardingError, match=r"tensor 'a' of .*model\.safetensors: the file ends at byte 200, and had 328 bytes when"):
        whole(tensor)
