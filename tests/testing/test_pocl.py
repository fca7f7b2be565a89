"""Programs on simulated GPUs: what is scheduled and compiled for OpenCL gives what the CPU gives."""

import sys
import threading

import numpy as np
import pytest
from tvm import relax
from tvm.script import ir as I
from tvm.script import relax as R

import spmd
from examples.llm.engine import METHODS, start
from examples.llm.model import build_module
from spmd import P, ShardingError
from spmd.testing import assert_all_equivalent, difference
from tests.pocl import need_pocl, on_pocl
from tests.programs import Mlp
from tests.schedules.kernels import module
from tests.test_equivalent_models import ANSWER, HEADS, PROMPT, reference, sharded, weights_of
from tests.test_programs import drawn, parametrize

ONE_SLICE = 50
COLUMNS = {"w1": P(None, "tp"), "w2": P("tp", None)}


def arrays(*shapes):
    rng = np.random.default_rng(0)
    return [rng.standard_normal(shape, np.float32) for shape in shapes]


def test_a_sharded_program():
    program, given = spmd.shard(Mlp, 2, COLUMNS), arrays((4, 16), (16, 32), (32, 16))
    with spmd.workers(program) as w:
        expected, trace = w["main"](*given), w.trace()
    with on_pocl(program) as w:
        found = w["main"](*given)
        assert not difference(expected, found)
        assert w.trace() == trace and trace
        assert len(w.backend._launches) >= 2, "its kernels run on pocl"


def test_constants_that_are_weights():
    w1, w2 = arrays((16, 32), (32, 16))
    program = spmd.shard(
        module([((4, 16), "float32")], lambda builder, args: builder.emit(_product(builder, args[0], w1, w2))),
        2,
        {"main.matmul.0.constant": P(None, "tp"), "main.matmul.1.constant": P("tp", None)},
    )
    (x,) = arrays((4, 16))
    with spmd.workers(program) as w:
        expected = w["main"](x)
    assert not difference(expected, x @ w1 @ w2)
    with on_pocl(program) as w:
        assert not difference(expected, w["main"](x))
        assert w.trace()


def _product(builder, x, w1, w2):
    return relax.op.matmul(builder.emit(relax.op.matmul(x, relax.const(w1))), relax.const(w2))


def times(factor, dtype="float32"):
    """A program of one kernel, of always the same name."""
    return module([((6,), dtype)], lambda builder, args: builder.emit(relax.op.multiply(args[0], relax.const(factor, dtype))))


def test_programs_with_kernels_of_one_name_run_at_one_time():
    (x,) = arrays((6,))
    with on_pocl(times(2)) as twice, on_pocl(times(3)) as thrice:
        assert twice.backend._launches.keys() == thrice.backend._launches.keys()
        together = threading.Barrier(2)

        def run(workers, factor):
            together.wait(10)
            for _ in range(10):
                np.testing.assert_array_equal(workers["main"](x), x * np.float32(factor))
            done.append(factor)

        done = []
        threads = [threading.Thread(target=run, args=pair, daemon=True) for pair in ((twice, 2), (thrice, 3))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert sorted(done) == [2, 3]


@I.ir_module
class Field:
    @R.function
    def main(pair: R.Tuple(R.Tensor((6,), "float32"), R.Tensor((2,), "float32"))):
        x = pair[0]
        y = R.tanh(x)
        return y


def test_fields_of_tuples_have_names_that_kernels_may_have():
    pair = arrays((6,), (2,))
    with on_pocl(spmd.shard(Field, 2, {"main.pair[0]": P("tp")})) as w:
        np.testing.assert_allclose(w["main"](tuple(pair)), np.tanh(pair[0]), rtol=1e-6)


@pytest.mark.slow
def test_a_model_with_a_cache():
    """Attention, rotary embedding and cache by the kernels that TVM has for GPUs."""
    need_pocl()
    program = sharded(build_module(HEADS["9 of 3"], "opencl", METHODS)[0], 2)
    with start(program, weights_of("9 of 3", "float32"), target="opencl", max_seq_len=32) as engine:
        found = engine.score(PROMPT, ANSWER)
    assert not (wrong := difference(reference("9 of 3")[len(PROMPT) - 1 : -1].astype("float32"), found, 1e-3)), wrong


def pytest_generate_tests(metafunc):
    """Slices of the programs that are asked for."""
    parametrize(metafunc, "gpu_programs", ONE_SLICE)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_random_programs(slice_seed, count, record_property):
    need_pocl()
    cases = [case for case in drawn(slice_seed, count, narrow=()) if "float16" not in case.mod.script()]
    record_property("functions", assert_all_equivalent(cases, seed=slice_seed, backend="pocl"))
    record_property("programs", len(cases))


def test_what_is_not_compiled_for_it():
    need_pocl()
    with pytest.raises(ShardingError, match=r"backend 'pocl' runs OpenCL, and the target is 'llvm'\. Pass target=\"opencl\"\."):
        spmd.workers(Mlp, backend="pocl")
    with pytest.raises(ShardingError, match=r"backend 'threads' runs on the CPU, and the target is 'opencl'\. Pass target=\"llvm\"\."):
        spmd.workers(Mlp, target="opencl")


def test_float16_is_refused_before_anything_runs():
    with pytest.raises(ShardingError, match=r"backend 'pocl': a kernel needs cl_khr_fp16, which this pocl lacks\. Use float32\."):
        on_pocl(times(2, "float16"))


def test_without_pyopencl(monkeypatch):
    monkeypatch.delitem(sys.modules, "spmd.testing.pocl", raising=False)
    monkeypatch.setitem(sys.modules, "pyopencl", None)
    with pytest.raises(ShardingError, match=r"backend 'pocl': there is no pyopencl\. pip install 'spmd\[pocl\]'\."):
        on_pocl(Mlp)
