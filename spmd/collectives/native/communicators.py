"""A library with NCCL's functions as Python calls it, and the communicators of this process."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Sequence

from spmd.collectives.slots import CollectiveError
from spmd.errors import ShardingError

from .nccl import Vendor

OLDEST = (2, 18)
"""The first version that splits communicators."""
_ID_BYTES = 128
_SUCCESS, _IN_PROGRESS = 0, 7


class _Id(ctypes.Structure):
    _fields_ = (("data", ctypes.c_uint8 * _ID_BYTES),)


_P, _I = ctypes.c_void_p, ctypes.c_int
_SIGNATURES: dict[str, tuple[type | None, list[type]]] = {
    "ncclGetVersion": (_I, [_P]),
    "ncclGetErrorString": (ctypes.c_char_p, [_I]),
    "ncclGetLastError": (ctypes.c_char_p, [_P]),
    "ncclGetUniqueId": (_I, [_P]),
    "ncclCommInitRank": (_I, [_P, _I, _Id, _I]),
    "ncclCommSplit": (_I, [_P, _I, _I, _P, _P]),
    "ncclCommGetAsyncError": (_I, [_P, _P]),
    "ncclCommAbort": (_I, [_P]),
    "ncclCommDestroy": (_I, [_P]),
}
"""What Python calls: what it gives, and takes."""


class Library:
    """A library with NCCL's functions, loaded for compiled code to find them, with all that is called looked up first: a missing function
    would end the process when it is called. `where` is what errors begin with. Raises `ShardingError`.
    """

    def __init__(self, vendor: Vendor, where: str, path: str = "") -> None:
        self.name, self._where = vendor.name.upper(), where
        path = path or vendor.find()
        try:
            self._c = ctypes.CDLL(path, ctypes.RTLD_GLOBAL)
        except OSError as error:
            way_out = f"pip install 'spmd[{vendor.name}]'." if vendor.package else "Put it where the system finds libraries."
            raise ShardingError(where, f"{path} does not load ({error})", way_out) from None
        needed = [*(s for s in vendor.table.symbols if s.startswith("nccl")), *_SIGNATURES]
        missing = [symbol for symbol in needed if not hasattr(self._c, symbol)]
        if missing:
            raise ShardingError(where, f"{path} has no {', '.join(missing)}", f"Use {self.name} {_dotted(OLDEST)} or later.")
        for symbol, (gives, takes) in _SIGNATURES.items():
            getattr(self._c, symbol).restype, getattr(self._c, symbol).argtypes = gives, takes
        self.version = self._version()
        if self.version < OLDEST:
            what = f"{path} is {self.name} {_dotted(self.version)}, which does not split communicators"
            raise ShardingError(where, what, f"Use {_dotted(OLDEST)} or later.")

    def __str__(self) -> str:
        return f"{self.name} {_dotted(self.version)}"

    def _version(self) -> tuple[int, ...]:
        number = ctypes.c_int()
        self._call("ncclGetVersion", ctypes.byref(number))
        return divided(number.value)

    def _call(self, symbol: str, *arguments: object, doing: str = "") -> None:
        code = getattr(self._c, symbol)(*arguments)
        if code != _SUCCESS:
            raise CollectiveError(f"{self._where}: {symbol} failed{f' {doing}' if doing else ''}: {self.said(code)}")

    def said(self, code: int) -> str:
        """An error in the library's words, with what went before it."""
        text, last = (_text(said) for said in (self._c.ncclGetErrorString(code), self._c.ncclGetLastError(None)))
        return (text or f"error {code}") + (f" ({last})" if last else "")

    def unique_id(self) -> bytes:
        """What all that are to meet must have: made by one of them."""
        made = _Id()
        self._call("ncclGetUniqueId", ctypes.byref(made))
        return bytes(made.data)

    def meet(self, size: int, unique: bytes, rank: int) -> int:
        """The communicator of all, when they have come. Its device is that of the calling thread."""
        made, there = ctypes.c_void_p(), _Id((ctypes.c_uint8 * _ID_BYTES)(*unique))
        self._call("ncclCommInitRank", ctypes.byref(made), size, there, rank, doing=f"as worker {rank} of {size}")
        return made.value or 0

    def split(self, comm: int, color: int, key: int) -> int:
        """The communicator of those of one color, in the order of their keys. All of `comm` do this together."""
        made = ctypes.c_void_p()
        self._call("ncclCommSplit", comm, color, key, ctypes.byref(made), None)
        return made.value or 0

    def asynchronous(self, comm: int) -> str:
        """What has gone wrong since, in words; nothing where nothing has."""
        code = ctypes.c_int()
        failed = self._c.ncclCommGetAsyncError(comm, ctypes.byref(code))
        number = failed or code.value
        return "" if number in (_SUCCESS, _IN_PROGRESS) else self.said(number)

    def abort(self, comm: int) -> None:
        """End what it does on the device, whoever else is there."""
        self._c.ncclCommAbort(comm)

    def destroy(self, comm: int) -> None:
        """Give it back."""
        self._call("ncclCommDestroy", comm)


class Communicators:
    """Those of a process: that of all workers, and those that are split from it, each made once."""

    def __init__(self, library: Library, rank: int, size: int, share: Callable[[bytes | None], bytes]) -> None:
        """`share` gives all processes what worker 0 has."""
        self._library, self._rank = library, rank
        self._turn = threading.Lock()  # a thread watches those that another makes and gives back
        self._world = library.meet(size, share(library.unique_id() if rank == 0 else None), rank)
        self._split: dict[tuple[tuple[int, ...], ...], int] = {}

    def over(self, groups: Sequence[Sequence[int]]) -> int:
        """That of this process's group."""
        key = tuple(map(tuple, groups))
        if key not in self._split:
            color = next(i for i, group in enumerate(key) if self._rank in group)
            made = self._library.split(self._world, color, key[color].index(self._rank))
            with self._turn:
                self._split[key] = made
        return self._split[key]

    def problem(self) -> str:
        """What the library reports of any of them, in words."""
        with self._turn:
            texts = map(self._library.asynchronous, self._all())
            return next((f"{self._library.name} reports on worker {self._rank}: {text}" for text in texts if text), "")

    def abort(self) -> None:
        """End all that they do."""
        for comm in self._taken():
            self._library.abort(comm)

    def close(self) -> None:
        """Give them back."""
        for comm in self._taken():
            self._library.destroy(comm)

    def _all(self) -> list[int]:
        return [comm for comm in (*self._split.values(), self._world) if comm]

    def _taken(self) -> list[int]:
        with self._turn:
            found, self._world = self._all(), 0
            self._split.clear()
            return found


def divided(version: int) -> tuple[int, ...]:
    """NCCL's number of a version as its parts: 22803 is 2.28.3."""
    return version // 10000, version // 100 % 100, version % 100


def _text(said: bytes | None) -> str:
    return (said or b"").decode(errors="replace").strip()


def _dotted(version: Sequence[int]) -> str:
    return ".".join(map(str, version))
