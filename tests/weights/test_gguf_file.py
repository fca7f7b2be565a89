"""GGUF: what the package wrote is read, quantized tensors too; a header that lies is refused by name."""

import struct
from pathlib import Path

import numpy as np
import pytest

from spmd import Mesh, ShardingError, weights
from spmd.weights.shards import Cut
from spmd.weights.tensors import whole
from tests.weights.files import plan_of, random_array

gguf = pytest.importorskip("gguf")
QUANTIZED = ["Q4_0", "Q4_1", "Q8_0"]


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from gguf.quants import quantize

    path = tmp_path_factory.mktemp("gguf") / "model.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_array("tokenizer.ggml.tokens", ["a", "bc", ""])
    writer.add_array("scores", [1.0, 2.0])
    writer.add_uint32("general.alignment", 64)
    writer.add_tensor("plain", random_array((3, 5), "float32"))
    writer.add_tensor("half", random_array((4, 2, 3), "float16"))
    for name in QUANTIZED:
        kind = gguf.GGMLQuantizationType[name]
        writer.add_tensor(name, quantize(random_array((6, 96), "float32"), kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_what_the_package_wrote(file: Path) -> None:
    found = weights.source(file)
    assert set(found.names() or ()) == {"plain", "half", *QUANTIZED}
    assert np.array_equal(whole(found.tensor("plain", "float32")), random_array((3, 5), "float32"))
    assert np.array_equal(whole(found.tensor("half", "float16")), random_array((4, 2, 3), "float16"))
    reader = {tensor.name: tensor for tensor in gguf.GGUFReader(file).tensors}
    for name in QUANTIZED:
        assert np.array_equal(whole(found.tensor(name, "uint8")), reader[name].data)
        floats = gguf.quants.dequantize(reader[name].data, reader[name].tensor_type)
        assert np.array_equal(whole(found.tensor(name, "float32")), floats)
        for rank in range(4):  # columns 24 to 48 begin and end within blocks of 32
            box = ((1, 5), (24 * rank, 24 * rank + 24))
            part = np.empty((4, 24), "float32")
            found.tensor(name, "float32").read(box, part)
            assert np.array_equal(part, floats[1:5, 24 * rank : 24 * rank + 24])


def test_raw_blocks_are_cut_between_blocks(file: Path) -> None:
    plan = plan_of(Mesh(tp=2), {"Q4_0": ((6, 54), "uint8", "[-, tp:54~18]")})
    shards = [weights.source(file).tensor("Q4_0", "uint8")]
    (leaf,) = plan.functions["main"].params
    local = [Cut.of((6, 54), leaf.sharding, plan.mesh, rank).array(np.dtype("uint8"), shards[0].read) for rank in range(2)]
    data = whole(shards[0])
    assert np.array_equal(local[0], data[:, :36]) and np.array_equal(local[1][:, :18], data[:, 36:]) and not local[1][:, 18:].any()


def text(value: bytes, length: int | None = None) -> bytes:
    return struct.pack("<Q", len(value) if length is None else length) + value


def info(name: bytes = b"t", dims: tuple[int, ...] = (2,), kind: int = 0, offset: int = 0, count: int | None = None) -> bytes:
    sizes = struct.pack(f"<I{len(dims)}Q", len(dims) if count is None else count, *dims)
    return text(name) + sizes + struct.pack("<IQ", kind, offset)


def model(*infos: bytes, entries: tuple[bytes, ...] = (), tensors: int | None = None, keys: int | None = None, data: int = 64) -> bytes:
    head = b"GGUF" + struct.pack("<IQQ", 3, len(infos) if tensors is None else tensors, len(entries) if keys is None else keys)
    head += b"".join(entries) + b"".join(infos)
    return head + bytes(-len(head) % 32 + data)


def pair(key: bytes, kind: int, value: bytes) -> bytes:
    return text(key) + struct.pack("<I", kind) + value


HUGE = 1 << 60
HOSTILE: dict[str, tuple[bytes, str]] = {
    "empty": (b"", r"the magic number would take 4 bytes from byte 0 on, and the file has 0: it is truncated"),
    "no GGUF": (b"PK\3\4" + bytes(20), r"it begins with b'PK\\x03\\x04' and version 0, not as GGUF 2 or 3\."),
    "many tensors": (model(info(), tensors=HUGE), rf"it is said to have {HUGE} tensors, and 1048576 at most are read\."),
    "too many tensors": (
        model(info(), tensors=1000),
        r"1000 tensors and 0 entries would take 24000 bytes from byte 24 on",
    ),
    "many entries": (model(info(), keys=HUGE), r"1 tensors and 1152921504606846976 entries would take"),
    "a long array": (
        model(info(), entries=(pair(b"tokens", 9, struct.pack("<IQ", 8, HUGE)),)),
        rf"entry 'tokens' would take {8 * HUGE} bytes from byte",
    ),
    "an array of numbers": (
        model(info(), entries=(pair(b"scores", 9, struct.pack("<IQ", 6, HUGE)),)),
        rf"entry 'scores' would take {4 * HUGE} bytes from byte",
    ),
    "an array of arrays": (
        model(info(), entries=(pair(b"x", 9, struct.pack("<IQ", 9, 1)),)),
        r"entry 'x' is of the type 9, which GGUF does not have there\.",
    ),
    "a long text": (model(info(), entries=(pair(b"x", 8, text(b"", HUGE)),)), rf"entry 'x' would take {HUGE} bytes"),
    "a long name": (model(text(b"t", HUGE)), rf"the name of a tensor is said to have {HUGE} bytes\."),
    "many dimensions": (model(info(count=5)), r"tensor 't' has 5 dimensions, and GGUF allows 4\."),
    "a huge size": (model(info(dims=(HUGE, HUGE))), rf"tensor 't' ends at byte {4 * HUGE * HUGE} of the data, and the file has 64 of them"),
    "past the end": (model(info(offset=60)), r"tensor 't' ends at byte 68 of the data, and the file has 64 of them: it is truncated"),
    "overlap": (model(info(), info(b"u", offset=4)), r"the tensors 't' and 'u' overlap, at byte 4 of the data\."),
    "twice": (model(info(), info(offset=32)), r"tensor 't' comes twice\."),
    "half a block": (model(info(dims=(40,), kind=2)), r"tensor 't': its shape is \[40\], and blocks have 32 elements\."),
    "no type": (model(info(kind=77)), r"tensor 't': its type is 77, which gguf does not know\."),
    "no alignment": (
        model(info(), entries=(pair(b"general.alignment", 4, struct.pack("<I", 24)),)),
        r"its alignment is 24, and no power of two up to 2\^20\.",
    ),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_header_that_lies(tmp_path: Path, case: str) -> None:
    data, said = HOSTILE[case]
    (tmp_path / "bad.gguf").write_bytes(data)
    with pytest.raises(ShardingError, match=said) as caught:
        weights.source(tmp_path)
    assert "bad.gguf" in str(caught.value)


def test_several_files(tmp_path: Path) -> None:
    for name in ("a.gguf", "b.gguf"):
        (tmp_path / name).write_bytes(model(info()))
    with pytest.raises(ShardingError, match=r"it has several GGUF files, 'a\.gguf', 'b\.gguf'\. Give one of them\."):
        weights.source(tmp_path)
