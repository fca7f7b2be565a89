"""Which RoPE a kernel applies, against the arguments that it was made with."""

import pytest
import tvm_ffi
from tvm.relax.frontend.nn.llm.kv_cache import llama_rope_with_position_map

from spmd.lower.rope_scaling import find_rope, looks_plain

LLAMA3 = {"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768, "beta_fast": 32, "beta_slow": 1}
YARN["inv_theta_log_scale"] = 0.054


def kernel(scaling, rotary_dim):
    return llama_rope_with_position_map(500000.0, 1, 64, 4, 2, "float16", scaling, rotary_dim)


@pytest.mark.parametrize("rotary_dim", [64, 32])
@pytest.mark.parametrize("scaling", [{}, {"rope_type": "gptj"}, LLAMA3, {**LLAMA3, "rope_type": "llama4", "factor": 16.0}])
def test_arguments_are_found(scaling, rotary_dim):
    found, dim = find_rope(kernel(scaling, rotary_dim), 64, kernel, tvm_ffi.structural_equal)
    assert (found, dim) == (scaling, rotary_dim)


def test_arguments_that_give_the_same_kernel_are_found():
    scaling = {**LLAMA3, "low_freq_factor": 2, "high_freq_factor": 7, "factor": 3.3}
    made = kernel(scaling, 64)
    found, _ = find_rope(made, 64, kernel, tvm_ffi.structural_equal)
    assert tvm_ffi.structural_equal(kernel(found, 64), made)


def test_other_scalings_must_be_given():
    made = kernel(YARN, 64)
    assert find_rope(made, 64, kernel, tvm_ffi.structural_equal) is None
    assert find_rope(made, 64, kernel, tvm_ffi.structural_equal, LLAMA3) is None
    assert find_rope(made, 64, kernel, tvm_ffi.structural_equal, YARN) == (YARN, 64)


@pytest.mark.parametrize("scaling", [{}, {"rope_type": "gptj"}, LLAMA3, YARN])
@pytest.mark.parametrize("rotary_dim", [64, 32])
def test_what_looks_plain(scaling, rotary_dim):
    assert looks_plain(kernel(scaling, rotary_dim), 64) == (scaling == {} and rotary_dim == 64)
