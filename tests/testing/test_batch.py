"""Many programs at once: what fails is found among what does not, and made small."""

import re

import pytest
import tvm
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from tvm import relax
from tvm.script import ir as I
from tvm.script import relax as R

import spmd
from spmd import Mesh, P
from spmd.rules import registry
from spmd.testing import assert_equivalent
from spmd.testing.batch import assert_all_equivalent, failures, kind_of
from spmd.testing.programs import meshes, programs, specs
from spmd.testing.shrink import Case, smallest


@pytest.fixture
def rules():
    """The table of rules, put back after the test."""
    before = dict(registry._RULES)
    yield registry._RULES
    registry._RULES.clear()
    registry._RULES.update(before)


def named(mod, suffix):
    """`mod` with other names for its public functions."""
    functions = {}
    for gv, f in mod.functions_items():
        name = gv.name_hint + suffix
        functions[tvm.ir.GlobalVar(name)] = f.with_attr("global_symbol", name)
    return tvm.IRModule(functions)


@I.ir_module
class Long:
    """One sum so far among eight operators; two results."""

    @R.function
    def main(x: R.Tensor((4, 6), "float64"), w: R.Tensor((6, 6), "float64"), b: R.Tensor((6,), "float64")):
        with R.dataflow():
            a = R.matmul(x, w)
            c = R.add(a, b)
            d = R.tanh(c)
            e = R.cumsum(d, axis=1)
            f = R.multiply(e, c)
            g = R.reshape(f, R.shape([4, 2, 3]))
            h = R.sum(g, axis=[2])
            i = R.exp(d)
            R.output(h, i)
        return h, i


@I.ir_module
class Right:
    @R.function
    def main(x: R.Tensor((4, 6), "float64")):
        with R.dataflow():
            y = R.tanh(x)
            R.output(y)
        return y


COLUMNS = P(None, "tp")


def of(mod, suffix, workers=2, **specs):
    return Case(named(mod, suffix), Mesh(tp=workers), {f"main{suffix}.{k}": v for k, v in specs.items()})


def test_right_programs_are_counted():
    assert assert_all_equivalent([of(Right, "_0"), of(Right, "_1", 3, x=P("tp", None)), of(Long, "_2")]) == 3


def test_the_one_that_fails_is_found_and_made_small(rules):
    spmd.rule("relax.cumsum", expression="a b -> a b")
    cases = [of(Right, "_0"), of(Long, "_1", 3, d=COLUMNS, e=COLUMNS), of(Right, "_2", 3)]
    found = failures(cases)
    assert list(found) == [1]
    assert "the largest difference is" in found[1]
    with pytest.raises(AssertionError, match=r"1 of 3 programs fail, in 1 ways") as error:
        assert_all_equivalent(cases)
    text = str(error.value)
    assert len(re.findall(r" = R\.(?!func_attr|output)", text)) <= 2, text
    assert "R.cumsum" in text
    assert "R.matmul" not in text


def test_the_text_of_a_failure_is_a_test(rules):
    """The script and the call that stand in the error fail when they are run."""
    spmd.rule("relax.cumsum", expression="a b -> a b")
    with pytest.raises(AssertionError) as error:
        assert_all_equivalent([of(Long, "_1", d=COLUMNS, e=COLUMNS)])
    script, call = re.search(r"(?s)(# from tvm.*)\n(assert_equivalent\(Module.*)", str(error.value)).groups()
    module = tvm.script.from_source(script)
    with pytest.raises(AssertionError, match="the largest difference"):
        eval(call, {"Module": module, "assert_equivalent": assert_equivalent, "Mesh": Mesh, "P": P})


def test_an_error_is_found_in_halves(rules):
    @spmd.rule("relax.cumsum")
    def broken(op):
        raise ValueError("this rule is broken")

    cases = [*(of(Right, f"_{i}") for i in range(5)), of(Long, "_5"), of(Right, "_6")]
    found = failures(cases)
    assert list(found) == [5]
    assert "this rule is broken" in found[5]


def test_programs_of_one_name_are_told():
    with pytest.raises(ValueError, match=r"two programs have a function 'main'.*prefix"):
        assert_all_equivalent([Case(Right, Mesh(tp=2)), Case(Long, Mesh(tp=2))])


def test_kinds_forget_names():
    assert kind_of("result[3][0]: the largest difference is 2") == kind_of("result: 3 elements differ")
    assert kind_of("function 'f1': [] ran unplanned") == kind_of("function 'f22': [1] ran unplanned")
    assert kind_of("ShardingError: a") != kind_of("WorkerError: a")
    assert kind_of("ShardingError: f1: 'x' is lost") == kind_of("ShardingError: f22_3: 'f22_y' is lost")
    assert kind_of("ShardingError: f1: 'x' is lost") != kind_of("ShardingError: specs['x']: it matches no weight")


def test_the_smallest_that_has_an_operator():
    """`fails` may be anything: here, having a product over the workers of a split sum."""

    def fails(cases):
        return {i for i, c in enumerate(cases) if "R.multiply" in c.mod.script()}

    least = smallest(of(Long, "_0", 4, x=P("tp", None)), fails, float("inf"))
    assert least.mesh == Mesh(tp=2)
    assert not least.specs
    (function,) = least.mod.functions.values()
    assert [b.value.op.name for block in function.body.blocks for b in block.bindings if isinstance(b.value, tvm.ir.Call)] == [
        "relax.multiply"
    ]
    relax.analysis.well_formed(least.mod)


def test_random_programs_are_well_formed_and_of_many_operators():
    seen = set()

    @settings(
        max_examples=300, derandomize=True, database=None, deadline=None, phases=[Phase.generate], suppress_health_check=[*HealthCheck]
    )
    @given(st.data())
    def draw(data):
        mod = data.draw(programs(functions=2))
        relax.analysis.well_formed(mod)
        spmd.plan(mod, data.draw(meshes()), data.draw(specs(mod)))
        text = mod.script()
        seen.update(re.findall(r"R\.([\w.]+)\(", text))
        seen.update(word for word in ("private=True", "T.prim_func", '"n3"', "float16", "num_input", "        if ") if word in text)

    draw()
    assert len(seen) > 100, sorted(seen)
    assert seen >= {"private=True", "T.prim_func", "float16", "num_input", "        if ", "nn.conv2d", "nn.attention", "scatter_elements"}
