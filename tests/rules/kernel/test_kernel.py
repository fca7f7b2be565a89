"""Factors read off PrimFuncs: which dimensions and loops go together, and why a kernel cannot be read."""

import pytest
from tvm import te, tirx
from tvm.script import tirx as T

from spmd.rules.kernel import Unreadable, read_kernel
from tests.models.experts import gemv
from tests.models.group_quant import dequantize_kernel


def kernel(build, *shapes, dtype="float32"):
    """The PrimFunc of ``build(*inputs)``."""
    inputs = [te.placeholder(shape, dtype) for shape in shapes]
    return te.create_prim_func([*inputs, build(*inputs)])


def written(found):
    """Specs as text: factors named a, b, c in order of first use."""
    names: dict[str, str] = {}

    def dim(piece):
        return (
            "(" + " ".join(names.setdefault(f, "abcdefgh"[len(names)]) for f in piece) + ")"
            if len(piece) != 1
            else names.setdefault(piece[0], "abcdefgh"[len(names)])
        )

    text = ", ".join(" ".join(dim(piece) for (piece,) in spec) for spec in found.params)
    return text, {names[f] for f in found.whole if f in names}


def summed(build_value, size):
    k = te.reduce_axis((0, size), "k")
    return lambda *inputs: te.compute((4,), lambda i: te.sum(build_value(*inputs, i, k), axis=k))


def test_pointwise():
    found = read_kernel(kernel(lambda a, b: te.compute((4, 6), lambda i, j: a[i, j] * b[j]), (4, 6), (6,)), 1)
    assert written(found) == ("a b, b, a b", set())
    assert found.reduce is None and found.zero
    assert sorted(found.sizes.values()) == [4, 6]


def test_a_transpose():
    assert written(read_kernel(kernel(lambda a: te.compute((6, 4), lambda i, j: a[j, i]), (4, 6)), 1)) == ("a b, b a", set())


def test_a_product_ends_in_a_sum():
    k = te.reduce_axis((0, 6), "k")
    found = read_kernel(kernel(lambda a, b: te.compute((4, 8), lambda i, j: te.sum(a[i, k] * b[k, j], axis=k)), (4, 6), (6, 8)), 1)
    assert written(found) == ("a b, b c, a c", set())
    assert found.reduce == "sum"


@pytest.mark.parametrize(("reducer", "kind"), [(te.sum, "sum"), (te.max, "max"), (te.min, "min")])
def test_kinds_of_reduction(reducer, kind):
    k = te.reduce_axis((0, 6), "k")

    def found(dtype):
        return read_kernel(kernel(lambda a: te.compute((4,), lambda i: reducer(a[i, k], axis=k)), (4, 6), dtype=dtype), 1).reduce

    assert found("int32") == kind
    assert found("float32") == ("sum" if kind == "sum" else None)  # what is compared with NaN wins, and so order counts


def exchanged(found, factor):
    """What splitting the factor at this place of the text takes: the reductions on the way, and the partial at the end."""
    names = [f for spec in found.params for (piece,) in spec for f in piece]
    staged = found.staged.get(list(dict.fromkeys(names))["abcdefgh".index(factor)])
    return None if staged is None else ([kind for _, kind in staged.reduced], staged.partial)


def test_a_reduction_that_is_used_again_is_cut_there():
    def mean(a):
        k = te.reduce_axis((0, 6), "k")
        total = te.compute((4,), lambda i: te.sum(a[i, k], axis=k))
        return te.compute((4,), lambda i: total[i] / 6.0)

    found = read_kernel(kernel(mean, (4, 6)), 1)
    assert found.reduce is None
    assert written(found) == ("a b, a", set())
    assert exchanged(found, "b") == (["sum"], None)
    assert exchanged(found, "a") is None, "rows need nothing"


def test_softmax_is_cut_twice():
    def softmax(a):
        k, m = te.reduce_axis((0, 6), "k"), te.reduce_axis((0, 6), "m")
        top = te.compute((4,), lambda i: te.max(a[i, m], axis=m))
        exp = te.compute((4, 6), lambda i, j: te.exp(a[i, j] - top[i]))
        total = te.compute((4,), lambda i: te.sum(exp[i, k], axis=k))
        return te.compute((4, 6), lambda i, j: exp[i, j] / total[i])

    found = read_kernel(kernel(softmax, (4, 6)), 1)
    assert written(found) == ("a b, a b", set())
    assert exchanged(found, "b") == (["max", "sum"], None)


