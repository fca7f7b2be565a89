"""What enters and leaves a function that workers run: checked against its signature, cut for each worker, joined again."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import tvm
import tvm_ffi
from numpy.typing import NDArray

from spmd.checks import told
from spmd.collectives.backend import Backend
from spmd.errors import ShardingError, nearest
from spmd.placement import layout
from spmd.placement.arrays import array_of, host
from spmd.placement.mesh import Mesh
from spmd.placement.sharding import Sharding, Split
from spmd.plan.decisions import Leaf, LeafTree, Signature
from spmd.plan.sizes import evaluated

from .tensors import Room, tensor_of

Array = NDArray[Any]
Shape = tuple[int, ...]
_SMALL = 1 << 16
"""Bytes of an argument of which all processes compare the content, too, such as numbers of tokens."""


@dataclass(eq=False)
class Storage:
    """Memory of the workers, of which there may be several handles."""

    given: str = ""
    """Who was given it, and for what: empty while it may be used."""
    shared: bool = False
    """Whether it may be a constant of the program, which nobody may write."""


@dataclass(frozen=True, eq=False)
class Handle:
    """A value that stays on the workers: `objects` has what each worker of this process holds, by rank.

    It goes into a function as an argument. `tree` is the part of a signature that it was made for; `shape` is that of
    the global tensor. Both are None where it is not a tensor, such as a KV cache. `parts` are the handles of what is in a tuple.
    """

    objects: tuple[Any, ...]
    backend: Backend = field(repr=False)
    tree: LeafTree | None = None
    shape: Shape | None = None
    parts: tuple[Handle, ...] = ()
    storage: Storage = field(default_factory=Storage, repr=False)

    @property
    def sharding(self) -> Sharding | None:
        """How the workers hold it; None where it is not one tensor."""
        return self.tree.sharding if isinstance(self.tree, Leaf) else None

    @property
    def mesh(self) -> Mesh:
        """The workers."""
        return self.backend.mesh

    def numpy(self) -> Array:
        """The global tensor, joined."""
        self.check("Handle.numpy")
        if not isinstance(self.tree, Leaf) or self.tree.sharding is None or self.shape is None:
            raise ShardingError("Handle.numpy", "this is a handle of something that is not one tensor")
        return joined(self.objects, self.tree.sharding, self.backend, self.shape)

    def check(self, where: str) -> None:
        """Raise `ShardingError` where it was donated."""
        given = next((handle.storage.given for handle in (self, *self.parts) if handle.storage.given), "")
        if given:
            way_out = "Use what that gave, or take .numpy() of it before."
            raise ShardingError(where, f"what it is a handle of was donated to {given}", way_out)


class Binder:
    """Checks the arguments of one call and cuts them: every error is raised before anything runs.

    `divisible` says by what symbolic sizes were said to be divisible, by name.
    """

    def __init__(self, function: str, signature: Signature, backend: Backend, divisible: Mapping[str, int]) -> None:
        self.function, self.signature, self.backend, self.divisible = function, signature, backend, divisible
        self.sizes: dict[str, tuple[int, str]] = {}  # of symbolic dimensions, and which parameter said so

    def bind(self, given: Sequence[Any]) -> list[list[Any]]:
        """The arguments of each worker of this process, by rank."""
        params = self.signature.params
        if len(given) != len(params):
            names = ", ".join(names_of(param) for param in params)
            raise ShardingError(f"{self.function}()", f"it takes {len(params)} arguments ({names}), and got {len(given)}")
        columns = [self._place(tree, arg) for tree, arg in zip(params, given, strict=True)]
        passed = self._passed()
        return [[*(column[i] for column in columns), *passed] for i in range(len(self.backend.ranks))]

    def _passed(self) -> list[Any]:
        """What tells each worker the sizes that no shard does, if there are any."""
        names = self.signature.sizes
        untold = [name for name in names if name not in self.sizes]
        if untold:
            what = f"no argument tells the size {untold[0]!r}"
            raise ShardingError(f"{self.function}()", what, "Pass arrays, or handles of single tensors.")
        return [tvm.runtime.ShapeTuple([self.sizes[name][0] for name in names])] if names else []

    def shape_of(self, leaf: Leaf, shard: Sequence[int]) -> Shape:
        """The global shape of a result, of which workers hold this much."""
        assert leaf.sharding is not None
        known = {name: size for name, (size, _) in self.sizes.items()}

        def whole(local: int, split: Split | None, size: int | str) -> int:
            if split is None or not split.is_measured:
                return local if split is None else split.whole_size(local, self.backend.mesh)
            found = evaluated(str(size), known)
            if found is None:
                what = f"no argument tells the size {size} of its result {leaf.name!r}"
                raise ShardingError(f"{self.function}()", what, "Return it whole.")
            return found

        return tuple(whole(int(n), split, size) for n, split, size in zip(shard, leaf.sharding.dims, leaf.shape or (), strict=True))

    def in_order(self, args: Sequence[Any], named: Mapping[str, Any] | None) -> Sequence[Any]:
        """Arguments in order, then by name, as Python has them; a tuple has the name of its parameter."""
        if not named:
            return args
        where, names = f"{self.function}()", list(self.signature.names)
        for name in named:
            if name not in names:
                raise ShardingError(where, f"it has no parameter {name!r}", nearest(name, names))
            if names.count(name) > 1:
                raise ShardingError(where, f"several of its parameters have the name {name!r}", "Pass them in order.")
            if name in names[: len(args)]:
                raise ShardingError(where, f"parameter {name!r} is given twice, in its place and by name")
        missing = [name for name in names[len(args) :] if name not in named]
        if missing:
            raise ShardingError(where, f"it got no argument for {', '.join(map(repr, missing))}", f"Its parameters are {', '.join(names)}.")
        return [*args, *(named[name] for name in names[len(args) :])]

    def _place(self, tree: LeafTree, arg: Any) -> Sequence[Any]:
        if isinstance(arg, Handle):
            return self._handle(tree, arg)
        if not isinstance(tree, tuple):
            return self._leaf(tree, arg)
        if not isinstance(arg, (tuple, list, tvm_ffi.Array)) or len(arg) != len(tree):
            got = f"{len(arg)} values" if isinstance(arg, (tuple, list, tvm_ffi.Array)) else told(arg)
            raise ShardingError(self._where(tree), f"it takes a tuple of {len(tree)} values, and got {got}")
        columns = [self._place(part, value) for part, value in zip(tree, arg, strict=True)]
        return [[column[i] for column in columns] for i in range(len(self.backend.ranks))]

    def _leaf(self, leaf: Leaf, arg: Any) -> Sequence[Any]:
        if leaf.shape is None or leaf.sharding is None:
            return plain_everywhere(arg, self.backend)
        return place(self.array(leaf, arg), leaf.sharding, self.backend)

    def array(self, leaf: Leaf, arg: Any, role: str = "parameter") -> Array:
        """The tensor that is given for a leaf, checked; `role` is what errors call it."""
        where = f"{self.function}(), {role} {leaf.name!r}"
        array = array_of(where, arg)
        if array is None:
            raise ShardingError(where, f"it takes {described(leaf)}, and got {told(arg)}")
        self.check(leaf, array.shape, array.dtype.name)
        return array

    def _handle(self, tree: LeafTree, handle: Handle) -> Sequence[Any]:
        found = self._fitting(tree, handle)
        return [_copied(one) for one in found] if isinstance(tree, Leaf) and tree.donated and handle.storage.shared else found

    def _fitting(self, tree: LeafTree, handle: Handle) -> Sequence[Any]:
        """What a handle is of, checked."""
        handle.check(self._where(tree))
        if handle.backend is not self.backend:
            raise ShardingError(self._where(tree), "its handle belongs to other workers", "Load it into these.")
        if any(leaf.written for leaf in leaves(tree)) and len(set(map(id, handle.objects))) < len(handle.objects):
            what = "the function writes it in place, and its handle is memory that workers share"
            raise ShardingError(self._where(tree), what, f"Load it for this function: load(..., function={self.function!r}).")
        if handle.tree is tree and not any(map(self._is_symbolic, leaves(tree))):
            return handle.objects
        if isinstance(tree, tuple):
            if not _alike(tree, handle.tree):
                raise ShardingError(self._where(tree), "its handle was made for something else", "Load it for this function.")
            for part, one in zip(tree, handle.parts, strict=False):  # which tell sizes
                self._handle(part, one)
            return handle.objects
        if tree.shape is None:
            return handle.objects
        if not isinstance(handle.tree, Leaf) or handle.shape is None:
            raise ShardingError(self._where(tree), f"it takes {described(tree)}, and got a handle of an object")
        self.check(tree, handle.shape, handle.tree.dtype)
        if handle.tree.sharding != tree.sharding:
            what = f"it is placed as {tree.sharding}, and its handle as {handle.tree.sharding}"
            raise ShardingError(self._where(tree), what, "Pass handle.numpy() to move it.")
        return handle.objects

    def _is_symbolic(self, leaf: Leaf) -> bool:
        return any(isinstance(s, str) for s in leaf.shape or ())

    def check(self, leaf: Leaf, shape: Shape, dtype: str) -> None:
        """Raise unless a tensor of `shape` and `dtype` fits, along with those checked before."""
        expected, where = leaf.shape or (), self._where(leaf)
        known = [size if isinstance(name, str) else name for name, size in zip(expected, shape, strict=False)]
        fits = len(shape) == len(expected) and known == list(shape)
        if not fits or dtype != leaf.dtype:
            raise ShardingError(where, f"it takes {described(leaf)}, and got {dtype} {_text(shape)}")
        splits = leaf.sharding.dims if leaf.sharding is not None else (None,) * len(shape)
        for name, size, split in zip(expected, shape, splits, strict=True):
            counted = split.size if split is not None and not split.is_known else 1
            said = self.divisible.get(name, 1) if isinstance(name, str) else 1
            if size % counted or size % said:
                what = f"it takes {described(leaf)} in multiples of {counted if size % counted else said}, and got {dtype} {_text(shape)}"
                raise ShardingError(where, what, "Pad it, or shard with another `divisible`.")
        for name, size in zip(expected, shape, strict=True):
            if isinstance(name, str) and name.isidentifier():  # an expression such as "2 * n" is checked by the program
                known, said = self.sizes.setdefault(name, (size, leaf.name))
                if known != size:
                    what = f"it takes {described(leaf)}, and got {dtype} {_text(shape)}: {name} is {known} in {said!r}"
                    raise ShardingError(where, what)

    def _where(self, tree: LeafTree) -> str:
        return f"{self.function}(), parameter {names_of(tree)}"


def facts(args: Sequence[Any]) -> list[str]:
    """What processes that call the same function must agree on: numbers, sizes, and what is in small arrays. Handles were placed by all."""
    found: list[str] = []
    for arg in args:
        if isinstance(arg, (tuple, list)):
            found += facts(arg)
        elif not isinstance(arg, Handle):
            array = array_of("an argument", arg)
            found.append(repr(arg) if array is None else f"{array.dtype.name} {_text(array.shape)}{_content(array)}")
    return found


def _content(array: Array) -> str:
    small = 0 < array.nbytes <= _SMALL
    return f" of content {hashlib.blake2b(np.ascontiguousarray(array).tobytes(), digest_size=4).hexdigest()}" if small else ""


def plain_everywhere(arg: Any, backend: Backend) -> list[Any]:
    """An argument that is no sharded tensor, the same on every worker: a handle's objects, a copy of a tensor, a value."""
    if isinstance(arg, Handle):
        arg.check("call_packed")
        return list(arg.objects)
    if isinstance(arg, (tuple, list)) and all(isinstance(i, (int, np.integer)) for i in arg):
        return [tvm.runtime.ShapeTuple([int(i) for i in arg])] * len(backend.ranks)
    if isinstance(arg, np.generic):
        return [arg.item()] * len(backend.ranks)
    array = array_of("an argument that is no sharded tensor", arg)
    return [arg] * len(backend.ranks) if array is None else place(array, None, backend)


