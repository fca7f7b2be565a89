"""A plan as one that transformers takes: a style for each module, such that its numbers stay right, and what no style says."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from spmd import checks
from spmd.checks import door
from spmd.placement.sharding import Sharding, Split
from spmd.plan.model import Plan

from .flows import Product, products

_NUMBER = r"(?<![^.])\d+(?![^.])"


@dataclass(frozen=True)
class Styles:
    """What goes into ``from_pretrained(..., tp_plan=styles)``, and what of a plan it leaves out."""

    styles: dict[str, str]
    """Module, with ``*`` for numbers -> style."""
    left: dict[str, str]
    """Module or weight -> what transformers does otherwise than the plan, and why."""


@door(plan=checks.instance(Plan, "Write to_huggingface(spmd.plan(mod, mesh))."), axis=checks.text)
def to_huggingface(plan: Plan, axis: str = "tp") -> Styles:
    """The styles of transformers for the weights that `plan` splits over `axis`, of a model whose weights have the names of PyTorch.

    Where results of a layer stay split up to a layer that sums them, these are ``colwise`` and ``rowwise``; everywhere else the weights
    are split as in the plan, and activations are whole between layers (``colwise_gather_output``, ``rowwise_split_input``): that is
    always right, and what it sends more is said in `left`, as is every weight that no style splits so. As in transformers' own plans,
    the code of a model between such layers must count heads by what it is given.
    """
    found = _Export(plan, axis)
    differing = found.differing()
    if differing:  # equal layers have one style: theirs is the one that is always right
        found.loosened |= {name for key in differing for name in found.names[key]}
    return Styles(found.styles(), found.left())


class _Export:
    def __init__(self, plan: Plan, axis: str) -> None:
        self.plan, self.axis = plan, axis
        self.products: dict[str, Product] = products(plan, axis)
        self.split = {name: s for name, s in plan.params.items() if axis in s.axes()}
        self.loosened: set[str] = set()
        """Products between which activations are to be whole."""
        self.names: dict[str, list[str]] = {}
        for name in plan.params:
            self.names.setdefault(_key(name), []).append(name)

    def styles(self) -> dict[str, str]:
        """One for each key whose weights all have the same."""
        return {key: styles[0] for key, styles in self._by_key().items() if len(set(styles)) == 1 and styles[0]}

    def differing(self) -> list[str]:
        """The keys whose weights do not all have the same."""
        return [key for key, styles in self._by_key().items() if len(set(styles)) > 1]

    def left(self) -> dict[str, str]:
        """What is said otherwise, or not at all."""
        by_key, found, inside = self._by_key(), dict[str, str](), set(self._inside())
        for name, sharding in self.split.items():
            key, product = _key(name), self.products.get(name)
            if len(set(by_key.get(key, [""]))) > 1:
                found[key] = "equal layers are split differently, and transformers has one style for all of them: it keeps them whole"
            elif not self._style(name) and not self._is_of_module(name) and name not in inside:
                found[_generic(name)] = f"{sharding}: {self._why_not(name)}; transformers keeps it whole"
            elif product is not None and (self._is_loose(name) or product.note):
                why = product.why or product.note or "a layer beside it is split otherwise"
                found[key] = f"{self._style(name)}: here {why}"
        return found

    def _by_key(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for key, names in self.names.items():
            main = [name for name in names if not self._is_of_module(name)] or names
            if any(styles := [self._style(name) for name in main]):
                found[key] = styles
        for name in self._inside():
            whole = name not in self.split
            found.setdefault(_key(name) if whole else _generic(name), []).append("replicated_with_grad_allreduce" if whole else "colwise")
            if not whole:
                found.setdefault(_generic(name.rpartition(".")[0]), []).append("local_params")
        return found

    def _inside(self) -> Iterator[str]:
        """Weights of one dimension that work on split activations: of norms of heads, and the like."""
        for product in self.products.values():
            if product.kind == "column" and not product.gathered and not self._is_loose(product.weight):
                yield from (name for name in product.beside if not self._is_of_module(name))

    def _is_of_module(self, name: str) -> bool:
        """Whether it is the bias of a layer whose weight says how it is split."""
        return name.endswith(".bias") and f"{name.removesuffix('.bias')}.weight" in self.products

    def _style(self, name: str) -> str:
        """That of one weight; empty where it is whole, or no style says how it is split."""
        product, sharding = self.products.get(name), self.split.get(name)
        if product is None or sharding is None or self._why_not(name):
            return ""
        if product.kind == "table":
            return "embedding_rowwise" if sharding.dims[0] is not None else "embedding_colwise"
        halves = _segments(sharding, self.axis) == 2
        if product.kind == "row":
            return "rowwise_split_input" if self._is_loose(name) else "rowwise"
        return "packed_colwise" if halves else "colwise_gather_output" if product.gathered or self._is_loose(name) else "colwise"

    def _why_not(self, name: str) -> str:
        """Why no style splits a weight as the plan does; empty where one does."""
        product, sharding = self.products.get(name), self.split[name]
        if product is None:
            return "it belongs to no linear layer and no table"
        if product.kind == "other":
            return product.why
        if _segments(sharding, self.axis) == 2 and (product.gathered or self._is_loose(name)):
            return "packed halves stay split behind their layer"
        return self._unsayable(name)

    def _unsayable(self, name: str) -> str:
        """What of a sharding alone no style says."""
        sharding, kind = self.split[name], self.products[name].kind
        if [split.axes for split in sharding.dims if split is not None] != [(self.axis,)]:
            return f"a style splits one dimension, over {self.axis!r} alone"
        count = _segments(sharding, self.axis)
        return "" if count == 1 or (count == 2 and kind == "column") else "a style has no such segments"

    def _is_loose(self, name: str) -> bool:
        """Whether activations are whole around it: it, or a layer that it sends to or takes from, is of no pair of styles."""
        product = self.products[name]
        if product.kind == "table" or product.gathered:
            return False
        together = self._together(name)
        return any(one in self.loosened or self.products[one].why or self._unsayable(one) for one in together)

    def _together(self, name: str) -> set[str]:
        found, waiting = {name}, [name]
        while waiting:
            near = self.products[waiting.pop()].partners - found
            found |= near
            waiting += sorted(near)
        return found


def _segments(sharding: Sharding, axis: str) -> int:
    """In how many equal segments it is cut over the axis, in units of 1; 0 where no style has such."""
    split: Split | None = next((split for split in sharding.dims if split is not None and axis in split.axes), None)
    if split is None or not split.is_known or len({s.size for s in split.segments}) > 1 or any(s.unit != 1 for s in split.segments):
        return 0
    return len(split.segments)


def _generic(name: str) -> str:
    return re.sub(_NUMBER, "*", name)


def _key(name: str) -> str:
    """The module of a weight or bias, a parameter of another name itself, with ``*`` for numbers."""
    module, _, last = name.rpartition(".")
    return _generic(module if module and last in ("weight", "bias") else name)
