"""A plan as one that transformers takes: a style for each module, such that its numbers stay right, and what no style says."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from spmd import checks
from spmd.checks import door, told
from spmd.errors import ShardingError
from spmd.placement.sharding import Sharding, Split
from spmd.plan.model import Plan

from .flows import Product, products

_NUMBER = r"(?<![^.])\d+(?![^.])"


@dataclass(frozen=True)
class Styles:
    """What goes into ``DistributedConfig(tp_plan=styles)`` of transformers, and what of a plan it leaves out."""

    styles: dict[str, str]
    """Module, with ``*`` for numbers -> style."""
    left: dict[str, str]
    """Module or weight -> what transformers does otherwise than the plan, and why."""


def _model(where: str, given: Any) -> Any:
    """What has modules and a plan of its own, as models of transformers have."""
    if given is not None and not (hasattr(given, "named_modules") and hasattr(given, "tp_plan")):
        raise ShardingError(where, f"it takes a model of transformers, and got {told(given)}", "Pass the model that the plan is of.")
    return given


@door(plan=checks.instance(Plan, "Write to_huggingface(spmd.plan(mod, mesh))."), axis=checks.text, model=_model)
def to_huggingface(plan: Plan, axis: str = "tp", model: Any = None) -> Styles:
    """The styles of transformers for the weights that `plan` splits over `axis`, of a model whose weights have the names of PyTorch.

    Where results of a layer stay split up to a layer that sums them, these are ``colwise`` and ``rowwise``; everywhere else the weights
    are split as in the plan, and activations are whole between layers (``colwise_gather_output``, ``rowwise_split_input``): that is
    always right, and what it sends more is said in `left`, as is every weight that no style splits so. As in transformers' own plans,
    the code of a model between such layers must count heads by what it is given.

    transformers adds such styles to the model's own plan. So layers that `plan` keeps whole have a style, too, ``replicate``; with
    `model`, what else its own plan names has it as well, tied weights are split alike, and layers that transformers cannot
    split, as they are neither ``nn.Linear`` nor ``nn.Embedding``, are kept whole. Without it, all are taken to be of these kinds.
    """
    found = _Export(plan, axis, model)
    differing = found.differing()
    if differing:  # equal layers have one style: theirs is the one that is always right
        found.loosened |= {name for key in differing for name in found.names[key]}
    return Styles(found.styles(), found.left())


class _Export:
    def __init__(self, plan: Plan, axis: str, model: Any) -> None:
        self.plan, self.axis = plan, axis
        self.products: dict[str, Product] = products(plan, axis)
        self.split = {name: s for name, s in plan.params.items() if axis in s.axes()}
        self.loosened: set[str] = set()
        """Products between which activations are to be whole."""
        self.names: dict[str, list[str]] = {}
        for name in plan.params:
            self.names.setdefault(_key(name), []).append(name)
        self._modules = {} if model is None else dict(model.named_modules())
        self._tied = {} if model is None else _tied(model)
        self._own: list[str] = [] if model is None else list(model.tp_plan or {})

    def styles(self) -> dict[str, str]:
        """One for each key whose weights all have the same; the others are whole."""
        found = {key: styles[0] for key, styles in self._by_key().items() if len(set(styles)) == 1 and styles[0]}
        whole = [_key(name) for name, sharding in self.plan.params.items() if name.endswith(".weight") and len(sharding.dims) > 1]
        found |= {key: _WHOLE for key in whole if key not in found}
        for other, name in self._tied.items():
            found[_key(other)] = _OF_TIED.get(found.get(_key(name), _WHOLE), _WHOLE)
        return found | {key: _WHOLE for key in self._own if key not in found}

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
                if main[0] in self.products and not _is_of_layer(main[0]):
                    found.setdefault(_generic(main[0].rpartition(".")[0]), []).append("moe_tp_experts")
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
            return _NO_LAYER
        if product.kind == "other":
            return product.why
        if _segments(sharding, self.axis) == 2 and (product.gathered or self._is_loose(name)):
            return "packed halves stay split behind their layer"
        if not _is_of_layer(name) and (product.gathered or self._is_loose(name)):
            return _NO_LAYER
        return self._unsayable(name)

    def _unsayable(self, name: str) -> str:
        """What of a sharding, or of a layer, no style says."""
        sharding, kind = self.split[name], self.products[name].kind
        module = self._modules.get(name.rpartition(".")[0])
        if not _is_of_layer(name):
            if not self._are_experts(name.rpartition(".")[0]):
                return _NO_LAYER
        elif module is not None and kind in _SIZES and not hasattr(module, _SIZES[kind]):
            return f"transformers cannot split a {type(module).__name__}"
        if [split.axes for split in sharding.dims if split is not None] != [(self.axis,)]:
            return f"a style splits one dimension, over {self.axis!r} alone"
        count = _segments(sharding, self.axis)
        return "" if count == 1 or (count == 2 and kind == "column") else "a style has no such segments"

    def _are_experts(self, module: str) -> bool:
        """Whether a module has nothing but a pair of products with parameters of its own, as experts have that are split inside of each."""
        own = [name for name in self.plan.params if name.rpartition(".")[0] == module]
        found = [self.products[name] for name in own if name in self.products]
        kinds = sorted(product.kind for product in found)
        return len(own) == len(found) and kinds == ["column", "row"] and all(product.partners <= set(own) for product in found)

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


_WHOLE = "replicate"
_NO_LAYER = "it belongs to no linear layer and no table"
_OF_TIED = {"embedding_rowwise": "colwise_gather_output", "embedding_colwise": "rowwise_split_input"}
"""The style of the linear layer that has the weight of a table."""
_SIZES = {"column": "out_features", "row": "in_features", "table": "num_embeddings"}
"""What transformers asks for of the module of a weight."""


def _tied(model: Any) -> dict[str, str]:
    """Other names of parameters -> the first."""
    first: dict[int, str] = {}
    named = [(name, first.setdefault(id(parameter), name)) for name, parameter in model.named_parameters(remove_duplicate=False)]
    return {name: other for name, other in named if name != other}


def _is_of_layer(name: str) -> bool:
    """Whether a weight has the name that it has in a linear layer or a table."""
    return name.endswith(".weight")


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
