"""Ifs in whole programs: what is in a branch is sharded like everything else, whichever way the condition goes."""

# ruff: noqa: F841, SIM108
# TVMScript has no conditional expression.

import numpy as np
import pytest
import tvm
import tvm_ffi
from tvm import relax
from tvm.script import ir as I
from tvm.script import relax as R
from tvm.script import tirx as T

import spmd
from spmd import P
from spmd.costs.planning_sizes import symbols_of
from spmd.testing import FREE_LINKS, difference, random_arguments, simulate
from spmd.testing.equivalence import traffic_difference

WAYS = (0, 1, 2)


def check(mod, mesh, specs=None, profile=FREE_LINKS):
    """The sharded module, which gives what `mod` gives whichever way it goes: its first parameters are set to each of `WAYS`."""
    sharded = spmd.shard(mod, mesh, specs, profile=profile, sizes={n: 3 for n in symbols_of(mod) if n in ("m", "k")})
    relax.analysis.well_formed(sharded.mod)
    traces = {way: {} for way in WAYS}

    def run(w):
        results = {way: {} for way in WAYS}
        for name, signature in sharded.plan.functions.items():
            arguments = random_arguments(signature.params, name, 0)
            for way in WAYS:
                results[way][name] = w[name](np.array(way), *arguments[1:])
                traces[way][name] = w.trace()
        return results

    expected, found = simulate(mod, run), simulate(sharded, run)
    different = difference(expected, found) or next(filter(None, (traffic_difference(sharded.plan, traces[way]) for way in WAYS)), "")
    assert not different, f"{different}\n{sharded.plan.explain()}"
    return sharded


@I.ir_module
class Network:
    @R.function
    def main(n: R.Tensor((), "int64"), x: R.Tensor((5, 6), "float32"), w: R.Tensor((6, 7), "float32"), v: R.Tensor((7, 6), "float32")):
        R.func_attr({"num_input": 2})
        more = R.greater(n, R.const(0, "int64"))
        y = R.matmul(x, w)
        if more:
            with R.dataflow():
                a = R.exp(y)
                b = R.matmul(a, v)
                R.output(b)
            z = b
        else:
            c = R.matmul(y, v)
            z = R.negative(c)
        return R.add(z, x)


@pytest.mark.parametrize("specs", [{"w": P(None, "tp"), "v": P("tp", None)}, {"main.x": P("tp", None)}, {"main.z": P(None, "tp")}])
@pytest.mark.parametrize("mesh", [2, 3])
def test_the_operators_of_both_branches_are_split(mesh, specs):
    sharded = check(Network, mesh, specs)
    assert not sharded.plan.notes
    inside = [c for c in sharded.plan.choices["main"] if c.name in ("a", "b", "c", "z")]
    assert [c.op for c in inside if not c.splits and not c.partial_through] == ["If"], "only the condition is whole"


@I.ir_module
class Nested:
    @R.function
    def main(n: R.Tensor((), "int64"), x: R.Tensor((4, 6), "float32"), w: R.Tensor((6, 6), "float32")):
        R.func_attr({"num_input": 2})
        more = R.greater(n, R.const(0, "int64"))
        many = R.greater(n, R.const(1, "int64"))
        y = R.matmul(x, w)
        if more:
            s = R.nn.softmax(y, axis=1)
            if many:
                t = R.matmul(s, w)
                a = R.tanh(t)
            else:
                a = R.cumsum(s, axis=1)
            z = R.matmul(a, w)
        else:
            if many:
                b = R.exp(y)
            else:
                b = R.subtract(y, R.max(y, axis=[1], keepdims=True))
            c = R.multiply(b, x)
            z = R.add(c, y)
        total = R.sum(z)
        large = R.greater(total, R.const(0.0, "float32"))
        if large:
            e = z
        else:
            e = R.sort(z, axis=1)
        return (e, y)


@I.ir_module
class Tuples:
    @R.function
    def main(
        n: R.Tensor((), "int64"), x: R.Tensor((4, 6), "float32"), packed: R.Tuple(R.Tensor((6, 6), "float32"), R.Tensor((6,), "float32"))
    ):
        R.func_attr({"num_input": 2})
        more = R.greater(n, R.const(0, "int64"))
        if more:
            w = packed[0]
            a = R.matmul(x, w)
            b = R.split(a, 2, axis=1)
            pair = (a, (b[1], x))
            both = pair
        else:
            bias = packed[1]
            c = R.add(x, bias)
            d = R.strided_slice(c, axes=[1], begin=[0], end=[3])
            both = (c, (d, R.const(np.ones((4, 6), "float32"))))
        inner = both[1]
        w2 = packed[0]
        last = R.matmul(both[0], w2)
        return (both, R.concat((inner[0], last), axis=1))


