"""Files of PyTorch: read with ``weights_only``, so that they run no code, and mapped into memory, so that only what is used is read."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from spmd.checks import package, told
from spmd.errors import ShardingError
from spmd.placement.arrays import array_of
from spmd.placement.layout import Array

from .gather import Box, File
from .hostile import DOWNLOAD, file_name, json_file

INDEX = "pytorch_model.bin.index.json"


@dataclass(frozen=True)
class TorchTensor:
    """A tensor that PyTorch has mapped into memory."""

    where: str
    data: Any

    @property
    def shape(self) -> tuple[int, ...]:
        """The whole shape."""
        return tuple(map(int, self.data.shape))

    @property
    def dtype(self) -> str:
        """PyTorch's name is TVM's, too."""
        return str(self.data.dtype).removeprefix("torch.")

    def read(self, box: Box, out: Array) -> None:
        """Copy a box of it."""
        array = array_of(self.where, self.data[(*(slice(*ends) for ends in box), ...)])
        assert array is not None
        out[...] = array


@dataclass(frozen=True)
class TorchFiles:
    """One or more files, each a dict of tensors, as one source."""

    path: Path
    tensors: Mapping[str, TorchTensor]
    files: tuple[Path, ...]

    @classmethod
    def of(cls, path: Path, files: Sequence[Path]) -> TorchFiles:
        """Raises `ShardingError` for files that hold anything but tensors by name, or need code to be run."""
        found: dict[str, TorchTensor] = {}
        for file in files:
            for name, data in _loaded(file).items():
                if name in found:
                    raise ShardingError(str(path), f"tensor {name!r} is in {file.name} and in another file", "Keep one checkpoint.")
                found[name] = TorchTensor(f"tensor {name!r} of {file}", data)
        return cls(path, found, tuple(files))

    @classmethod
    def of_index(cls, index: Path) -> TorchFiles:
        """The files that an index names, which stand beside it."""
        placed = json_file(index).get("weight_map")
        if not isinstance(placed, dict):
            raise ShardingError(str(index), "it has no weight_map, from names of tensors to files", DOWNLOAD)
        files = dict.fromkeys(file_name(str(index), file) for file in cast("dict[str, Any]", placed).values())
        return cls.of(index.parent, [index.parent / file for file in files])

    def names(self) -> Collection[str]:
        """The names of all tensors."""
        return self.tensors.keys()

    def identity(self) -> str:
        """What tells its files from others: paths, sizes and times of change."""
        return " ".join(f"{file.resolve()}:{file.stat().st_size}:{file.stat().st_mtime_ns}" for file in self.files)

    def tensor(self, name: str, dtype: str) -> TorchTensor:
        """The tensor as it is stored."""
        return self.tensors[name]


def _loaded(path: Path) -> dict[str, Any]:
    """The tensors of a file by name."""
    File.of(path)
    torch = package("torch", str(path), "it is a file of PyTorch, which is not installed", "'spmd[torch]'.")
    try:
        found = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except Exception as error:  # of the many that its readers of archives and pickles raise
        first = f"{error}".splitlines()[0] if f"{error}" else ""
        what = f"PyTorch does not read it as weights only ({type(error).__name__}: {first})"
        raise ShardingError(str(path), what, "Give a file of tensors that torch.save wrote, or safetensors.") from None
    if not isinstance(found, dict):
        raise ShardingError(str(path), f"it holds {told(found)}, and no tensors by name", "Save a state_dict.")
    named = cast("dict[Any, Any]", found)
    odd = next((name for name, value in named.items() if not isinstance(name, str) or not isinstance(value, torch.Tensor)), None)
    if odd is not None:
        raise ShardingError(str(path), f"under {odd!r} it holds {told(named[odd])}, and no tensor", "Save the state_dict alone.")
    return cast("dict[str, Any]", named)
