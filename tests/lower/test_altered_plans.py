"""Plans in whose text something is deleted or altered: each is refused, or lowers to a program that gives what the module gives."""

import copy
import json

import numpy as np
import pytest
import tvm_ffi
from hypothesis import given
from hypothesis import strategies as st
from tvm.script import ir as I
from tvm.script import relax as R

import spmd
from spmd import Mesh, P, Plan, ShardingError
from spmd.pipeline import ShardedModule
from spmd.testing import FREE_LINKS, difference


@I.ir_module
class Mixed:
    """Products, a branch, sums that go in one call, a padded dimension, two functions over one weight."""

    @R.function
    def first(x: R.Tensor((4, 8), "float32"), flag: R.Tensor((), "bool"), v: R.Tensor((8, 6), "float32"), w: R.Tensor((6, 5), "float32")):
        R.func_attr({"num_input": 2})
        a = R.matmul(x, v)
        if flag:  # noqa: SIM108 -- TVMScript has no other If
            b = R.tanh(a)
        else:
            b = R.negative(a)
        c = R.matmul(b, w)
        d = R.sum(b, axis=[1])
        return (c, d)

    @R.function
    def second(x: R.Tensor((3, 8), "float32"), v: R.Tensor((8, 6), "float32")):
        R.func_attr({"num_input": 1})
        with R.dataflow():
            a = R.matmul(x, v)
            b = R.nn.softmax(a, axis=-1)
            R.output(b)
        return b


@I.ir_module
class Blocks:
    """A symbolic size that is split."""

    @R.function
    def main(x: R.Tensor(("n", 8), "float32"), w: R.Tensor((8, 6), "float32")):
        R.func_attr({"num_input": 1})
        with R.dataflow():
            y = R.nn.relu(R.matmul(x, w))
            R.output(y)
        return y


ARRAYS = {
    name: np.random.default_rng(i).standard_normal(shape).astype("float32")
    for i, (name, shape) in enumerate({"x": (4, 8), "y": (3, 8), "v": (8, 6), "w": (6, 5)}.items())
}


def run_mixed(w):
    x, y, v, u = ARRAYS.values()
    return w["first"](x, np.array(True), v, u), w["first"](x, np.array(False), v, u), w["second"](y, v)


def run_blocks(w):
    return w["main"](ARRAYS["x"], ARRAYS["v"])


ROWS = {"main.x": P("tp", None), "main.return": P("tp", None)}
CASES = [
    (Mixed, spmd.shard(Mixed, 2, {"v": P(None, "tp"), "w": P("tp", None)}, profile=FREE_LINKS), run_mixed),
    (Mixed, spmd.shard(Mixed, Mesh(dp=2, tp=2), {"first.x": P("dp", None), "w": P("tp", "?")}, profile=FREE_LINKS), run_mixed),
    (Blocks, spmd.shard(Blocks, 2, ROWS, divisible={"n": 4}, profile=FREE_LINKS), run_blocks),
]
TEXTS = [json.loads(sharded.plan.to_json()) for _, sharded, _ in CASES]
EXPECTED = []
JUNK = [None, 0, -1, 3, 1.5, True, "", "tp", "x", [], {}, ["tp"]]


def places(raw, path=()):
    """Every place in a plan's text that can be altered, by its path."""
    items = raw.items() if isinstance(raw, dict) else enumerate(raw) if isinstance(raw, list) else ()
    for key, part in items:
        yield (*path, key)
        yield from places(part, (*path, key))


PLACES = [list(places(text)) for text in TEXTS]


def altered(raw, path, how, other):
    """A copy of the text with the entry at `path` deleted, or something else in its place."""
    made = copy.deepcopy(raw)
    at = made
    for key in path[:-1]:
        at = at[key]
    if how == "delete":
        del at[path[-1]]
    else:
        at[path[-1]] = other
    return made


def expected():
    """What the modules give unsharded."""
    if not EXPECTED:
        for mod, _, run in CASES:
            with spmd.workers(mod) as w:
                EXPECTED.append(run(w))
    return EXPECTED


def check(case, text):
    """Refused, or right."""
    mod, sharded, run = CASES[case]
    try:
        plan = Plan.from_json(json.dumps(text))
        lowered = spmd.lower(mod, plan)
    except ShardingError:
        return "refused"
    if tvm_ffi.structural_equal(lowered, sharded.mod) and plan.functions == sharded.plan.functions and plan.mesh == sharded.plan.mesh:
        return "same"
    with spmd.workers(ShardedModule(lowered, plan)) as w:
        assert not difference(expected()[case], run(w))
    return "right"


@pytest.mark.hypothesis
@given(st.data())
def test_an_altered_plan_is_refused_or_right(data):
    case = data.draw(st.integers(0, len(CASES) - 1))
    path = data.draw(st.sampled_from(PLACES[case]))
    how = data.draw(st.sampled_from(["delete", "junk", "other"]))
    other = data.draw(st.sampled_from(JUNK))
    if how == "other":  # what stands elsewhere under the same name
        alike = [p for p in PLACES[case] if p[-1] == path[-1]]
        other = TEXTS[case]
        for key in data.draw(st.sampled_from(alike)):
            other = other[key]
    check(case, altered(TEXTS[case], path, how, other))
