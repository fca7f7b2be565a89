"""Results in the memory of the parameters that they replace: where they are, where they are not, and that numbers are those without it."""

import numpy as np
import pytest
import tvm
from tvm import relax
from tvm.relax import op
from tvm.script import ir as I
from tvm.script import relax as R

from spmd.schedules import build

T = R.Tensor((4, 4), "float32")
RNG = np.random.default_rng(0)


@I.ir_module
class Updates:
    """Functions of two parameters; the first result replaces the first parameter, the second the second."""

    @R.function
    def element_by_element(a: T, b: T):
        R.func_attr({"spmd.donated": [[[0], [0]], [[1], [1]]]})
        with R.dataflow():
            c = R.matmul(a, b)
            x = R.subtract(R.multiply(a, R.const(0.5)), c)
            y = R.add(b, R.divide(c, R.add(R.const(2.0), R.abs(b))))
            R.output(x, y)
        return (x, y)

    @R.function
    def of_each_other(a: T, b: T):
        R.func_attr({"spmd.donated": [[[0], [0]], [[1], [1]]]})
        with R.dataflow():
            x = R.add(a, b)
            y = R.subtract(a, b)
            R.output(x, y)
        return (x, y)

    @R.function
    def read_afterwards(a: T, b: T):
        R.func_attr({"spmd.donated": [[[0], [0]], [[1], [1]]]})
        with R.dataflow():
            x = R.exp(a)
            y = R.matmul(a, R.matmul(x, b))
            R.output(x, y)
        return (x, y)

    @R.function
    def elsewhere(a: T, b: T):
        R.func_attr({"spmd.donated": [[[0], [0]], [[1], [1]]]})
        with R.dataflow():
            x = R.add(a, R.permute_dims(a))
            y = R.subtract(b, R.sum(b, axis=[1], keepdims=True))
            R.output(x, y)
        return (x, y)

    @R.function
    def of_products(a: T, b: T):
        R.func_attr({"spmd.donated": [[[0], [0]], [[1], [1]]]})
        with R.dataflow():
            x = R.matmul(a, b)
            y = R.subtract(b, R.matmul(x, x))
            R.output(x, y)
        return (x, y)

    @R.function
    def given_back(a: T, b: T):
        R.func_attr({"spmd.donated": [[[0], [0]], [[1], [1]]]})
        with R.dataflow():
            y = R.multiply(b, a)
            z = R.reshape(b, (16,))
            R.output(y, z)
        return (a, y, z)

    @R.function
    def made_once(a: T, b: T):
        R.func_attr({"spmd.donated": [[[0], [0]], [[1], [1]]]})
        with R.dataflow():
            x = R.multiply(b, a)
            R.output(x)
        return (x, x)

    @R.function
    def in_branches(a: T, b: T):
        R.func_attr({"spmd.donated": [[[0], [0]], [[1], [1]]]})
        if R.greater(R.sum(a), R.const(0.0)):  # noqa: SIM108
            x = R.add(a, b)
        else:
            x = R.subtract(a, b)
        y = R.add(b, R.const(1.0))
        return (x, y)

    @R.function
    def packed(p: R.Tuple(T, R.Tuple(T, T)), c: T):
        R.func_attr({"spmd.donated": [[[0, 1], [0, 1, 1]], [[1], [0, 0]]]})
        with R.dataflow():
            a = p[0]
            q = p[1]
            b = q[1]
            x = R.add(R.multiply(b, c), c)
            y = R.add(a, x)
            R.output(x, y)
        return ((c, x), y)


EXPECTED = {
    "element_by_element": (True, True),
    "of_each_other": (False, True),
    "read_afterwards": (False, True),
    "elsewhere": (False, True),
    "of_products": (False, True),
    "given_back": (True, False),
    "made_once": (True, False),
    "in_branches": (False, True),
}
"""Whether each result lies in the memory of what it replaces."""


@pytest.fixture(scope="module")
def machines():
    plain = tvm.IRModule({gv: f.without_attr("spmd.donated") for gv, f in Updates.functions_items()})
    return [relax.VirtualMachine(build(mod), tvm.cpu()) for mod in (plain, Updates)]


