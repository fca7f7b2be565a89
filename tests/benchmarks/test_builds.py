"""What a build for each kind of GPU is like, on two layers of the sizes of Llama-2-70B in 4 bits for two workers."""

from __future__ import annotations

import pytest
import tvm

from benchmarks import builds
from examples.llm.errors import ModelError

MODEL, FORM, WORKERS = "llama-2-70b", "q4f16_1", 2
METHODS = ("decode", "batch_decode")
LAYER = 7
"""Kernels: products for q/k/v, o, gate/up and down, the activation, and the residual with its norm twice."""


def check(built: builds.Built) -> None:
    """What holds for every target."""
    part, whole = (builds.held(mod, 78) for mod in (built.mod, built.whole))
    assert part * WORKERS <= 1.02 * whole
    for name in METHODS:
        assert len(built.seen.layer(name)) <= LAYER, name
    assert built.seen.planned["batch_decode"].unplanned == 0
    with_few, without = built.seen.products("batch_decode")
    assert len(with_few) == 5 and not without


@pytest.fixture(scope="module")
def cuda() -> builds.Built:
    return builds.build(MODEL, FORM, "sm_80", WORKERS, methods=METHODS)


def test_cuda(cuda: builds.Built) -> None:
    check(cuda)
    for name in METHODS:
        inside, all_of_them = cuda.seen.in_graphs(name)
        assert inside / all_of_them >= 13 / 16, name
    assert "__launch_bounds__(256, 4) fused_weight_matmul" in cuda.source and "__launch_bounds__(256) " not in cuda.source
    assert '"fused_weight_matmul' not in cuda.source and "fused_weight_matmul_kernel_2" in cuda.source


def test_sources_hold_no_wide_floats(cuda: builds.Built) -> None:
    """TVM writes a float32 that is repeated eight times as a call that no compiler of CUDA takes."""
    assert "make_ulonglong4(" not in cuda.source


@pytest.mark.parametrize("target", ["metal", "webgpu", "opencl"])
def test_other_gpus(target: str) -> None:
    built = builds.build(MODEL, FORM, target, WORKERS, methods=METHODS)
    check(built)
    assert built.source


def test_rocm_says_which_tools_it_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> str:
        raise RuntimeError("Cannot find ROCm path")

    monkeypatch.setattr("examples.llm.build.rocm.find_rocm_path", missing)
    with pytest.raises(ModelError, match=r"--target rocm: TVM finds no ROCm to link with \(Cannot find ROCm path\)\. Install AMD's device"):
        builds.build(MODEL, FORM, "gfx1100", WORKERS)


def test_vulkan_is_not_in_this_tvm() -> None:
    assert tvm.get_global_func("target.build.vulkan", allow_missing=True) is None
    said = builds.line(MODEL, FORM, "vulkan", WORKERS, 2, "")
    assert isinstance(said, str)
    assert said.startswith(f"{MODEL} {FORM} vulkan 2: --target: this TVM has no code generator for vulkan. Use a TVM that is built with it")
