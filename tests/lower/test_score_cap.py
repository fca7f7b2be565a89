"""Capped scores: each kernel that has scores caps them once, and the kernels of a worker are those of the local heads, capped."""

import pytest
import tvm
from tvm import tirx

from spmd.errors import ShardingError
from spmd.lower.kv_cache import local_kernels
from spmd.lower.score_cap import ATTRIBUTE, capped
from spmd.transform import CapScores
from tests.lower.test_kv_cache import CUDA, cache_module, create_call


def test_each_kernel_with_scores_caps_them_once():
    mod = CapScores(50.0)(cache_module(4, 2, target=CUDA))
    for var in set(mod.get_global_vars()) - {mod.get_global_var("create")}:
        scored = any(isinstance(param, tirx.Var) and param.name == "sm_scale" for param in mod[var].params)
        assert mod[var].script().count("T.tanh") == scored, var


def test_kernels_of_a_part_of_the_heads():
    plain, cap = cache_module(9, 3), CapScores(50.0)
    whole, expected = cap(plain), cap(cache_module(3, 1))
    for name, kernel in local_kernels(whole, create_call(whole), 3, 1, "create", attrs=whole["create"].attrs).items():
        tvm.ir.assert_structural_equal(kernel, expected[name], map_free_vars=True)
    with pytest.raises(ShardingError, match="is not what TIRPagedKVCache makes for 9 query and 3 KV heads"):
        local_kernels(plain, create_call(plain), 3, 1, "create", attrs={ATTRIBUTE: "50.0"})
    with pytest.raises(ShardingError, match="the attribute score_cap, no, is no positive number"):
        local_kernels(whole, create_call(whole), 3, 1, "create", attrs={ATTRIBUTE: "no"})


def test_what_cannot_be_capped_is_refused():
    whole = CapScores(50.0)(cache_module(8, 2))
    with pytest.raises(Exception, match="its cache caps scores already"):
        CapScores(50.0)(whole)
    with pytest.raises(Exception, match="no function of it calls vm"):
        CapScores(50.0)(tvm.IRModule())
    kernel = tirx.PrimFunc([tirx.Var("sm_scale", "float32")], tirx.Evaluate(0))
    with pytest.raises(ShardingError, match="kernel 'k': 0 places of it look like scores, where one was expected"):
        capped(kernel, 50.0, "kernel 'k'")
