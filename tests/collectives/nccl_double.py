"""A double of NCCL for machines without a GPU: its C functions, made by TVM from TIR, on the memory of the CPU, carried by MPI.

It shows that programs call what NCCL has, with the arguments that it takes, in an order that does not hang; nothing of NCCL runs.
A PrimFunc whose attribute `calling_conv` is 1 keeps its name and its parameters, so a library of them has NCCL's binary interface. The id
of `ncclCommInitRank`, a struct passed by value, is on the stack on x86-64, and no parameter here.
"""

import os
import tempfile
from collections.abc import Callable
from typing import Any

import numpy as np
import tvm
import tvm_ffi
from mpi4py import MPI
from tvm.script.ir_builder import IRBuilder
from tvm.target import Target
from tvm.tirx.script import builder as T

from spmd.collectives import register_backend
from spmd.collectives.native.communicators import Library
from spmd.collectives.native.mpi import process
from spmd.collectives.native.nccl import Vendor
from spmd.collectives.nccl import NCCLBackend

VERSION = 22803
TYPES = ["INT8_T", "UINT8_T", "INT32_T", "UINT32_T", "INT64_T", "UINT64_T", "UINT16_T", "FLOAT", "DOUBLE"]
"""By NCCL's numbers. The sixth, of 16-bit floats, is moved and never reduced."""
SIZES = [1, 1, 4, 4, 8, 8, 2, 4, 8]
KINDS = ["SUM", "PROD", "MAX", "MIN"]
DEPTH, PENDING, GROUPS, REPORTED = 0, 1, 2, 3
"""Of `STATE`: groups that are open, messages in flight, groups so far, what `ncclCommGetAsyncError` gives."""
STATE = np.zeros(8, np.int64)
REQUESTS = np.zeros(1024, np.int64)
STATUSES = np.zeros(1 << 16, np.uint8)
SCRATCH = np.zeros(1, np.int64)


def _numbers(array: np.ndarray) -> Any:
    """The memory of an array, in TIR."""
    ints = tvm.ir.PointerType(tvm.ir.PrimType("int64"))
    return T.decl_buffer((len(array),), "int64", data=T.reinterpret(ints, T.uint64(array.ctypes.data)))


def _address(array: np.ndarray) -> Any:
    return T.reinterpret("handle", T.uint64(array.ctypes.data))


def _chosen(number: Any, values: list[Any]) -> Any:
    found = values[0]
    for i, value in enumerate(values[1:], 1):
        found = T.Select(number == i, value, found)
    return found


def _function(name: str, params: str, body: Callable[..., None]) -> Any:
    """A C function that returns 0, or -1 where it demands in vain. Of its parameters, those without a type are pointers."""
    with IRBuilder() as made, T.prim_func(s_tir=True):
        T.func_name(name)
        kinds = {"int32": T.int32, "uint64": T.uint64, "int64": T.int64}
        pairs = [param.partition(":")[::2] for param in params.split()]
        args = [T.arg(own, kinds[kind]() if kind else T.handle()) for own, kind in pairs]
        T.func_attr({"global_symbol": name, "calling_conv": 1, "tirx.is_scheduled": True})
        T.func_ret(tvm.ir.PrimType("int32"))
        body(*args)
        T.Return(T.int32(0))
    return made.get()


def _demand(condition: Any) -> None:
    with T.Assert(condition, "the double refuses"):
        pass


