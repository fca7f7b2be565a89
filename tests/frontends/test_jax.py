"""Functions of JAX: as far as TVM's importer goes with the JAX that is installed."""

import numpy as np
import pytest

import spmd

jax = pytest.importorskip("jax")


def imported_or_error(function, *args):
    try:
        return spmd.from_jax(function, *args)
    except spmd.ShardingError as error:
        return str(error)


def test_a_function_or_the_error_of_the_importer():
    x, w = np.ones((4, 8), "float32"), np.ones((8, 8), "float32")
    found = imported_or_error(lambda x, w: x @ w, x, w)
    if isinstance(found, str):
        assert found.startswith(f"from_jax: TVM's importer of StableHLO fails with JAX {jax.__version__}: ")
        return
    with spmd.workers(spmd.shard(found.mod, 2)) as workers:
        np.testing.assert_allclose(np.asarray(workers["main"](x, w)), x @ w)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: spmd.from_jax(3), "from_jax: it takes a function, and got a int"),
        (lambda: spmd.from_jax(lambda x: (x, x), np.ones(2)), "it has 2 results"),
        (lambda: spmd.from_jax(lambda x: x.no_such_method(), np.ones(2)), "JAX cannot trace it: AttributeError"),
    ],
)
def test_what_is_refused(call, message):
    with pytest.raises(spmd.ShardingError, match=message):
        call()
