"""Numbers to categories and back: buckets, one-hot vectors, samples of a distribution."""

from __future__ import annotations

from spmd.rules.model import Form, Rule
from spmd.rules.registry import OpCall, rule

from .helpers import axis_of, letters


@rule("relax.bucketize")
def bucketize(op: OpCall) -> Rule:
    """How many of the ascending boundaries lie before each value; of split boundaries, the counts add up."""
    names = letters(len(op.inputs[0]), skip="n")
    text = " ".join(names)
    return op.bind(f"{text}, n -> {text}", forms={"n": Form("bucketize", partial="sum", ordered=True)})


@rule("relax.one_hot")
def one_hot(op: OpCall) -> Rule:
    """A new dimension of the depth; a worker with a part of it looks for the indices that fall there."""
    names = letters(len(op.inputs[0]), skip="n")
    axis = axis_of(op.attrs.axis, len(names) + 1)
    out = [*names[:axis], "n", *names[axis:]]
    return op.bind(f"{' '.join(names)} -> {' '.join(out)}", forms={"n": Form("one_hot", ordered=True)})


@rule("relax.multinomial_from_uniform")
def multinomial(op: OpCall) -> Rule:
    """Sample by sample; split distributions give a partial sum, each worker answering for the rows that it holds.

    The categories stay whole: where a sample lies on the edge of two, the order in which their probabilities are added decides.
    """
    return op.bind("r c, n 1, n 1 -> n 1", whole="c", forms={"r": Form("sample_rows", partial="sum", ordered=True)})
