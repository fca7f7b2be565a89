"""The operators of a function as a tree of modules, in which equal layers stand once.

Relax keeps no modules. They are read off the names of weights (``model.layers.3.mlp.up.weight``) and, where an importer named values after
modules, of values (``model_layers_3_mlp_up_linear``). A module is a range of consecutive operators, so that modules make no circle.
"""

from __future__ import annotations

from collections.abc import Container, Hashable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from .repeats import LEAST_HIDDEN, Repeat, repeats

Path = tuple[str, ...]
"""The names of modules from the outermost to the innermost."""
_LOOSE = 6
"""Operators of no module, one after another among modules, that are put into a group of their own."""


@dataclass(frozen=True)
class Group:
    """Operators from `start` on: those of a module, or of equal ones that stand one after another.

    `names` has a name for each of the equal ones; `size` is the number of operators of one, and `children` is what the first of them
    holds: operators by number, and groups. The others hold the same, so many operators further on.
    """

    name: str
    start: int
    size: int
    children: tuple[Group | int, ...]
    names: tuple[str, ...]

    @property
    def stop(self) -> int:
        """The operator behind its last."""
        return self.start + self.size * len(self.names)


@dataclass(frozen=True)
class Operator:
    """What tells the module of an operator: its name and the values that it takes and makes."""

    name: str
    operands: Sequence[str]
    results: Sequence[str]


def module_tree(operators: Sequence[Operator], weights: Container[str], kinds: Sequence[Hashable]) -> Group:
    """The tree of the operators of a function; those of equal `kinds` are equal."""
    return _Tree(_paths(operators, weights), kinds).group("", 0, len(operators), 0)


def _paths(operators: Sequence[Operator], weights: Container[str]) -> list[Path]:
    """The module of each operator: that of its weights or of its name, else what it stands between."""
    own, shared = _weights_of(operators, weights)
    modules = {_module_of(weight) for those in (*own, *shared) for weight in those}
    by_name = {"_".join(path[:i]): path[:i] for path in modules for i in range(1, len(path) + 1)}

    def module(those: Sequence[str]) -> Path | None:
        return _common([_module_of(weight) for weight in those]) if those else None

    found = [_longest(op.name, by_name) or module(those) for op, those in zip(operators, own, strict=True)]
    layers: dict[str, set[Path]] = {}
    for path, those in zip(_filled(found), shared, strict=True):
        for weight in those:
            layers.setdefault(weight, set()).add(_layer(path))
    for i, those in enumerate(shared):
        if found[i] is None:  # what several layers share is a table, and says nothing of where they are
            found[i] = module([weight for weight in those if len(layers[weight] - {()}) < 2])
    return _filled(found)


def _layer(path: Path) -> Path:
    """The outermost numbered module of these; none where none has a number."""
    return path[: next((i + 1 for i, name in enumerate(path) if name.isdigit()), 0)]


def _filled(found: Sequence[Path | None]) -> list[Path]:
    """The modules of those that nothing tells, by what they stand between."""
    after: list[Path] = []
    following: Path = ()
    for path in reversed(found):
        following = path if path is not None else following
        after.append(following)
    made: list[Path] = []
    before: Path = ()
    for path, following in zip(found, reversed(after), strict=True):
        made.append(_between(before, following) if path is None else path)
        before = path if path is not None else before
    return made


def _weights_of(operators: Sequence[Operator], weights: Container[str]) -> tuple[list[list[str]], list[list[str]]]:
    """The weights of each operator, also those that it takes transposed, cast or dequantized, that tell its module, and the others.

    Those of a layer do, and those that no other operator takes.
    """
    behind: dict[str, list[str]] = {}
    """What is made of weights alone -> these."""
    taken: list[list[str]] = []
    users: dict[str, int] = {}
    for op in operators:
        own = [behind.get(v) or [v] for v in op.operands if v in behind or v in weights]
        those = list(dict.fromkeys(w for each in own for w in each))
        taken.append(those)
        if op.operands and len(own) == len(op.operands):
            behind.update(dict.fromkeys(op.results, those))
        else:
            users.update((weight, users.get(weight, 0) + 1) for weight in those)

    def tells(weight: str) -> bool:
        return users.get(weight, 0) <= 1 or any(map(str.isdigit, _module_of(weight)))

    return [[w for w in those if tells(w)] for those in taken], [[w for w in those if not tells(w)] for those in taken]