class Double:
    """The functions, for the MPI of this process: types, reductions and communicators are its handles."""

    def __init__(self) -> None:
        self.handle = process().handle
        self.is_int = MPI._sizeof(MPI.COMM_WORLD) == 4

    def comm(self, given: Any) -> Any:
        """NCCL's communicators are pointers, and MPI's handles in them."""
        return T.cast(given, "int32") if self.is_int else given

    def call(self, symbol: str, *args: Any) -> None:
        _demand(T.bind(T.call_extern("int32", symbol, *args)) == T.int32(0))

    def type_of(self, number: Any) -> Any:
        return _chosen(number, [self.handle(getattr(MPI, name)) for name in TYPES])

    def kind_of(self, number: Any) -> Any:
        return _chosen(number, [self.handle(getattr(MPI, name)) for name in KINDS])

    def module(self) -> tvm.IRModule:
        """All that `Library` looks up."""
        made = [*self.management(), *self.collectives(), *self.messages()]
        return tvm.IRModule({function.attrs["global_symbol"]: function for function in made})

    def management(self) -> list[Any]:
        def write(address: Any, value: Any) -> None:
            ints = tvm.ir.PointerType(tvm.ir.PrimType("int32"))
            T.buffer_store(T.decl_buffer((1,), "int32", data=T.bind(T.reinterpret(ints, address), ints)), value, [T.int64(0)])

        def identify(unique: Any) -> None:
            T.evaluate(T.call_extern("handle", "memset", unique, T.int32(7), T.uint64(128)))

        def destroy(comm: Any) -> None:
            T.buffer_store(_numbers(SCRATCH), comm, [T.int64(0)])
            self.call("MPI_Comm_free", _address(SCRATCH))

        def report(_comm: Any, code: Any) -> None:
            write(code, T.cast(_numbers(STATE)[T.int64(REPORTED)], "int32"))

        world = self.handle(MPI.COMM_WORLD)
        return [
            _function("ncclGetVersion", "version", lambda version: write(version, T.int32(VERSION))),
            _function("ncclGetErrorString", "code:int32", lambda code: None),
            _function("ncclGetLastError", "comm", lambda comm: None),
            _function("ncclGetUniqueId", "unique", identify),
            _function("ncclCommInitRank", "comm size:int32 rank:int32", lambda comm, size, rank: self.call("MPI_Comm_dup", world, comm)),
            _function(
                "ncclCommSplit",
                "comm:int64 color:int32 key:int32 made config",
                lambda comm, color, key, made, config: self.call("MPI_Comm_split", self.comm(comm), color, key, made),
            ),
            _function("ncclCommGetAsyncError", "comm code", report),
            _function("ncclCommAbort", "comm", lambda comm: None),
            _function("ncclCommDestroy", "comm:int64", destroy),
        ]

    def collectives(self) -> list[Any]:
        def reduce(symbol: str) -> Callable[..., None]:
            def body(source: Any, target: Any, count: Any, kind: Any, op: Any, comm: Any, stream: Any) -> None:
                _demand(T.And(stream == T.int64(0), kind != T.int32(6)))
                self.call(symbol, source, target, T.cast(count, "int32"), self.type_of(kind), self.kind_of(op), self.comm(comm))

            return body

        def gather(source: Any, target: Any, count: Any, kind: Any, comm: Any, stream: Any) -> None:
            _demand(stream == T.int64(0))
            many, what = T.cast(count, "int32"), self.type_of(kind)
            self.call("MPI_Allgather", source, many, what, target, many, what, self.comm(comm))

        def broadcast(source: Any, target: Any, count: Any, kind: Any, root: Any, comm: Any, stream: Any) -> None:
            _demand(stream == T.int64(0))
            T.evaluate(T.call_extern("handle", "memcpy", target, source, count * _chosen(kind, [T.uint64(s) for s in SIZES])))
            self.call("MPI_Bcast", target, T.cast(count, "int32"), self.type_of(kind), root, self.comm(comm))

        def clear(target: Any, value: Any, many: Any, stream: Any) -> None:
            _demand(stream == T.int64(0))
            T.evaluate(T.call_extern("handle", "memset", target, value, many))

        def copy(target: Any, source: Any, many: Any, kind: Any, stream: Any) -> None:
            _demand(T.And(stream == T.int64(0), kind == T.int32(1)))
            T.evaluate(T.call_extern("handle", "memcpy", target, source, many))

        head = "source target count:uint64 kind:int32"
        return [
            _function("ncclAllReduce", f"{head} op:int32 comm:int64 stream:int64", reduce("MPI_Allreduce")),
            _function("ncclReduceScatter", f"{head} op:int32 comm:int64 stream:int64", reduce("MPI_Reduce_scatter_block")),
            _function("ncclAllGather", f"{head} comm:int64 stream:int64", gather),
            _function("ncclBroadcast", f"{head} root:int32 comm:int64 stream:int64", broadcast),
            _function("doubleMemcpy", "target source many:uint64 kind:int32 stream:int64", copy),
            _function("doubleMemset", "target value:int32 many:uint64 stream:int64", clear),
        ]

    def messages(self) -> list[Any]:
        """Those of a group go on together, as those of NCCL, and are waited for at its end; one outside of a group at once."""

        def message(symbol: str) -> Callable[..., None]:
            def body(data: Any, count: Any, kind: Any, peer: Any, comm: Any, stream: Any) -> None:
                state = _numbers(STATE)
                _demand(stream == T.int64(0))
                request = T.bind(T.handle_add_byte_offset(_address(REQUESTS), state[T.int64(PENDING)] * T.int64(8)))
                self.call(symbol, data, T.cast(count, "int32"), self.type_of(kind), peer, T.int32(0), self.comm(comm), request)
                T.buffer_store(state, state[T.int64(PENDING)] + T.int64(1), [T.int64(PENDING)])
                with T.If(state[T.int64(DEPTH)] == T.int64(0)), T.Then():
                    wait(state)

            return body

        def wait(state: Any) -> None:
            self.call("MPI_Waitall", T.cast(state[T.int64(PENDING)], "int32"), _address(REQUESTS), _address(STATUSES))
            T.buffer_store(state, T.int64(0), [T.int64(PENDING)])

        def start() -> None:
            state = _numbers(STATE)
            for field in (DEPTH, GROUPS):
                T.buffer_store(state, state[T.int64(field)] + T.int64(1), [T.int64(field)])

        def end() -> None:
            state = _numbers(STATE)
            _demand(state[T.int64(DEPTH)] == T.int64(1))
            wait(state)
            T.buffer_store(state, T.int64(0), [T.int64(DEPTH)])

        params = "data count:uint64 kind:int32 peer:int32 comm:int64 stream:int64"
        return [
            _function("ncclSend", params, message("MPI_Isend")),
            _function("ncclRecv", params, message("MPI_Irecv")),
            _function("ncclGroupStart", "", start),
            _function("ncclGroupEnd", "", end),
        ]


VENDOR = Vendor("nccl", "the double of NCCL", "", "cpu", "", "", "doubleMemset", "doubleMemcpy")
FOLDER = tempfile.TemporaryDirectory(prefix="nccl-double-")


class DoubleBackend(NCCLBackend):
    """`NCCLBackend` on the CPU, by the double."""

    name = "nccl-double"
    vendor = VENDOR

    def load(self) -> Library:
        path = os.path.join(FOLDER.name, "libnccl_double.so")
        if not os.path.exists(path):
            tvm.compile(Double().module(), "llvm").export_library(path)
        return Library(VENDOR, self.where, path)

    def place(self) -> int:
        return 0

    def use_device(self) -> None:
        assert self._number == 0

    def device(self, rank: int) -> Any:
        return tvm_ffi.device("cpu", 0)

    def accept(self, target: Target) -> None:
        assert "cpu" in target.keys


register_backend(DoubleBackend.name, DoubleBackend)
