"""Trees of anything, as Relax nests tuples."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")
Tree = T | tuple["Tree[T]", ...]


def leaves(tree: Tree[T]) -> list[T]:
    """The leaves of a tree, in order."""
    return [leaf for part in tree for leaf in leaves(part)] if isinstance(tree, tuple) else [tree]


def paths(tree: Tree[Any]) -> list[tuple[int, ...]]:
    """The way to each leaf, in order: the fields of the tuples around it, outermost first."""
    return [(i, *path) for i, part in enumerate(tree) for path in paths(part)] if isinstance(tree, tuple) else [()]


def named_leaves(name: str, tree: Tree[T]) -> list[tuple[str, T]]:
    """Each leaf with its name as plans and specs have it: ``name``, and then the fields of the tuples around it, as ``name[1][0]``."""
    if isinstance(tree, tuple):
        return [pair for i, part in enumerate(tree) for pair in named_leaves(f"{name}[{i}]", part)]
    return [(name, tree)]


def map_tree(tree: Tree[T], function: Callable[[T], Any]) -> Any:
    """The same tree with `function` applied to every leaf."""
    return tuple(map_tree(part, function) for part in tree) if isinstance(tree, tuple) else function(tree)
