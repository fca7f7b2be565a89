"""What a plan does with the activations around each product with a weight: where they stay split, and where they are sent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from spmd.placement.sharding import Sharding
from spmd.plan.model import Plan
from spmd.plan.steps import MADE, RETURNED, TAKEN, Compute, Reorder, Return, Step, computes, moves

_CARRIES = ("relax.permute_dims", "relax.astype")
"""Operators between a weight and its product."""


@dataclass
class Product:
    """A weight and its product, over one mesh axis."""

    weight: str
    kind: str
    """"column" where its results are split, "row" where it sums over what is split, "table" where rows are taken from it, "other"."""
    gathered: bool = False
    """Whether its results are put together at once."""
    partners: set[str] = field(default_factory=set[str])
    """Of a column the rows that its results reach split, of a row those columns."""
    beside: set[str] = field(default_factory=set[str])
    """Weights that its split results meet on the way."""
    meets: set[str] = field(default_factory=set[str])
    """What else is split, and goes into an operator together with these."""
    why: str = ""
    """What no pair of styles says of its activations."""
    note: str = ""
    """What is done otherwise here, with the same numbers."""


def products(plan: Plan, axis: str) -> dict[str, Product]:
    """Those of all weights that `axis` splits, by weight."""
    found: dict[str, Product] = {}
    for name, steps in plan.steps.items():
        for product in _Function(plan, name, steps, axis).read():
            before = found.setdefault(product.weight, product)
            if before is not product and (before.kind, before.gathered) != (product.kind, product.gathered):
                is_tied = {before.kind, product.kind} == {"table", "column"}
                before.kind, before.why = ("table", "") if is_tied else ("other", "its products do not all treat it alike")
            elif before is not product:
                before.partners |= product.partners
                before.beside |= product.beside
                before.why, before.note = before.why or product.why, before.note or product.note
    for product in list(found.values()):
        for partner in product.partners:
            found[partner].partners.add(product.weight)
    return found


class _Function:
    def __init__(self, plan: Plan, name: str, steps: Sequence[Step], axis: str) -> None:
        self.axis, self.params = axis, plan.params
        self.operators: list[Compute] = computes(steps)
        self.returned: Sequence[str] = next((step.operands for step in steps if isinstance(step, Return)), ())
        self.sent: dict[tuple[str, str, int], list[str]] = {}
        """Value, why and by which operator -> the moves over the axis that it makes."""
        for step in moves(steps):
            if axis in step.move.axis.split("+"):
                kind = step.kind if isinstance(step, Reorder) else step.move.kind
                self.sent.setdefault((step.value, step.cause.role, step.cause.at), []).append(kind)
        self.weight_of: dict[str, tuple[str, bool]] = {weight: (weight, False) for weight in plan.params}
        """Value that is a weight -> the weight, and whether it is transposed."""
        for one in self.operators:
            if one.op in _CARRIES and one.operands[0] in self.weight_of:
                weight, turned = self.weight_of[one.operands[0]]
                self.weight_of[one.results[0]] = weight, turned != (one.op == "relax.permute_dims")

    def read(self) -> list[Product]:
        """The products of the weights that are split, each use of a weight one."""
        found: list[Product] = []
        for at, one in enumerate(self.operators):
            for place, value in enumerate(one.operands):
                weight, turned = self.weight_of.get(value, ("", False))
                if weight and self.axis in self.params[weight].axes() and len(self.params[weight].dims) > 1 and one.op not in _CARRIES:
                    found.append(self._product(at, place, weight, turned))
        self._part_ways([product for product in found if product.kind == "column" and not product.gathered])
        rows = {product.weight: product for product in found if product.kind == "row"}
        reached = {row for product in found if product.kind == "column" and not product.why for row in product.partners}
        for weight, row in rows.items():
            if weight not in reached:
                row.why = row.why or "it takes what is split otherwise than by a layer before it"
        return found

    def _product(self, at: int, place: int, weight: str, turned: bool) -> Product:
        one = self.operators[at]
        sent = any(self.weight_of.get(value, ("",))[0] == weight for value, _, _ in self.sent)
        note = "it is put together before it is used" if sent else ""
        if one.op == "relax.take" and place == 0:
            return Product(weight, "table", note=note)
        if one.op != "relax.matmul" or place != 1 or not turned:
            return Product(weight, "other", why=f"{one.op} takes it, which is no linear layer and no table")
        if sent:
            is_column = self.params[weight].dims[0] is not None
            return Product(weight, "column" if is_column else "row", why=note)
        if _is_partial(one.outputs[0], self.axis):
            return Product(weight, "row", note=self._sum(at))
        return self._followed(at, weight)

    def _sum(self, at: int) -> str:
        """What is done with a sum, where it is not all that a row does."""
        kinds = {kind for (value, _, _), found in self.sent.items() if value == self.operators[at].results[0] for kind in found}
        return "" if kinds <= {"all_reduce"} else "its sum is scattered"

    def _followed(self, at: int, weight: str) -> Product:
        """Where the split results of a product go."""
        product, made = Product(weight, "column"), self.operators[at].results[0]
        ends = self._leaves(made, MADE, at)
        split, direct = set[str]() if ends else {made}, {made}
        for i in range(at + 1, len(self.operators)):
            taken = [value for value in self.operators[i].operands if value in split]
            if taken and not product.why:
                ends |= self._step(product, i, split, direct)
        for value in split & set(self.returned):
            ends |= self._leaves(value, RETURNED, -1) or {(value, "returned as it is")}
        if ends and not product.partners and split <= direct and all(kind == "all_gather" and value in direct for value, kind in ends):
            product.gathered, product.why = True, ""
        elif ends and not product.why:
            value, kind = min(ends)
            product.why = f"{value!r} is {kind.replace('_', ' ')}" if " " in kind else f"{value!r} goes through {kind}"
        elif not product.partners and not product.why:
            product.why = "no layer sums over what it makes"
        return product

    def _part_ways(self, columns: Sequence[Product]) -> None:
        """Say of columns whose results meet what is split here, and by styles is whole."""
        while True:
            whole = self._whole_by_styles({product.weight for product in columns if not product.why})
            lonely = [product for product in columns if not product.why and not product.meets.isdisjoint(whole)]
            if not lonely:
                return
            for product in lonely:
                product.why = f"it meets {min(product.meets & whole)!r}, which is split, and by styles is not"

    def _whole_by_styles(self, columns: set[str]) -> set[str]:
        """What is split as it was sent so, or made of a weight that is split, or of such values: but for what these columns give."""
        found: set[str] = set()
        for i, one in enumerate(self.operators):
            weights = {self.weight_of[value][0] for value in one.operands if value in self.weight_of and one.op not in _CARRIES}
            split = {weight for weight in weights if len(self.params[weight].dims) > 1 and self.axis in self.params[weight].axes()}
            held = {value for value, sharding in zip(one.operands, one.inputs, strict=True) if self.axis in sharding.axes()}
            sent = any((value, TAKEN, i) in self.sent for value in held) or any((value, MADE, i) in self.sent for value in one.results)
            if sent or not split <= columns or not found.isdisjoint(held):
                found.update(one.results)
        return found

    def _step(self, product: Product, i: int, split: set[str], direct: set[str]) -> set[tuple[str, str]]:
        """Go through one operator that takes what is split; what leaves there, and how."""
        one = self.operators[i]
        taken = [value for value in one.operands if value in split]
        ends = {end for value in taken for end in self._leaves(value, TAKEN, i)}
        if ends:
            return ends
        is_product = one.op == "relax.matmul" and one.operands[1] in self.weight_of
        partner = self.weight_of[one.operands[1]][0] if is_product else ""
        if partner and _is_partial(one.outputs[0], self.axis):
            product.partners.add(partner)
            return set()
        moved = any((value, TAKEN, i) in self.sent for value in one.operands)
        stays = all(not _is_partial(output, self.axis) and self.axis in output.axes() for output in one.outputs)
        if one.exchanges or moved or not stays:
            product.why = f"{one.op} {one.name!r} takes what is split, and gives {one.outputs[0]}"
            return set()
        weights = {self.weight_of[value][0] for value in one.operands if value in self.weight_of}
        product.beside |= weights
        others = [value for value, held in zip(one.operands, one.inputs, strict=True) if self.axis in held.axes()]
        product.meets |= {value for value in others if value not in split and value not in self.weight_of}
        if one.op == "relax.add" and weights and set(taken) <= direct:
            direct.add(one.results[0])
        ends = {end for value in one.results for end in self._leaves(value, MADE, i)}
        split.update(() if ends else one.results)
        return ends

    def _leaves(self, value: str, role: str, at: int) -> set[tuple[str, str]]:
        return {(value, kind) for kind in self.sent.get((value, role, at), ()) if kind != "unpack"}


def _is_partial(sharding: Sharding, axis: str) -> bool:
    return any(name == axis for name, _ in sharding.partial)
