"""Products that say themselves which dimensions go together: einsum, outer; and a product with a sum."""

from __future__ import annotations

from spmd.rules.model import Rule
from spmd.rules.registry import OpCall, rule

from .linearity import linear_product


@rule("relax.outer")
def outer(op: OpCall) -> Rule:
    """Every element of one vector times every element of the other."""
    return op.bind("a, b -> a b", zero="any", linear=linear_product(op, (0,), (1,)))


@rule("relax.ewise_fma")
def multiply_add(op: OpCall) -> Rule:
    """``a * b + c``: linear in `c` together with either of the others, if the other is a fit factor."""
    return op.bind("..., ..., ... -> ...", zero="all", linear=linear_product(op, (0, 2), (1, 2)), work="pointwise")


@rule("relax.einsum")
def einsum(op: OpCall) -> Rule | None:
    """The subscripts are the rule; a letter twice in one operand is a diagonal, and stays whole."""
    terms, arrow, result = str(op.attrs.subscripts).replace(" ", "").partition("->")
    operands = terms.split(",")
    if len(operands) != len(op.inputs):
        return None
    extra = max(len(shape) - len(t.replace("...", "")) for t, shape in zip(operands, op.inputs, strict=True))
    if not arrow:  # NumPy's: what stands in no more than one place, in alphabetical order
        letters = sorted({c for c in terms if c.isalpha() and terms.count(c) == 1})
        result = "..." * ("..." in terms) + "".join(letters)
    ins = [_named(t, len(shape) - len(t.replace("...", "")), extra) for t, shape in zip(operands, op.inputs, strict=True)]
    diagonal = {c for t in operands for c in t if c.isalpha() and t.count(c) > 1}
    text = f"{', '.join(map(' '.join, ins))} -> {' '.join(_named(result, extra, extra))}"
    return op.bind(
        text, zero="any", linear=linear_product(op, *((i,) for i in range(len(ins)))), whole=" ".join(f"_{c}" for c in sorted(diagonal))
    )


def _named(term: str, held: int, extra: int) -> list[str]:
    """The factors of one operand, of which `held` dimensions stand for the ellipsis; size 1 broadcasts."""
    before, dots, after = term.partition("...")
    middle = [f"_batch{i}" for i in range(extra - held, extra)] if dots else []
    return [*(f"_{c}" for c in before), *middle, *(f"_{c}" for c in after)]
