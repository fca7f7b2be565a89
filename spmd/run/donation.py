"""Memory that a call is given for good: whose handles are of no use after it, and which handles are of one memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import tvm

from spmd.errors import ShardingError
from spmd.plan.decisions import Leaf, LeafTree, Signature

from .arguments import Handle, leaves

Span = tuple[int, int]


def donates(signature: Signature) -> bool:
    """Whether a function is given memory for its results."""
    return any(leaf.donated for tree in signature.params for leaf in leaves(tree))


class Donation:
    """The handles among the arguments of one call of `function`, those that it is given for good among them.

    Raises `ShardingError` where memory that is given for good is passed for something else, too.
    """

    def __init__(self, function: str, signature: Signature, args: Sequence[Any]) -> None:
        self._passed = [pair for tree, arg in zip(signature.params, args, strict=False) for pair in _pairs(tree, arg)]
        self._wholes = [arg for tree, arg in zip(signature.params, args, strict=False) if any(leaf.donated for leaf in leaves(tree))]
        self._function = function
        spans = [span_of(handle) for _, handle in self._passed]
        for i, (leaf, handle) in enumerate(self._passed):
            for j, (other, same) in enumerate(self._passed) if leaf.donated else ():
                if i != j and (handle.storage is same.storage or _overlap(spans[i], spans[j])):
                    what = f"its handle is passed for {other.name!r}, too, and {leaf.donated!r} is written into its memory"
                    raise ShardingError(f"{function}(), parameter {leaf.name!r}", what, "Load one for each.")

    def give(self) -> None:
        """Make the handles that are given for good unusable; the workers hold what they are of until the call ends."""
        for leaf, handle in self._passed:
            if leaf.donated:
                handle.storage.given = f"{self._function}(), for its result {leaf.donated!r}"
                _release(handle)
        for whole in self._wholes:
            if isinstance(whole, Handle):
                _release(whole)

    def share(self, results: Any) -> None:
        """Say of handles of results that lie in the memory of an argument, or of another result, that they do."""
        there = [(span_of(handle), handle) for _, handle in self._passed]
        for handle in _handles(results):
            span = span_of(handle)
            for other, one in there:
                if _overlap(span, other) and not one.storage.given:
                    object.__setattr__(handle, "storage", one.storage)
            there.append((span, handle))


def span_of(handle: Handle) -> Span:
    """Where the part of the first worker begins and ends in memory; nowhere for what is no tensor."""
    first = handle.objects[0] if handle.objects else None
    if first is None or not isinstance(first, tvm.runtime.Tensor):
        return (0, 0)
    begin = int(first.data_ptr())
    return (begin, begin + int(first.numel()) * ((int(first.dtype.bits) * int(first.dtype.lanes) + 7) // 8))


def _release(handle: Handle) -> None:
    object.__setattr__(handle, "objects", ())


def _overlap(one: Span, other: Span) -> bool:
    return max(one[0], other[0]) < min(one[1], other[1])


def _pairs(tree: LeafTree, arg: Any) -> Iterator[tuple[Leaf, Handle]]:
    """The leaves for which handles are passed."""
    if isinstance(tree, Leaf):
        if isinstance(arg, Handle):
            yield tree, arg
    else:
        for part, one in zip(tree, arg.parts if isinstance(arg, Handle) else arg, strict=False):
            yield from _pairs(part, one)


def _handles(results: Any) -> Iterator[Handle]:
    if isinstance(results, tuple):
        for part in results:
            yield from _handles(part)
    elif isinstance(results, Handle):
        yield results
