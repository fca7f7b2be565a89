"""A checkpoint as it was downloaded: which files it has, and the shard of each worker read out of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

from spmd import checks
from spmd.checks import door, told
from spmd.errors import ShardingError
from spmd.placement.dtypes import numpy_dtype
from spmd.placement.layout import Array
from spmd.placement.mesh import Mesh
from spmd.plan.decisions import Leaf

from . import gguf_file, safetensors, torch_file
from .hostile import short_list
from .shards import Cut
from .tensors import Called, Named, Source, Tensor, parts_of

_TORCH = (".bin", ".pt", ".pth")
_WAY_OUT = "Give a .safetensors, .gguf or PyTorch file, or a folder of them."


def _given(where: str, given: Any) -> Any:
    """What `source` takes."""
    if isinstance(given, (str, Path, Source)) or (callable(given) and not isinstance(given, type)):
        return given
    if isinstance(given, Mapping):
        arrays = cast("Mapping[str, Any]", given)
        return _by_name(arrays)
    raise ShardingError(where, f"it takes a folder, a file or a function from names to arrays, and got {told(given)}", _WAY_OUT)


def _names(where: str, given: Any) -> Any:
    """What weights are made of."""
    if not isinstance(given, Mapping):
        raise ShardingError(where, f"it maps names of weights to names of tensors, and got {told(given)}")
    return parts_of(where, cast("Mapping[str, Any]", given))


def _by_name(arrays: Mapping[str, Any]) -> Callable[[str], Any]:
    def array(name: str) -> Any:
        if name not in arrays:
            raise ShardingError("weights", f"{name!r} is missing", f"There are {short_list(arrays)}.")
        return arrays[name]

    return array


@door(given=_given, names=checks.maybe(_names), convert=checks.flag)
def source(
    given: str | Path | Source | Mapping[str, Any] | Callable[[str], Any],
    names: Mapping[str, str | Sequence[str]] | None = None,
    convert: bool = False,
) -> Source:
    """What weights are read from: a folder or file of a checkpoint, or a function from names to arrays, called for one after another.

    `names` says of weights that have other names there which tensors stand one under another in them, as q, k and v in a fused weight.
    With `convert`, a tensor of another dtype than the program takes is converted. Raises `ShardingError` for files that are not as they
    should be; of the data nothing is read.
    """
    made = cast("Mapping[str, tuple[str, ...]]", names or {})
    if isinstance(given, Source) and not isinstance(given, str | Path):
        return Named(given, made, convert) if made or convert else given
    return Named(_files(Path(given)) if isinstance(given, str | Path) else Called(cast("Callable[[str], Any]", given)), made, convert)


def _files(path: Path) -> Source:
    """The source of a path."""
    if not path.exists():
        raise ShardingError(str(path), "there is no such file or folder", _WAY_OUT)
    if path.is_dir():
        return _folder(path)
    if path.name.endswith(".index.json"):
        return (torch_file.TorchFiles if path.name.endswith(".bin.index.json") else safetensors.Checkpoint).of_index(path)
    if path.suffix == ".safetensors":
        return safetensors.Checkpoint.of(path, [path])
    if path.suffix == ".gguf":
        return gguf_file.GGUF.of(path)
    if path.suffix in _TORCH:
        return torch_file.TorchFiles.of(path, [path])
    raise ShardingError(str(path), "its name says of no format that it is read", _WAY_OUT)


def _folder(path: Path) -> Source:
    """The checkpoint in a folder: as its index says, or all files of one format."""
    for name in (safetensors.INDEX, torch_file.INDEX):
        if (path / name).is_file():
            return _files(path / name)
    if found := sorted(path.glob("model*.safetensors")) or sorted(path.glob("*.safetensors")):
        return safetensors.Checkpoint.of(path, found)
    if found := sorted(path.glob("*.gguf")):
        if len(found) > 1:
            raise ShardingError(str(path), f"it has several GGUF files, {short_list(f.name for f in found)}", "Give one of them.")
        return gguf_file.GGUF.of(found[0])
    if found := sorted(path.glob("pytorch_model*.bin")):
        return torch_file.TorchFiles.of(path, found)
    raise ShardingError(str(path), "there is no checkpoint in it", _WAY_OUT)


class Shards(Protocol):
    """Where the shards of workers are read from."""

    def shape(self, leaf: Leaf) -> tuple[int, ...]:
        """The whole shape of a weight. Raises `ShardingError` unless it fits."""
        ...

    def shard(self, leaf: Leaf, mesh: Mesh, rank: int) -> Array:
        """What worker `rank` holds of a weight."""
        ...


@dataclass(frozen=True)
class OfSource:
    """Shards that are cut out of a source: only their own bytes are read."""

    source: Source

    def shape(self, leaf: Leaf) -> tuple[int, ...]:
        """The shape of the tensor."""
        return fitting(leaf, self.source.tensor(leaf.name, leaf.dtype)).shape

    def shard(self, leaf: Leaf, mesh: Mesh, rank: int) -> Array:
        """Read box by box."""
        tensor = fitting(leaf, self.source.tensor(leaf.name, leaf.dtype))
        assert leaf.sharding is not None
        return Cut.of(tensor.shape, leaf.sharding, mesh, rank).array(numpy_dtype(leaf.dtype), tensor.read)


def fitting(leaf: Leaf, tensor: Tensor) -> Tensor:
    """The tensor, if it is what the program takes. Raises `ShardingError`."""
    shape = leaf.shape or ()
    fits = len(shape) == len(tensor.shape) and all(isinstance(s, str) or s == n for s, n in zip(shape, tensor.shape, strict=True))
    if not fits or tensor.dtype != leaf.dtype:
        what = f"{tensor.where} is {tensor.dtype}{list(tensor.shape)}, and the program takes {leaf.dtype}{list(shape)}"
        way_out = "Convert it: source(..., convert=True)." if fits else "Give the weights of this model."
        raise ShardingError(f"weight {leaf.name!r}", what, way_out)
    return tensor