def _module_of(weight: str) -> Path:
    return tuple(weight.split(".")[:-1])


def _longest(name: str, modules: dict[str, Path]) -> Path | None:
    """The innermost module after which a value is named."""
    words = name.split("_")
    return next((found for i in range(len(words) - 1, 0, -1) if (found := modules.get("_".join(words[:i])))), None)


def _common(paths: Sequence[Path]) -> Path:
    """The module around all of these."""
    shortest = min(paths, key=len)
    same = (len({path[i] for path in paths}) == 1 for i in range(len(shortest)))
    return shortest[: next((i for i, equal in enumerate(same) if not equal), len(shortest))]


def _between(before: Path, after: Path) -> Path:
    """Where an operator stands that follows one module and precedes another: around both, but what ends a layer is a part of it."""
    around = _common([before, after])
    return (around + _layer(before[len(around) :])) or around


class _Tree:
    def __init__(self, paths: Sequence[Path], kinds: Sequence[Hashable]) -> None:
        self.paths, self.kinds = paths, kinds

    def group(self, name: str, start: int, stop: int, depth: int) -> Group:
        """The module of this name, whose operators have paths of which it is the part before `depth`."""
        found: list[Group | int] = []
        for part, ops in groupby(range(start, stop), lambda i: self.paths[i][depth : depth + 1]):
            inside = list(ops)
            found += [self.group(part[0], inside[0], inside[-1] + 1, depth + 1)] if part else inside
        children = self._gathered(self._folded(found))
        made = Group(name, start, stop - start, tuple(children), (name,))
        if len(children) == 1 and isinstance(only := children[0], Group) and name:
            names = tuple(f"{name}.{one}" for one in only.names)
            return replace(only, name=f"{name}.{only.name}", names=names)
        return made

    def _folded(self, items: list[Group | int]) -> list[Group | int]:
        """Equal items that follow each other, or rows of items that do, as one."""
        made: list[Group | int] = []
        at = 0
        for repeat in repeats([self._kind(item) for item in items], least=1):
            stop = repeat.start + repeat.period * repeat.count
            loose = all(isinstance(item, int) for item in items[repeat.start : stop]) and any(isinstance(item, Group) for item in items)
            if self._size(items[repeat.start + repeat.period : stop]) >= LEAST_HIDDEN and not loose:
                made += [*items[at : repeat.start], self._as_one(items, repeat)]
                at = stop
        return [*made, *items[at:]]

    def _as_one(self, items: list[Group | int], repeat: Repeat) -> Group:
        parts = [items[i : i + repeat.period] for i in range(repeat.start, repeat.start + repeat.period * repeat.count, repeat.period)]
        first = parts[0]
        if repeat.period == 1 and isinstance(only := first[0], Group):
            names = tuple(part[0].name for part in parts if isinstance(part[0], Group))
            return replace(only, name="*" if only.name.isdigit() else only.name, names=names)
        rows = [[item.name for item in part if isinstance(item, Group)] for part in parts]
        names = tuple(f"{row[0]}-{row[-1]}" if len(row) == repeat.period else str(i) for i, row in enumerate(rows))
        return Group("*", _start(first[0]), self._size(first), tuple(first), names)

    def _gathered(self, items: list[Group | int]) -> list[Group | int]:
        """Operators of no module that stand among modules, in groups where they are many."""
        if not any(isinstance(item, Group) for item in items):
            return items
        made: list[Group | int] = []
        for loose, run in groupby(items, lambda item: isinstance(item, int)):
            found = list(run)
            name = f"{len(found)} operators"
            together = loose and len(found) >= _LOOSE
            made += [Group(name, _start(found[0]), len(found), tuple(found), (name,))] if together else found
        return made

    def _kind(self, item: Group | int) -> Hashable:
        """What equal items have in common: their operators and how these stand in modules, but not the number of a layer."""
        if isinstance(item, int):
            return self.kinds[item]
        name = "*" if item.name.isdigit() else item.name
        return (name, len(item.names), *map(self._kind, item.children))

    def _size(self, items: Iterable[Group | int]) -> int:
        return sum(item.stop - item.start if isinstance(item, Group) else 1 for item in items)


def _start(item: Group | int) -> int:
    return item.start if isinstance(item, Group) else item
