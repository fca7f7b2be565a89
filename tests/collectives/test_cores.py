"""How many threads each worker computes with."""

import threading

import numpy as np
import pytest
import tvm
from tvm.script import ir as I
from tvm.script import relax as R

import spmd
from spmd.collectives import cores


@I.ir_module
class Scaled:
    @R.function
    def main(x: R.Tensor((4, 4), "float32")) -> R.Tensor((4, 4), "float32"):
        return R.multiply(x, R.const(2.0, "float32"))


def of_a_thread(task):
    """What `task` gives in a thread of its own, as TVM keeps a pool for each."""
    found = []
    thread = threading.Thread(target=lambda: found.append(task()))
    thread.start()
    thread.join()
    return found[0]


@pytest.mark.parametrize(("workers", "there", "threads"), [(1, 8, 8), (2, 8, 4), (3, 8, 2), (8, 2, 1)])
def test_processors_are_divided(monkeypatch, workers, there, threads):
    monkeypatch.delenv("TVM_NUM_THREADS", raising=False)
    assert cores.share(workers, there) == threads
    monkeypatch.setenv("TVM_NUM_THREADS", "5")
    assert cores.share(workers, there) == 5


@pytest.mark.skipif(not hasattr(cores.os, "sched_getaffinity"), reason="this system does not say which processors there are")
def test_kernels_run_on_so_many_threads():
    count = tvm.get_global_func("runtime.NumThreads")
    for threads in {1, len(cores.processors())}:
        assert of_a_thread(lambda threads=threads: (cores.compute_with(threads), count())[1]) == threads


def test_workers_use_what_others_leave(monkeypatch):
    monkeypatch.delenv("TVM_NUM_THREADS", raising=False)
    monkeypatch.setattr("spmd.collectives.backend.processors", lambda: list(range(4)))
    x = np.ones((4, 4), "float32")
    for workers, threads in ((1, 4), (2, 2), (8, 1)):
        with spmd.workers(spmd.shard(Scaled, workers)) as w:
            assert w.threads == threads
            np.testing.assert_array_equal(w["main"](x), 2 * x)


@pytest.mark.parametrize(("told", "looks"), [(None, "3000"), ("7", "7")])
def test_threads_without_work_sleep_soon(monkeypatch, told, looks):
    """TVM's own number of looks takes most of a second of a processor for each worker that starts."""
    monkeypatch.delenv("TVM_THREAD_POOL_SPIN_COUNT", raising=False)
    if told is not None:
        monkeypatch.setenv("TVM_THREAD_POOL_SPIN_COUNT", told)
    of_a_thread(lambda: cores.compute_with(1))
    assert cores.os.environ["TVM_THREAD_POOL_SPIN_COUNT"] == looks