def test_group_quantization_splits_in_whole_groups():
    words, scales = te.placeholder((64, 16), "uint32"), te.placeholder((64, 4), "float16")
    found = read_kernel(te.create_prim_func([words, scales, dequantize_kernel(words, scales, 64, 128)]), 1)
    assert written(found) == ("a (b c), a b, a (b c d)", {"c", "d"})
    assert sorted(found.sizes.values()) == [4, 4, 8, 64]
    assert found.zero, "zero scales give zeros: padding of a quantized weight is harmless"


def test_a_merge_of_two_dimensions():
    found = read_kernel(kernel(lambda a: te.compute((4, 6), lambda i, j: a[i * 6 + j]), (24,)), 1)
    assert written(found) == ("(a b), a b", {"b"})


@pytest.mark.parametrize(
    "value",
    [
        lambda a, i: a[i] * i.astype("float32"),
        lambda a, i: te.if_then_else(i < 3, a[i], 0.0),
        lambda a, i: a[tirx.max(i - 1, 0)],
        lambda a, i: a[5 - i],
    ],
    ids=["multiplied by its place", "a mask", "a neighbour", "reversed"],
)
def test_what_depends_on_a_position_is_told_it(value):
    found = read_kernel(kernel(lambda a: te.compute((6,), lambda i: value(a, i)), (6,)), 1)
    text, whole = written(found)
    made = text.split(", ")[1]
    assert made not in whole and exchanged(found, made) == ([], None)
    assert text == "a, a" or whole == {"a"}, "what is read elsewhere than where it is written is whole"


@pytest.mark.parametrize(
    ("value", "linear"),
    [
        (lambda a, i: te.if_then_else(i < 3, a[i], 0.0), ((0,),)),
        (lambda a, i: tirx.Select(i < 3, a[i], tirx.const(0.0, "float32")), ((0,),)),
        (lambda a, i: te.if_then_else(i < 3, a[i], 1.0), ()),
        (lambda a, i: te.if_then_else(a[i] < 3, a[i], 0.0), ()),
    ],
    ids=["or nothing", "or nothing, both computed", "or one", "by its value"],
)
def test_where_partial_sums_go_through_a_choice(value, linear):
    assert read_kernel(kernel(lambda a: te.compute((6,), lambda i: value(a, i)), (6,)), 1).linear == linear


def test_a_diagonal_has_one_factor_twice():
    assert written(read_kernel(kernel(lambda a: te.compute((4,), lambda i: a[i, i]), (4, 4)), 1))[0] == "a a, a"


@pytest.mark.parametrize(
    ("value", "zero"),
    [
        (lambda a, b: a * b, True),
        (lambda a, b: a + b, True),
        (lambda a, b: a + 1.0, False),
        (lambda a, b: te.exp(a), False),
        (lambda a, b: tirx.max(a, b), True),
        (lambda a, b: a * te.rsqrt(b), False),
    ],
    ids=["product", "sum", "plus one", "exp", "max", "zero times infinity"],
)
def test_whether_zeros_stay_zeros(value, zero):
    found = read_kernel(kernel(lambda a, b: te.compute((4,), lambda i: value(a[i], b[i])), (4,), (4,)), 1)
    assert found.zero is zero


@T.prim_func(s_tir=True)
def sum_on_top_of_a_bias(A: T.Buffer((4, 6), "float32"), bias: T.Buffer((4,), "float32"), B: T.Buffer((4,), "float32")):
    for i, k in T.grid(4, 6):
        with T.sblock("sum"):
            vi, vk = T.axis.remap("SR", [i, k])
            with T.init():
                B[vi] = bias[vi]
            B[vi] = B[vi] + A[vi, vk]


def test_a_sum_that_does_not_start_at_zero_is_whole():
    """Each worker would add what it starts from."""
    found = read_kernel(sum_on_top_of_a_bias, 1)
    assert found.reduce is None
    assert written(found) == ("a b, a, a", {"b"})


@T.prim_func(s_tir=True)
def with_a_predicate(A: T.Buffer((6,), "float32"), B: T.Buffer((6,), "float32")):
    for i in range(6):
        with T.sblock("copy"):
            vi = T.axis.spatial(6, i)
            T.where(i < 5)
            B[vi] = A[vi]


