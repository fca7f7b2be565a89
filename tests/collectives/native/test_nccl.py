"""NCCL as it is installed: its header, its library up to where it needs a GPU. What is carried by it is tested on a double."""

import importlib.util
import re
from pathlib import Path

import pytest

from spmd.collectives import CollectiveError
from spmd.collectives.native.communicators import Library, divided
from spmd.collectives.native.nccl import NCCL, NUMBERS, RCCL
from spmd.errors import ShardingError

FOUND = NCCL.find()
installed = pytest.mark.skipif(not Path(FOUND).is_file(), reason="nvidia-nccl-cu13 is not installed: pip install 'spmd[nccl]'")
PARAMETERS = {
    "source": ("sendbuff",),
    "target": ("recvbuff", "buff"),
    "count": ("count", "sendcount"),
    "part": ("recvcount", "count"),
    "type": ("datatype",),
    "kind": ("op",),
    **dict.fromkeys(("peer", "to", "from"), ("peer",)),
    **{name: (name,) for name in ("root", "comm", "stream")},
}
"""What nccl.h calls each argument."""


@pytest.fixture
def header() -> str:
    return (Path(FOUND).parents[1] / "include" / "nccl.h").read_text()


@installed
def test_the_table_is_that_of_the_header(header: str) -> None:
    for name, number in NUMBERS.items():
        assert re.search(rf"\b{name}\s*=\s*{number}\b", header), name
    for function in (f for functions in NCCL.table.functions.values() for f in functions if f.symbol.startswith("nccl")):
        declared = re.search(rf"ncclResult_t\s+{function.symbol}\(([^)]*)\)", header)
        assert declared, function.symbol
        names = [re.findall(r"\w+", parameter)[-1] for parameter in declared[1].split(",")]
        words = ["source" if word == "source" or (word == "target" and function.symbol == "ncclSend") else word for word in function.words]
        assert len(names) == len(words)
        for name, word in zip(names, words, strict=True):
            assert name in PARAMETERS[word], f"{function.symbol}: {word} is {name}"


@installed
def test_the_library_up_to_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    library = Library(NCCL, "here")
    assert re.fullmatch(r"NCCL 2\.\d+\.\d+", str(library)) and library.version >= (2, 18)
    assert library.said(5).startswith("invalid usage")
    unique = library.unique_id()
    assert len(unique) == 128
    with pytest.raises(CollectiveError, match=r"here: ncclCommInitRank failed as worker 0 of 1: unhandled cuda error"):
        library.meet(1, unique, 0)
    monkeypatch.setattr(Library, "_version", lambda _: (2, 17, 1))
    with pytest.raises(ShardingError, match=r"is NCCL 2\.17\.1, which does not split communicators\. Use 2\.18 or later\."):
        Library(NCCL, "here")


def test_a_version_is_three_numbers() -> None:
    assert divided(22803) == (2, 28, 3)


def test_a_library_that_is_not_there() -> None:
    with pytest.raises(ShardingError, match=r"backend 'nccl': nowhere\.so does not load \(.*\)\. pip install 'spmd\[nccl\]'\."):
        Library(NCCL, "backend 'nccl'", "nowhere.so")
    if importlib.util.find_spec("rocm") is None:
        with pytest.raises(ShardingError, match=r"librccl\.so\.1 does not load \(.*\)\. Put it where the system finds libraries\."):
            Library(RCCL, "backend 'rccl'")


def test_a_library_that_lacks_a_function() -> None:
    with pytest.raises(ShardingError, match=r"libc\.so\.6 has no ncclGroupStart, .*ncclCommSplit.*\. Use NCCL 2\.18 or later\."):
        Library(NCCL, "here", "libc.so.6")


def test_rccl_is_the_same_table_under_other_names() -> None:
    mine, theirs = NCCL.table, RCCL.table
    assert [s for s in mine.symbols if s not in theirs.symbols] == ["cudaMemsetAsync", "cudaMemcpyAsync"]
    assert [s for s in theirs.symbols if s not in mine.symbols] == ["hipMemsetAsync", "hipMemcpyAsync"]
    assert (mine.types, mine.kinds) == (theirs.types, theirs.kinds)