def place(array: Array, sharding: Sharding | None, backend: Backend, share: bool = False, room: Room | None = None) -> list[Any]:
    """`array` cut and put on the device of each worker of this process; None is the whole of it everywhere.

    With `share`, workers on one device hold one copy of what is replicated. `room` is for what stays.
    """
    if sharding is None or sharding.is_replicated:
        return placed(lambda rank: array, backend, share, room)
    return placed(lambda rank: layout.cut(array, sharding, backend.mesh, rank), backend, room=room)


def placed(shard: Callable[[int], Array], backend: Backend, share: bool = False, room: Room | None = None) -> list[Any]:
    """What `shard` gives for each worker of this process, on its device; with `share`, workers on one device hold that of the first."""
    found: list[Any] = []
    kept: dict[str, Any] = {}
    tensor = room.tensor if room is not None else tensor_of
    for rank in backend.ranks:
        device = backend.device(rank)
        if share and str(device) in kept:
            found.append(kept[str(device)])
            continue
        found.append(tensor(shard(rank), device))
        kept[str(device)] = found[-1]
    return found


def returned(tree: LeafTree, values: Sequence[Any], binder: Binder, keep: bool) -> Any:
    """The result of a function from what each worker of this process returned: global arrays, tuples, values, handles. `binder` is who
    bound its arguments.

    With `keep`, tensors stay where they are and come as handles.
    """
    backend = binder.backend
    if isinstance(tree, tuple):
        return tuple(returned(part, [value[i] for value in values], binder, keep) for i, part in enumerate(tree))
    if tree.shape is None or tree.sharding is None:
        return wrapped(values, backend, keep)
    shape = binder.shape_of(tree, values[0].shape)
    placed = tree.sharding.told({name: size for name, (size, _) in binder.sizes.items()})
    if keep:
        storage = Storage(shared=tree.shared)
        return Handle(tuple(values), backend, tree if placed == tree.sharding else replace(tree, sharding=placed), shape, storage=storage)
    return joined(values, placed, backend, shape)