@T.prim_func(s_tir=True)
def overlapping_loops(A: T.Buffer((6,), "float32"), B: T.Buffer((6,), "float32")):
    for i, j in T.grid(2, 4):
        with T.sblock("copy"):
            vi = T.axis.spatial(6, i * 2 + j)
            B[vi] = A[vi]


@T.prim_func(s_tir=True)
def on_threads(A: T.Buffer((6,), "float32"), B: T.Buffer((6,), "float32")):
    for i in T.thread_binding(6, thread="threadIdx.x"):
        with T.sblock("copy"):
            vi = T.axis.spatial(6, i)
            B[vi] = A[vi]


@T.prim_func(s_tir=True)
def with_a_call(A: T.Buffer((6,), "float32"), B: T.Buffer((6,), "float32")):
    for i in range(6):
        with T.sblock("copy"):
            vi = T.axis.spatial(6, i)
            T.evaluate(T.call_extern("int32", "f", A[vi]))
            B[vi] = A[vi]


@T.prim_func(s_tir=True)
def sums_of_blocks(A: T.Buffer((6, 4), "float32"), B: T.Buffer((6,), "float32")):
    for i, k in T.grid(6, 4):
        with T.sblock("sum"):
            vi, vk = T.axis.remap("SR", [i, k])
            with T.init():
                B[vi] = T.float32(0)
            with T.sblock("inner"):
                B[vi] = B[vi] + A[vi, vk]


@pytest.mark.parametrize(
    ("func", "why"),
    [
        (sums_of_blocks, "block 'sum' reduces over blocks inside of it"),
        (with_a_predicate, "block 'copy' has a predicate or matched buffers"),
        (overlapping_loops, "block 'copy' is bound to .*, which is no plain loop"),
        (on_threads, "its loop over 'i' is not a plain one from 0"),
        (with_a_call, "block 'copy' holds a Evaluate"),
        (with_a_predicate.with_attr("tirx.is_scheduled", True), "it is already scheduled"),
    ],
    ids=["blocks", "predicate", "loops", "threads", "call", "scheduled"],
)
def test_why_a_kernel_cannot_be_read(func, why):
    with pytest.raises(Unreadable, match=why):
        read_kernel(func, 1)


def test_divisors_that_do_not_nest():
    func = kernel(lambda a, b: te.compute((24,), lambda i: a[i // 4] + b[i // 6]), (6,), (4,))
    with pytest.raises(Unreadable, match="it divides one index by both 6 and 4"):
        read_kernel(func, 1)


@T.prim_func(private=True, s_tir=True)
def bound_row(t: T.Buffer((8, 6), "float32"), ids: T.Buffer((10,), "int32"), o: T.Buffer((10, 6), "float32")):
    for i0, j0 in T.grid(10, 6):
        with T.sblock("rows"):
            i, j = T.axis.remap("SS", [i0, j0])
            row = T.bind(ids[i])
            o[i, j] = t[row, j]


@T.prim_func(private=True, s_tir=True)
def bound_place(x: T.Buffer((10, 6), "float32"), ids: T.Buffer((10,), "int32"), o: T.Buffer((10, 6), "float32")):
    for i0, j0 in T.grid(10, 6):
        with T.sblock("places"):
            i, j = T.axis.remap("SS", [i0, j0])
            row = T.bind(ids[i])
            o[row, j] = x[i, j]


def test_a_place_that_is_bound_first():
    """Rows are read at places that were read, under another name: not from padding; a place to write at keeps its dimension whole."""
    found = read_kernel(bound_row, 1)
    assert written(found) == ("a b, c, c b", {"a"})
    (rows,) = found.staged
    assert found.params[1] == (((rows,),),) and found.gathered == {0}
    text, whole = written(read_kernel(bound_place, 1))
    assert text == "a b, a, c b" and whole == {"a", "c"}


def test_blocks_in_a_block():
    """The variables of the outer one stay whole, and what chooses the rows is no part of sums over the others."""
    found = read_kernel(gemv(3, 10, 64, 2), 1)
    factors = {f for spec in found.params for (piece,) in spec for f in piece}
    assert len(factors - found.whole) == 2 and found.reduce == "sum" and not found.staged
    assert found.pointers == {found.tensors[3]}
