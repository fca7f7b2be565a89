"""What is made again: the same operators, right before who reads it late."""

import tvm
from tvm import relax
from tvm.script import ir as I
from tvm.script import relax as R

from spmd.ir.again import made_again

T = R.Tensor((4, 6), "float32")


@I.ir_module
class Before:
    """`a` and its parts are read early and late, one late reader is a branch."""

    @R.function
    def main(x: T, flag: R.Tensor((), "bool")):
        with R.dataflow():
            a = R.exp(x)
            both = R.split(a, 2, axis=1)
            left = both[0]
            b = R.sum(left)
            c = R.multiply(a, b)
            d = R.add(R.sum(left), R.sum(c))
            R.output(a, c, d)
        if flag:  # noqa: SIM108
            e = R.add(a, d)
        else:
            e = R.subtract(c, d)
        return e


def test_late_readers_read_copies():
    function = relax.transform.Normalize()(Before)["main"]
    bindings = [binding for block in function.body.blocks for binding in block.bindings]
    named = {str(binding.var.name): binding.var for binding in bindings}
    after = next(i for i, binding in enumerate(bindings) if binding.var.same_as(named["c"])) + 1
    made = made_again(function, {hash(named[name]): after for name in ("a", "both")})
    made = relax.transform.Normalize()(tvm.IRModule({"main": made}))["main"]
    assert made.script().count("exp") == 2 and made.script().count("R.split") == 2
    names = [str(binding.var.name) for block in made.body.blocks for binding in block.bindings]
    at = names.index("a_again")
    assert names[at : at + 3] == ["a_again", "both_again", "left_again"] and at > names.index("c")
    branch = next(b.value for block in made.body.blocks for b in block.bindings if isinstance(b.value, relax.If))
    assert "a_again" in branch.script()
    relax.analysis.well_formed(tvm.IRModule({"main": made}))


def test_a_long_chain_of_copies_is_made_in_order():
    """It takes no recursion, and none where nothing is late."""
    x = relax.Var("x", relax.TensorType([4], "float32"))
    builder = relax.BlockBuilder()
    with builder.function("main", [x]):
        with builder.dataflow():
            values = [x]
            for _ in range(1200):
                values.append(builder.emit(relax.op.exp(values[-1])))
            out = builder.emit_output(relax.op.add(values[-1], values[-2]))
        builder.emit_func_output(out)
    function = builder.get()["main"]
    bindings = function.body.blocks[0].bindings[:]
    made = made_again(function, {hash(b.var): len(bindings) - 1 for b in bindings[:-2]})
    assert len(made.body.blocks[0].bindings) == len(bindings) + len(bindings) - 2
    assert len(made_again(function, {}).body.blocks[0].bindings) == len(bindings)