def flat(found):
    return [one for part in found for one in (flat(part) if isinstance(part, (tuple, list, tvm.ir.Array)) else [part])]


@pytest.mark.parametrize("name", EXPECTED)
def test_results_take_the_memory_of_what_they_replace(machines, name):
    arrays = [RNG.normal(size=(4, 4)).astype("float32") for _ in range(2)]
    plain = machines[0][name](*map(tvm.runtime.tensor, arrays))
    given = list(map(tvm.runtime.tensor, arrays))
    found = machines[1][name](*given)
    for one, other in zip(plain, found, strict=True):
        np.testing.assert_allclose(other.numpy(), one.numpy(), rtol=1e-6)
    assert tuple(one.data_ptr() == old.data_ptr() for one, old in zip(found[:2], given, strict=True)) == EXPECTED[name]


def test_fields_of_packed_parameters_are_written(machines):
    arrays = [RNG.normal(size=(4, 4)).astype("float32") for _ in range(4)]
    a, other, b, c = map(tvm.runtime.tensor, arrays)
    (_, x), y = machines[1]["packed"]((a, (other, b)), c)
    assert (x.data_ptr(), y.data_ptr()) == (b.data_ptr(), a.data_ptr())
    np.testing.assert_allclose(x.numpy(), arrays[2] * arrays[3] + arrays[3], rtol=1e-5)
    np.testing.assert_allclose(y.numpy(), arrays[0] + x.numpy(), rtol=1e-6)
    np.testing.assert_array_equal(other.numpy(), arrays[1])


_PROGRAMS = 12
UNARY = (op.exp, op.permute_dims, op.negative, lambda v: op.sum(v, 1, keepdims=True), lambda v: op.reshape(v, (4, 4)), op.nn.softmax)
BINARY = (op.add, op.subtract, op.multiply, op.matmul)


def random_program(rng, builder, name):
    """Three parameters, some ten operators on them and what they give, and three results of which each replaces one."""
    params = [relax.Var(f"p{i}", relax.TensorType([4, 4], "float32")) for i in range(3)]
    with builder.function(name, params, attrs={"spmd.donated": [[[i], [i]] for i in range(3)]}):
        with builder.dataflow():
            values = list(params)
            for _ in range(rng.integers(5, 12)):
                x, y = (values[i] for i in rng.integers(max(0, len(values) - 6), len(values), 2))
                if rng.random() < 0.4:
                    made = builder.emit(UNARY[rng.integers(len(UNARY))](builder.emit(op.tanh(x))))
                    values.append(made if made.ty.shape.values[1] == 4 else builder.emit(op.add(made, y)))
                else:
                    values.append(builder.emit(BINARY[rng.integers(len(BINARY))](x, y)))
            result = builder.emit_output(relax.Tuple([values[i] for i in rng.integers(2, len(values), 3)]))
        builder.emit_func_output(result)


def test_random_programs_give_what_they_give_without_it():
    rng, builder = np.random.default_rng(3), relax.BlockBuilder()
    for i in range(_PROGRAMS):
        random_program(rng, builder, f"f{i}")
    mod = builder.get()
    plain = tvm.IRModule({gv: f.without_attr("spmd.donated") for gv, f in mod.functions_items()})
    alone, donating = (relax.VirtualMachine(build(m), tvm.cpu()) for m in (plain, mod))
    taken = 0
    for i in range(_PROGRAMS):
        arrays = [rng.normal(size=(4, 4)).astype("float32") for _ in range(3)]
        wanted = [one.numpy() for one in alone[f"f{i}"](*map(tvm.runtime.tensor, arrays))]
        given = list(map(tvm.runtime.tensor, arrays))
        found = donating[f"f{i}"](*given)
        for one, other in zip(wanted, found, strict=True):
            np.testing.assert_allclose(other.numpy(), one, rtol=1e-5, atol=1e-6)
        taken += sum(one.data_ptr() == old.data_ptr() for one, old in zip(found, given, strict=True))
    assert taken > 6
