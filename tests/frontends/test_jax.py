"""Functions of JAX: their numbers on one worker and on two, the names of their inputs, and what is refused."""

import numpy as np
import pytest
from tvm import relax

import spmd
from spmd import P
from spmd.frontends import jax_operators

jax = pytest.importorskip("jax")
jnp = pytest.importorskip("jax.numpy")
RNG = np.random.default_rng(0)


def array(*shape):
    return RNG.standard_normal(shape).astype("float32")


def block(params, ids):
    """Embedding, causal attention with heads, a gated layer, norms."""
    x = params["embed"][ids]
    h = x * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + 1e-5)
    q, k, v = (jnp.einsum("btd,dhe->bthe", h, params[name]) for name in "qkv")
    scores = jnp.einsum("bqhe,bkhe->bhqk", q, k) / 8**0.5
    scores = jnp.where(jnp.tril(jnp.ones(scores.shape[-2:], bool)), scores, -jnp.inf)
    x = x + jnp.einsum("bhqk,bkhe,hed->bqd", jax.nn.softmax(scores, -1), v, params["o"])
    return x + jax.nn.silu(x @ params["up"]) @ params["down"], jax.nn.gelu(jax.nn.relu(x)).sum()


PARAMS = {"embed": array(16, 32), **{name: array(32, 4, 8) / 4 for name in "qkv"}, "o": array(4, 8, 32) / 4}
PARAMS |= {"up": array(32, 64) / 4, "down": array(64, 32) / 8}
IDS = RNG.integers(0, 16, (2, 6)).astype("int32")
FUNCTIONS = {
    "product": (lambda x, w: x @ w, (array(4, 8), array(8, 8))),
    "product, turned": (lambda x, w: x @ w.T, (array(4, 8), array(6, 8))),
    "contracted first": (lambda x, w: jnp.tensordot(x, w, ((0,), (0,))), (array(8, 4), array(8, 6))),
    "two contracted": (lambda x, w: jnp.tensordot(x, w, 2), (array(3, 4, 8), array(4, 8, 5))),
    "a row for each": (lambda x, b: x + b[:, None], (array(8, 8), array(8))),
    "powers and bounds": (lambda x: jnp.clip(x**3, -1, 1) + 1 / x**-2, (array(4, 8),)),
    "parts": (lambda x: jnp.concatenate([x[:, 1:3], x[::2, :2].repeat(2, 0)], 1), (array(4, 8),)),
    "booleans compared": (lambda x, y: ((x > 0) <= (y > 0)) ^ jnp.maximum(x > 1, y > 0) ^ ((x > 0) > (y > 1)), (array(4, 8), array(4, 8))),
    "any and all": (lambda x: (jnp.any(x > 1, 1), jnp.all(x > -2, 0), jnp.max(x > 0), jnp.min(x > 0, 1)), (array(4, 8),)),
    "unsigned": (lambda x: (-x, jnp.sign(x), jnp.abs(x)), (np.arange(0, 256, 8, "uint8").reshape(4, 8),)),
    "gradient": (jax.grad(lambda w, x: (jax.nn.relu(x @ w) ** 2).sum()), (array(8, 8), array(4, 8))),
    "block": (block, (PARAMS, IDS)),
}


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("workers", [1, 2])
def test_numbers_are_those_of_jax(name, workers):
    function, args = FUNCTIONS[name]
    imported = spmd.from_jax(function, *args)
    with spmd.workers(spmd.shard(imported.mod, workers)) as running:
        found = running["main"](*jax.tree.leaves(args))
    expected = jax.tree.leaves(function(*args) if name != "block" else function(jax.tree.map(jnp.asarray, args[0]), args[1]))
    for ours, theirs in zip(found if len(expected) > 1 else [found], expected, strict=True):
        np.testing.assert_allclose(np.asarray(ours), np.asarray(theirs), rtol=1e-5, atol=2e-5)


def test_inputs_have_the_paths_of_their_leaves_and_specs_split_them():
    imported = spmd.from_jax(block, PARAMS, IDS)
    sharded = spmd.shard(imported.mod, 2, {"main.params.up": P(None, "tp"), "main.params.down": P("tp", None)})
    assert {"main.params.embed", "main.params.up", "main.ids"} <= set(sharded.plan.inputs)
    assert str(sharded.plan.inputs["main.params.up"]) == "[-, tp]"
    with spmd.workers(sharded) as running:
        found, _ = running["main"](*jax.tree.leaves((PARAMS, IDS)))
    np.testing.assert_allclose(np.asarray(found), np.asarray(block(jax.tree.map(jnp.asarray, PARAMS), IDS)[0]), atol=2e-5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: spmd.from_jax(3), "from_jax: it takes a function, and got a int"),
        (lambda: spmd.from_jax(jax.random.uniform, jax.random.key(0)), r"its argument 'key' is of type key<fry>, which TVM does not have"),
        (lambda: spmd.from_jax(lambda x: x.no_such_method(), np.ones(2)), "JAX cannot trace it: AttributeError"),
        (lambda: spmd.from_jax(lambda x: jnp.sort(x), array(4)), "the operator 'sort' is not known .*known: abs, add"),
        (lambda: spmd.from_jax(lambda x: x // 2, np.ones(2, "int32")), "not known"),
        (lambda: spmd.from_jax(lambda x: x[np.array([0, 1]), np.array([1, 0])], array(4, 4)), "'gather' is known of rows"),
        (lambda: spmd.from_jax(lambda x: jnp.take(x, np.array([7]), axis=0), array(4, 4)), "'gather' is known of rows"),
        (lambda: spmd.from_jax(jnp.power, array(4), np.ones(4, "int32")), r"'pow' of R.Tensor\(\(4,\).* fails in TVM: TypeError: Binary"),
        (lambda: spmd.from_jax(lambda x: jax.lax.reduce_or(x, (0,)), np.arange(4)), "'reduce_or' is known of booleans"),
    ],
)
def test_what_is_refused(call, message):
    with pytest.raises(spmd.ShardingError, match=message):
        call()


def test_a_value_of_another_shape_than_jax_says_is_refused(monkeypatch):
    monkeypatch.setitem(jax_operators._REDUCED, "reduce_sum", lambda x, axis: relax.op.sum(x, axis, keepdims=True))
    with pytest.raises(spmd.ShardingError, match=r"'reduce_sum' makes float32\[1, 4\], where JAX has float32\[4\]"):
        spmd.from_jax(lambda x: x.sum(0), array(3, 4))
