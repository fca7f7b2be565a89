"""Optimizations that TVM refuses are left out where it does, with a word, and nowhere else."""

import logging

import numpy as np
import pytest
import tvm
import tvm_ffi
from tvm import relax, te
from tvm.relax import op
from tvm.script import ir as I
from tvm.script import relax as R

import spmd
from spmd import P, schedules
from spmd.schedules.optional import FuseGroups, Optional, refused, taken_apart
from spmd.testing import assert_equivalent

MATRIX = relax.TensorType([12, 20], "float32")


def small(bb, name="small"):
    """A kernel whose sizes are int32."""
    a = te.placeholder((12, 20), "float32", "a")
    function = te.create_prim_func([a, te.compute((12, 20), lambda i, j: a[i // 2, j], "out")])
    return bb.add_func(function.without_attr("global_symbol"), name)


def product(private=False):
    """A product of x with what a kernel with int32 sizes makes and a transpose turns; another one beside it, of int64 alone."""
    bb = relax.BlockBuilder()
    x, y, w = relax.Var("x", MATRIX), relax.Var("y", relax.TensorType([3, 20], "float32")), relax.Var("w", MATRIX)
    kernel = small(bb)
    with bb.function("main", [x, y, w]):
        with bb.dataflow():
            made = bb.emit(op.call_tir(kernel, [x], out_ty=MATRIX))
            first = bb.emit(op.matmul(y, bb.emit(op.permute_dims(made))))
            second = bb.emit(op.matmul(y, bb.emit(op.permute_dims(w))))
            out = bb.emit_output(op.tanh(bb.emit(op.add(first, second))))
        bb.emit_func_output(out)
    return bb.finalize()


@I.ir_module
class Nested:
    """A private function that takes and gives tuples in tuples."""

    @R.function
    def main(x: R.Tensor((4, 6), "float32"), y: R.Tensor((4, 6), "float32")):
        cls = Nested
        with R.dataflow():
            lv = cls.both((x, (y, x)))
            lv1 = lv[1]
            lv2 = lv1[0]
            lv3 = lv1[1]
            lv4 = lv[0]
            lv5 = R.add(lv2, lv3)
            lv6 = R.multiply(lv5, lv4)
            gv = (lv6, (lv3, lv4))
            R.output(gv)
        return gv

    @R.function(private=True)
    def both(
        t: R.Tuple(R.Tensor((4, 6), "float32"), R.Tuple(R.Tensor((4, 6), "float32"), R.Tensor((4, 6), "float32"))),
    ) -> R.Tuple(R.Tensor((4, 6), "float32"), R.Tuple(R.Tensor((4, 6), "float32"), R.Tensor((4, 6), "float32"))):
        with R.dataflow():
            lv = t[1]
            lv1 = lv[0]
            lv2 = t[0]
            lv3 = R.sin(lv1)
            lv4 = R.exp(lv2)
            gv = (lv3, (lv4, lv1))
            R.output(gv)
        return gv


def arrays(mod):
    rng = np.random.default_rng(3)
    return [rng.uniform(-1, 1, [int(s) for s in p.ty.shape]).astype("float32") for p in mod["main"].params]


def flat(result):
    return [result.numpy()] if hasattr(result, "numpy") else [a for part in result for a in flat(part)]


def leaves(result):
    return [np.asarray(result)] if not isinstance(result, tuple | list) else [a for part in result for a in leaves(part)]


@pytest.mark.parametrize("mod", [product(), Nested], ids=["sizes", "tuples"])
def test_programs_that_tvm_compiles_run_on_workers(mod):
    given = arrays(mod)
    expected = flat(relax.VirtualMachine(tvm.compile(mod, "llvm"), tvm.cpu())["main"](*map(tvm.runtime.tensor, given)))
    with spmd.workers(mod) as w:
        found = leaves(w["main"](*given))
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    assert_equivalent(mod, 2, {"main.x": P(None, "tp")})


def test_one_refused_group_costs_the_others_nothing(caplog):
    """The product of the other weight is made with its transpose in one kernel, as ever."""
    with caplog.at_level(logging.WARNING, "spmd"), schedules.resolve("llvm"):
        passes = [relax.transform.LegalizeOps(), relax.transform.AnnotateTIROpPattern(), schedules.FuseProducers()]
        made = tvm.transform.Sequential(passes)(product())
    names = {gv.name_hint for gv, f in made.functions_items() if isinstance(f, tvm.tirx.PrimFunc)}
    assert "small" in names
    assert any(name.startswith("fused_weight_matmul") for name in names)
    assert "'fused_weight_matmul': TVM cannot make one kernel of this group, and its kernels stay apart (InternalError: " in caplog.text
    assert caplog.text.count("stay apart") == 1
    assert not any(f.attrs.get("Primitive") for _, f in made.functions_items() if isinstance(f, relax.Function) and f.attrs)


def test_nothing_is_said_where_nothing_fails(caplog):
    with caplog.at_level(logging.INFO, "spmd"):
        schedules.build(Nested)
    assert caplog.text == ""


@tvm.transform.module_pass(opt_level=0, name="tests.Fussy")
class Fussy:
    """Marks each function, and fails on those with ``bad`` in their names."""

    def __init__(self):
        self.runs = 0

    def transform_module(self, mod, _ctx):
        self.runs += 1
        functions = dict(mod.functions_items())
        for gv, f in functions.items():
            if isinstance(f, relax.Function):
                if "bad" in gv.name_hint:
                    raise ValueError(f"cannot do {gv.name_hint}\nmore lines")
                functions[gv] = f.with_attr("marked", 1)
        return tvm.IRModule(functions)


def functions(*names):
    bb = relax.BlockBuilder()
    for name in names:
        x = relax.Var("x", relax.TensorType([4], "float32"))
        with bb.function(name, [x]):
            bb.emit_func_output(bb.emit(op.sin(x)))
    return bb.finalize()


def test_a_pass_is_left_out_for_the_functions_on_which_it_fails(caplog):
    mod = functions("a", "bad", "c", "worse_bad", "e")
    before = tvm_ffi.structural_hash(mod)
    with caplog.at_level(logging.WARNING, "spmd"):
        made = Optional(Fussy())(mod)
    marked = {gv.name_hint for gv, f in made.functions_items() if f.attrs.get("marked")}
    assert marked == {"a", "c", "e"}
    assert {gv.name_hint for gv in made.get_global_vars()} == {"a", "bad", "c", "worse_bad", "e"}
    tvm.ir.assert_structural_equal(made["bad"], mod["bad"])
    assert [r.getMessage() for r in caplog.records] == [
        "'bad': tests.Fussy fails and is left out (ValueError: cannot do bad)",
        "'worse_bad': tests.Fussy fails and is left out (ValueError: cannot do worse_bad)",
    ]
    assert tvm_ffi.structural_hash(mod) == before


def test_a_pass_runs_once_where_nothing_fails():
    tried, mod = [], functions("a", "b")

    @tvm.transform.module_pass(opt_level=0, name="tests.Counted")
    def counted(mod, _ctx):
        tried.append(len(mod.functions_items()))
        return mod

    Optional(counted)(mod)
    assert tried == [2]


def test_what_is_refused_is_found_by_halves():
    tried = []

    def run(names):
        tried.append(len(names))
        if "n5" in names:
            raise ValueError("n5")

    assert {n: str(e) for n, e in refused([f"n{i}" for i in range(64)], run).items()} == {"n5": "n5"}
    assert len(tried) == 13
    assert refused([], run) == {}


def test_a_group_without_kernels_is_taken_apart_in_silence(caplog):
    with caplog.at_level(logging.WARNING, "spmd"), schedules.resolve("llvm"):
        passes = [relax.transform.LegalizeOps(), relax.transform.AnnotateTIROpPattern(), relax.transform.CanonicalizeBindings()]
        made = tvm.transform.Sequential([*passes, relax.transform.FuseOps(), FuseGroups()])(Nested)
    assert caplog.text == ""
    assert relax.analysis.well_formed(made) in (None, True)
    assert taken_apart(made, []) is made