def _copied(tensor: Any) -> Any:
    """A tensor in memory of its own, on the same device."""
    return tensor.copyto(tensor.device)


def wrapped(values: Sequence[Any], backend: Backend, keep: bool) -> Any:
    """A result that is no sharded tensor: the first worker's number, text or shape, or a handle of everybody's object."""
    first = values[0]
    if first is None or isinstance(first, (bool, int, float, str)):
        return first
    if isinstance(first, tvm.runtime.ShapeTuple):
        return tuple(int(i) for i in first)
    if isinstance(first, tvm.runtime.Tensor) and not keep:
        return first.numpy()
    return Handle(tuple(values), backend)


def joined(values: Sequence[Any], sharding: Sharding, backend: Backend, shape: Shape) -> Array:
    """The global array, of this shape, of a tensor that is placed by `sharding`."""
    if sharding.is_replicated:
        return values[0].numpy()
    return layout.join(backend.everyone([host(value) for value in values]), sharding, backend.mesh, shape)


def leaves(tree: LeafTree) -> Iterator[Leaf]:
    """The leaves of a tree, in order."""
    if isinstance(tree, tuple):
        for part in tree:
            yield from leaves(part)
    else:
        yield tree


def names_of(tree: LeafTree) -> str:
    """What an error calls a parameter: its name, or the first and last name of a tuple."""
    found = [repr(leaf.name) for leaf in leaves(tree)]
    return ", ".join(found) if len(found) < 3 else f"({found[0]}, ..., {found[-1]})"


def _alike(tree: LeafTree, other: LeafTree | None) -> bool:
    if isinstance(tree, tuple):
        return isinstance(other, tuple) and len(tree) == len(other) and all(_alike(a, b) for a, b in zip(tree, other, strict=True))
    return isinstance(other, Leaf) and (tree.shape, tree.dtype, tree.sharding) == (other.shape, other.dtype, other.sharding)


def described(leaf: Leaf) -> str:
    """The dtype and shape of a leaf, for errors."""
    return f"{leaf.dtype} {_text(leaf.shape or ())}"


def _text(shape: Sequence[int | str]) -> str:
    return f"[{', '.join(map(str, shape))}]"
