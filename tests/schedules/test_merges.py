"""Merging two results of attention on GPUs."""

import numpy as np
import pytest
import tvm
from tvm import relax, tirx
from tvm.relax.frontend.nn.llm.kv_cache import _merge_state_inplace
from tvm.target import Target

from spmd.schedules.merges import ReadBeforeMerge
from tests.pocl import on_pocl

LARGEST = {"kind": "opencl", "max_num_threads": 256, "max_threads_per_block": 256}


def merge(heads: int, size: int) -> tirx.PrimFunc:
    return _merge_state_inplace(heads, size, "float32", Target(LARGEST), "merge").with_attr("global_symbol", "merge")


@pytest.mark.parametrize(("heads", "size"), [(4, 64), (2, 256)])
def test_threads_read_what_they_all_write_before_any_writes(heads: int, size: int) -> None:
    """Each thread has 4 features of a head; the kernel alone gives other numbers here."""
    n = tirx.Var("n", "int64")
    types = [relax.TensorType([n, heads, *rest], "float32") for rest in ([size], [], [size], [])]
    builder = relax.BlockBuilder()
    kernel = builder.add_func(merge(heads, size), "merge")
    params = [relax.Var(name, ty) for name, ty in zip("abcd", types, strict=True)]
    with builder.function("main", params):
        with builder.dataflow():
            found = builder.emit_output(relax.op.call_tir_inplace(kernel, params, [0, 1], types[:2]))
        builder.emit_func_output(found)
    random = np.random.default_rng(0)
    given = [random.standard_normal((3, heads, *rest)).astype("float32") for rest in ((size,), (), (size,), ())]
    a, b, c, d = (x.astype("float64") for x in given)
    total = np.exp2(b) + np.exp2(d)
    wanted = ((a * np.exp2(b)[..., None] + c * np.exp2(d)[..., None]) / total[..., None], np.log2(total))
    with on_pocl(builder.get()) as workers:
        for one, other in zip(workers["main"](*given), wanted, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)


def test_one_barrier_and_no_second() -> None:
    mod = tvm.IRModule({"merge": merge(4, 64)})
    made = ReadBeforeMerge()(mod)
    assert made["merge"].script().count("tvm_storage_sync") == 1 and "storage_sync" not in mod["merge"].script()
    assert ReadBeforeMerge()(made)["merge"].script().count("tvm_storage_sync") == 1