@pytest.mark.parametrize(("mesh", "spec"), [(2, P(None, "tp")), (3, P("tp", None))])
@pytest.mark.parametrize("mod", [Nested, Tuples], ids=["nested", "tuples"])
def test_nested_branches_and_tuples(mod, mesh, spec):
    sharded = check(mod, mesh, {"main.x": spec})
    assert not sharded.plan.notes
    assert any(c.branch for c in sharded.plan.collectives)


@I.ir_module
class Odd:
    @R.function(private=True)
    def helper(n: R.Tensor((), "int64"), x: R.Tensor((5, 7), "float32")) -> R.Tensor((5, 7), "float32"):
        more = R.greater(n, R.const(0, "int64"))
        if more:
            y = R.cumsum(x, axis=0)
        else:
            y = R.cumsum(x, axis=1)
        return y

    @R.function
    def called_twice(n: R.Tensor((), "int64"), x: R.Tensor((5, 7), "float32")):
        cls = Odd
        a: R.Tensor((5, 7), "float32") = cls.helper(n, x)
        b: R.Tensor((5, 7), "float32") = cls.helper(R.subtract(n, R.const(1, "int64")), a)
        return b

    @R.function
    def another_name(n: R.Tensor((), "int64"), x: R.Tensor((5, 7), "float32")):
        more = R.greater(n, R.const(0, "int64"))
        y = R.exp(x)
        if more:
            z = y
        else:
            z = R.const(np.arange(35, dtype="float32").reshape(5, 7))
        return (z, y)

    @R.function
    def zeros_in_one_branch(n: R.Tensor((), "int64"), x: R.Tensor((5, 7), "float32")):
        more = R.greater(n, R.const(0, "int64"))
        y = R.nn.relu(x)
        if more:
            z = R.exp(y)
        else:
            z = R.multiply(y, y)
        return (R.sum(z, axis=[1]), R.sum(z, axis=[0]), R.max(z), R.cumsum(z, axis=0))

    @R.function
    def unused(n: R.Tensor((), "int64"), x: R.Tensor((5, 7), "float32")):
        more = R.greater(n, R.const(0, "int64"))
        if more:
            z = R.cumsum(x, axis=1)
        else:
            z = R.cumsum(x, axis=0)
        return R.exp(x)

    @R.function
    def half_used(n: R.Tensor((), "int64"), x: R.Tensor((5, 7), "float32")):
        more = R.greater(n, R.const(0, "int64"))
        if more:
            u = R.cumsum(x, axis=1)
            z = (u, x)
        else:
            v = R.cumsum(x, axis=0)
            z = (v, R.exp(x))
        return z[1]

    @R.function
    def sum_as_condition(n: R.Tensor((), "int64"), x: R.Tensor((5, 7), "float32")):
        f = R.subtract(R.astype(n, "float32"), R.const(0.5, "float32"))
        more = R.greater(R.multiply(R.sum(x), f), R.const(0.0, "float32"))
        if more:
            z = R.argmax(x, axis=1)
        else:
            z = R.argmin(x, axis=1)
        return z

    @R.function
    def before_inside_and_after(n: R.Tensor((), "int64"), x: R.Tensor((5, 7), "float32")):
        more = R.greater(n, R.const(0, "int64"))
        if more:
            z = R.sum(R.cumsum(x, axis=0))
        else:
            z = R.sum(R.cumsum(x, axis=1))
        return (R.add(R.cumsum(x, axis=1), z), R.cumsum(x, axis=0))

    @R.function
    def symbolic(n: R.Tensor((), "int64"), x: R.Tensor(("m", 7), "float32"), w: R.Tensor((7, 6), "float32")):
        m = T.int64()
        more = R.greater(n, R.const(0, "int64"))
        if more:
            s = R.shape([m, 2, 3])
            y = R.matmul(x, w)
            z = (s, y)
        else:
            s2 = R.shape([m, 3, 2])
            y2 = R.matmul(R.negative(x), w)
            z = (s2, y2)
        return (z, R.reshape(z[1], R.shape([m, 2, 3])))


