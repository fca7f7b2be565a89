"""build(): what it leaves alone, what it repeats, targets without a device, errors."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import tvm
import tvm_ffi
from tvm import relax, tirx
from tvm.script import ir as I
from tvm.script import relax as R
from tvm.script import tirx as T

from spmd import schedules
from spmd.schedules.cpu import Fallback
from tests.schedules.kernels import mlp, normal, scheduled

GPUS = [
    {"kind": "cuda", "arch": "sm_90"},
    {"kind": "opencl"},
    {"kind": "metal"},
    {"kind": "webgpu"},
]


@I.ir_module(s_tir=True)
class Marked:
    """A function that somebody has scheduled, and one that nobody has."""

    @T.prim_func(private=True, s_tir=True)
    def done(x: T.Buffer((8,), "float32"), y: T.Buffer((8,), "float32")):
        T.func_attr({"tirx.is_scheduled": True, "tirx.noalias": True})
        for i in T.serial(4):
            for j in T.unroll(2):
                with T.sblock("double"):
                    v = T.axis.spatial(8, i * 2 + j)
                    y[v] = x[v] * T.float32(2)

    @T.prim_func(private=True, s_tir=True)
    def plain(x: T.Buffer((8,), "float32"), y: T.Buffer((8,), "float32")):
        T.func_attr({"tirx.noalias": True})
        for i in range(8):
            with T.sblock("increment"):
                v = T.axis.spatial(8, i)
                y[v] = x[v] + T.float32(1)

    @R.function
    def main(x: R.Tensor((8,), "float32")) -> R.Tensor((8,), "float32"):
        cls = Marked
        with R.dataflow():
            lv = R.call_tir(cls.done, (x,), out_ty=R.Tensor((8,), "float32"))
            gv = R.call_tir(cls.plain, (lv,), out_ty=R.Tensor((8,), "float32"))
            R.output(gv)
        return gv


def test_module_is_unchanged() -> None:
    for mod in (mlp(16, 24), Marked):
        text, held = mod.script(), dict(mod.functions_items())
        schedules.build(mod)
        assert mod.script() == text
        assert all(mod[name].same_as(func) for name, func in held.items())


def test_scheduled_functions_stay() -> None:
    with schedules.resolve("llvm"):
        after = schedules.CPUSchedules()(schedules.WidenHalf()(Marked))
    assert after["done"].same_as(Marked["done"])
    assert after["plain"].attrs["spmd.schedule_rule"] == "Fallback"
    result = relax.VirtualMachine(schedules.build(Marked), tvm.cpu())["main"](tvm.runtime.tensor(np.ones(8, "float32")))
    np.testing.assert_array_equal(result.numpy(), np.full(8, 3, "float32"))


def test_same_module_same_kernels() -> None:
    first, second = (scheduled(mlp(16, 24)) for _ in range(2))
    assert first.keys() == second.keys()
    assert all(first[name].script() == second[name].script() for name in first)


class Counting(Fallback):
    calls = 0

    def apply(self, func: tirx.PrimFunc, target: tvm.target.Target, tunable: bool) -> tvm.s_tir.Schedule | None:
        self.calls += 1
        return super().apply(func, target, tunable)


def test_equal_structures_are_scheduled_once() -> None:
    rule, one, other = Counting(), tvm.ir.GlobalVar("one"), tvm.ir.GlobalVar("other")
    mod = tvm.IRModule({one: Marked["plain"], other: Marked["plain"].with_attr("global_symbol", "other")})
    with schedules.resolve("llvm"):
        after = schedules.CPUSchedules(rules=[rule])(mod)
    assert rule.calls == 1
    assert after["other"].attrs["global_symbol"] == "other"
    assert "global_symbol" not in after["one"].attrs
    assert after["one"].attrs["spmd.schedule_rule"] == "Counting"


def loop_kinds(funcs: dict[str, tirx.PrimFunc]) -> set[int]:
    kinds: set[int] = set()
    for func in funcs.values():
        tvm_ffi.structural_walk(func.body, (tirx.For, lambda loop: kinds.add(int(loop.kind))))
    return kinds


def test_parallel_loops_only_on_request_and_only_for_much_work() -> None:
    assert tirx.ForKind.PARALLEL not in loop_kinds(scheduled(mlp(256, 512)))
    assert tirx.ForKind.PARALLEL in loop_kinds(scheduled(mlp(256, 512), parallel=True))
    assert tirx.ForKind.PARALLEL not in loop_kinds(scheduled(mlp(16, 24), parallel=True))


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_mlp(dtype: str) -> None:
    mod = mlp(48, 64, dtype)
    machine = relax.VirtualMachine(schedules.build(mod), tvm.cpu())
    gain, up, down = normal(1, (48,), dtype), normal(2, (128, 48), dtype, 0.2), normal(3, (48, 64), dtype, 0.2)
    for name, rows in (("decode", 1), ("prefill", 1), ("prefill", 13)):
        x = normal(4, (1, rows, 48), dtype)
        wide = x.astype("float64")
        hidden = wide / np.sqrt((wide**2).mean(-1, keepdims=True) + 1e-5) * gain @ up.astype("float64").T
        gate, value = hidden[..., :64], hidden[..., 64:]
        expected = wide + gate / (1 + np.exp(-gate)) * value @ down.astype("float64").T
        result = machine[name](*[tvm.runtime.tensor(a) for a in (x, gain, up, down)]).numpy()
        tolerance = 1e-4 if dtype == "float32" else 2e-2
        np.testing.assert_allclose(result, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("parallel", [False, True])
def test_one_executable_on_several_threads(parallel: bool) -> None:
    """Each worker has a machine of its own over the same code; none waits for another."""
    executable = schedules.build(mlp(48, 64), parallel=parallel)
    inputs = [normal(i, s, "float32", 0.2) for i, s in enumerate([(1, 13, 48), (48,), (128, 48), (48, 64)])]
    results: list[np.ndarray | None] = [None] * 4

    def work(rank: int) -> None:
        machine = relax.VirtualMachine(executable, tvm.cpu())
        for _ in range(5):
            results[rank] = machine["prefill"](*[tvm.runtime.tensor(a) for a in inputs]).numpy()

    threads = [threading.Thread(target=work, args=(rank,), daemon=True) for rank in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert all(r is not None and np.array_equal(r, results[0]) for r in results)


@pytest.mark.parametrize("target", GPUS, ids=lambda t: t["kind"])
def test_gpu_targets_compile_without_a_device(target: dict[str, str]) -> None:
    assert schedules.build(mlp(64, 96, "float16"), target) is not None


def test_rocm_gets_threads() -> None:
    """Only to schedules: code generation needs the device libraries of a ROCm installation."""
    target = schedules.resolve({"kind": "rocm", "mcpu": "gfx1100"})
    kernels = [f for f in schedules.pipeline(target)(mlp(64, 96)).functions.values() if isinstance(f, tirx.PrimFunc)]
    assert any(tirx.ForKind.THREAD_BINDING in loop_kinds({"kernel": f}) for f in kernels)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("nonsense", "not one that TVM knows"),
        ({"kind": "llvm", "colour": 1}, "not one that TVM knows"),
        ("vulkan", "generates no code for it. Available: llvm"),
    ],
)
def test_unknown_targets(target: str | dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        schedules.build(Marked, target)


@pytest.mark.skipif(tvm.cuda().exist, reason="this machine has the GPU")
def test_gpu_without_architecture() -> None:
    with pytest.raises(ValueError, match='"arch": "sm_90"'):
        schedules.build(Marked, "cuda")


def test_resolved_cpu_target() -> None:
    target = schedules.resolve("llvm")
    assert target.attrs["mcpu"] == tvm.get_global_func("target.llvm_get_system_cpu")()
    assert target.attrs["fast-math-reassoc"] and target.attrs["fast-math-contract"]
    assert not {"fast-math", "fast-math-nnan", "fast-math-ninf"} & set(target.attrs)
    assert schedules.resolve({"kind": "llvm", "mcpu": "haswell"}).attrs["mcpu"] == "haswell"


def test_resolved_cuda_target() -> None:
    target = schedules.resolve({"kind": "cuda", "arch": "sm_90", "host": {"kind": "llvm", "mcpu": "haswell"}})
    assert (target.attrs["max_shared_memory_per_block"], target.host.attrs["mcpu"]) == (48 << 10, "haswell")
    assert (
        schedules.resolve({"kind": "cuda", "arch": "sm_90", "max_shared_memory_per_block": 99328}).attrs["max_shared_memory_per_block"]
        == 99328
    )


@I.ir_module
class Branches:
    """Of two branches, each makes a value that is gone when they meet: TVM plans one storage, made in the first, for both and for after."""

    @R.function
    def main(x: R.Tensor((12, 8), "float32"), first: R.Tensor((), "bool")):
        if first:
            a = R.cos(x)
            b = R.sum(a, axis=[1], keepdims=True)
            y = R.subtract(x, b)
        else:
            c = R.sin(x)
            d = R.sum(c, axis=[1], keepdims=True)
            y = R.add(x, d)
        m = R.mean(y, axis=[1], keepdims=True)
        z = R.subtract(y, m)
        return z


def test_memory_is_planned_within_branches_only() -> None:
    machine = relax.VirtualMachine(schedules.build(Branches), tvm.cpu())
    x = np.random.default_rng(0).standard_normal((12, 8)).astype("float32")
    for first in (False, True):
        y = x - np.cos(x).sum(1, keepdims=True) if first else x + np.sin(x).sum(1, keepdims=True)
        found = machine["main"](tvm.runtime.tensor(x), tvm.runtime.tensor(np.array(first))).numpy()
        np.testing.assert_allclose(found, y - y.mean(1, keepdims=True), atol=1e-5)


@I.ir_module
class Indexed:
    """An operator that takes a tuple: its legal form reads fields of a tuple that is written out."""

    @R.function
    def main(x: R.Tensor((9,), "float32"), i: R.Tensor((3,), "int64")):
        with R.dataflow():
            j = R.floor_mod(i, R.const(9, "int64"))
            y = R.index_tensor(x, (j,))
            R.output(y)
        return y


def test_fields_of_a_tuple_are_fused() -> None:
    machine = relax.VirtualMachine(schedules.build(Indexed), tvm.cpu())
    x = np.arange(9, dtype="float32")
    found = machine["main"](tvm.runtime.tensor(x), tvm.runtime.tensor(np.array([12, 8, -1]))).numpy()
    np.testing.assert_array_equal(found, [3, 8, 8])


@I.ir_module
class Mixed:
    """Rows by 32-bit indices of a table that is put together with 64-bit ones: TVM cannot merge the two, and says so by a TypeError."""

    @R.function
    def main(x: R.Tensor((3,), "float32"), i: R.Tensor((4,), "int32")):
        with R.dataflow():
            last = R.strided_slice(x, axes=[0], begin=[2], end=[3])
            first = R.strided_slice(x, axes=[0], begin=[0], end=[2])
            rolled = R.concat((last, first), axis=0)
            y = R.gather_elements(rolled, i, axis=0)
            R.output(y)
        return y


def test_what_cannot_be_inlined_stays() -> None:
    machine = relax.VirtualMachine(schedules.build(Mixed), tvm.cpu())
    i = np.array([0, 1, 2, 0], "int32")
    found = machine["main"](tvm.runtime.tensor(np.arange(3, dtype="float32")), tvm.runtime.tensor(i)).numpy()
    np.testing.assert_array_equal(found, [2, 0, 1, 2])


def test_errors_of_rules_are_not_taken_for_refusals() -> None:
    class Broken(Fallback):
        def schedule(self, kernel):
            raise TypeError("a mistake")

    with schedules.resolve("llvm"), pytest.raises(TypeError, match="a mistake"):
        schedules.CPUSchedules(rules=[Broken()])(Marked)
