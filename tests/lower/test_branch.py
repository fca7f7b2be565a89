"""Ifs in, per-worker Ifs out: conversions stand in the branch that needs them, and both branches give one sharding."""

import tvm
from tvm import relax
from tvm.script import ir as I
from tvm.script import relax as R

import spmd
from spmd import P


def check(mod, expected, specs, **options):
    """The program for 2 workers, bindings to another name left out, is `expected`."""
    sharded = spmd.shard(mod, 2, specs, **options)
    relax.analysis.well_formed(sharded.mod)
    clean = relax.transform.CanonicalizeBindings()
    tvm.ir.assert_structural_equal(clean(sharded.mod), clean(expected))
    return sharded.plan


@I.ir_module
class Convert:
    @R.function
    def main(more: R.Tensor((), "bool"), x: R.Tensor((4, 6), "float32")):
        if more:
            a = R.cumsum(x, axis=0)
            z = R.exp(a)
        else:
            with R.dataflow():
                c = R.cumsum(x, axis=0)
                e = R.multiply(c, R.const(2, "float32"))
                R.output(e)
            z = e
        return (z, R.cumsum(x, axis=0))


def test_what_one_branch_converts_is_not_there_in_the_other_or_after():
    @I.ir_module
    class Expected:
        @R.function
        def main(more: R.Tensor((), "bool"), x: R.Tensor((2, 6), "float32")):
            if more:
                x1 = R.spmd.all_to_all(x, axis="tp", concat_dim=0, split_dim=1, value="x", workers=2)
                a = R.cumsum(x1, axis=0)
                z = R.exp(a)
            else:
                with R.dataflow():
                    x2 = R.spmd.all_to_all(x, axis="tp", concat_dim=0, split_dim=1, value="x", workers=2)
                    c = R.cumsum(x2, axis=0)
                    e = R.multiply(c, R.const(2, "float32"))
                    R.output(e)
                z = e
            x3 = R.spmd.all_to_all(x, axis="tp", concat_dim=0, split_dim=1, value="x", workers=2)
            return (z, R.cumsum(x3, axis=0))

    plan = check(Convert, Expected, {"main.x": P("tp", None), "main.return[[]*": P(None, "tp")})
    assert [(c.value, c.branch) for c in plan.collectives] == [("x", (("z", True),)), ("x", (("z", False),)), ("x", ())]
    assert "\n  all_to_all over tp, 48 bytes, in main, the true branch of 'z': 'x' is kept as " in plan.explain("main.x")


@I.ir_module
class Partial:
    @R.function
    def main(more: R.Tensor((), "bool"), x: R.Tensor((4, 6), "float32"), w: R.Tensor((6, 80), "float32"), v: R.Tensor((80, 6), "float32")):
        R.func_attr({"num_input": 2})
        y = R.matmul(x, w)
        if more:
            a = R.exp(y)
            z = R.matmul(a, v)
        else:
            c = R.matmul(y, v)
            z = R.multiply(c, R.const(2, "float32"))
        return z


def test_partial_sums_of_both_branches_are_reduced_once():
    @I.ir_module
    class Expected:
        @R.function
        def main(
            more: R.Tensor((), "bool"), x: R.Tensor((4, 6), "float32"), w: R.Tensor((6, 40), "float32"), v: R.Tensor((40, 6), "float32")
        ):
            R.func_attr({"num_input": 2})
            y = R.matmul(x, w)
            if more:
                a = R.exp(y)
                z = R.matmul(a, v)
            else:
                c = R.matmul(y, v)
                z = R.multiply(c, R.const(2, "float32"))
            total = R.spmd.all_reduce(z, axis="tp", kind="sum", value="z", workers=2)
            return total

    plan = check(Partial, Expected, {"w": P(None, "tp"), "v": P("tp", None)})
    assert [(c.kind, c.value, c.branch) for c in plan.collectives] == [("all_reduce", "z", ())]


@I.ir_module
class Meet:
    @R.function
    def main(more: R.Tensor((), "bool"), x: R.Tensor((4, 6), "float32"), y: R.Tensor((4, 6), "float32")):
        if more:
            z = R.exp(x)
        else:
            e = R.exp(y)
            z = e
        return R.multiply(z, R.const(2, "float32"))


def test_each_branch_converts_to_the_sharding_that_both_give():
    @I.ir_module
    class Expected:
        @R.function
        def main(more: R.Tensor((), "bool"), x: R.Tensor((2, 6), "float32"), y: R.Tensor((4, 3), "float32")):
            if more:
                z = R.exp(x)
            else:
                e = R.exp(y)
                z = R.spmd.all_to_all(e, axis="tp", concat_dim=1, split_dim=0, value="e", workers=2)
            return R.multiply(z, R.const(2, "float32"))

    specs = {
        "main.x": P("tp", None),
        "main.y": P(None, "tp"),
        "main.e": P(None, "tp"),
        "main.z": P("tp", None),
        "main.return": P("tp", None),
    }
    plan = check(Meet, Expected, specs)
    assert [(c.kind, c.value, c.branch) for c in plan.collectives] == [("all_to_all", "e", (("z", False),))]