@pytest.mark.parametrize(("mesh", "spec"), [(2, P("tp", None)), (3, P(None, "tp"))])
def test_odd_branches(mesh, spec):
    names = {gv.name_hint for gv in Odd.functions} - {"helper", "symbolic"}
    sharded = check(Odd, mesh, {"symbolic.x": P(None, "tp"), **{f"{name}.x": spec for name in names}})
    assert not sharded.plan.notes
    assert [c.op for c in sharded.plan.choices["unused"]] == ["relax.exp"]
    assert spmd.Plan.from_json(sharded.plan.to_json()) == sharded.plan
    tvm.ir.assert_structural_equal(spmd.lower(Odd, sharded.plan), sharded.mod)


@I.ir_module
class Unknown:
    @R.function
    def main(n: R.Tensor((), "int64"), x: R.Tensor((4, 6), "float32")):
        k = T.int64()
        more = R.greater(n, R.const(0, "int64"))
        if more:
            z = R.concat((x, x), axis=0)
        else:
            z = R.exp(x)
        y = R.match_cast(z, R.Tensor((k, 6), "float32"))
        return R.sum(y, axis=[1])


def test_branches_of_different_shapes_give_what_is_whole_and_say_so():
    spec = {"main.x": P("tp", None), "main.y": P(None, None)}
    sharded = check(Unknown, 2, spec)
    assert sharded.plan.notes == ["join is replicated, as the shape of 'z' is known only when it runs (main: 'z' and 1 more)"]


@tvm_ffi.register_global_func("test.branch_state", override=True)
def branch_state(x):
    return tvm_ffi.convert([tvm.runtime.tensor(x.numpy().sum(0))])


@tvm_ffi.register_global_func("test.branch_push", override=True)
def branch_push(state, x):
    return tvm_ffi.convert([tvm.runtime.tensor(state[0].numpy() + x.numpy().sum(0))])


@tvm_ffi.register_global_func("test.branch_peek", override=True)
def branch_peek(state, x):
    return tvm.runtime.tensor(x.numpy() * state[0].numpy())


@I.ir_module
class States:
    @R.function
    def main(n: R.Tensor((), "int64"), x: R.Tensor((4, 6), "float32")):
        more = R.greater(n, R.const(0, "int64"))
        state = R.call_pure_packed("test.branch_state", x, ty_args=(R.Any,))
        if more:
            y = R.exp(x)
            pushed = R.call_pure_packed("test.branch_push", state, y, ty_args=(R.Any,))
            both = (pushed, y)
        else:
            y2 = R.negative(x)
            both = (state, y2)
        return R.call_pure_packed("test.branch_peek", both[0], both[1], ty_args=(R.Tensor((4, 6), "float32"),))


def test_a_state_goes_through_a_branch():
    sharded = check(States, 2, {"main.x": P("tp", None)})
    assert {n.split(" ")[0] for n in sharded.plan.notes} == {"test.branch_state", "test.branch_push", "test.branch_peek"}


def test_a_state_that_is_split_goes_through_a_branch(monkeypatch):
    from spmd.rules import registry

    monkeypatch.setattr(registry, "_RULES", dict(registry._RULES))
    for name, text in (("state", "m h -> h"), ("push", "h, m h -> h"), ("peek", "h, m h -> m h")):

        def rule(op, text=text):
            shapes = [[s or (6,) for s in side] for side in (op.inputs, op.outputs)]
            return spmd.rules.expression.bind(text, *shapes, whole="m")

        spmd.rule(f"test.branch_{name}")(rule)
    sharded = check(States, 2, {"main.x": P(None, "tp")})
    assert not sharded.plan.notes
    packed = [c for c in sharded.plan.choices["main"] if c.op.startswith("test.")]
    assert all(dict(c.splits).keys() == {"h"} for c in packed), "one state, and one sharding for it"


LOOKED = []


@tvm_ffi.register_global_func("test.branch_look", override=True)
def branch_look(x):
    LOOKED.append(x.shape)
    return x


@I.ir_module
class Looks:
    @R.function(pure=False)
    def main(n: R.Tensor((), "int64"), x: R.Tensor((4, 6), "float32")):
        more = R.greater(n, R.const(0, "int64"))
        if more:
            y = R.exp(x)
            seen = R.call_packed("test.branch_look", y, ty_args=(R.Tensor((4, 6), "float32"),))
        else:
            seen = R.negative(x)
        return x


def test_a_branch_that_does_something_runs_though_its_result_is_not_used():
    LOOKED.clear()
    sharded = check(Looks, 2, {"main.x": P("tp", None)})
    assert [tuple(shape) for shape in LOOKED] == [(4, 6)] * 2 * (1 + 2), "for two of the ways, on one worker and then on two"
    assert sharded.plan.notes == ["test.branch_look is replicated, as test.branch_look has no rule (main: 'seen_then')"]
