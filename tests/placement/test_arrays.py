"""Tensors of NumPy, TVM, PyTorch and others, in calls, loaded and cut: one reader for all."""

import ml_dtypes
import numpy as np
import pytest
import tvm
from tvm import relax

import spmd
from spmd import P, ShardingError
from spmd.placement.arrays import array_of

SHAPES = {"x": (4, 16), "up": (16, 32), "down": (32, 16)}


def sharded(dtype="float32"):
    """X up down, up by columns and down by rows on 2 workers."""
    bb = relax.BlockBuilder()
    x, up, down = (relax.Var(n, relax.TensorType(s, dtype)) for n, s in SHAPES.items())
    with bb.function("main", [x, up, down], attrs={"num_input": 1}):
        with bb.dataflow():
            out = bb.emit_output(relax.op.matmul(bb.emit(relax.op.matmul(x, up)), down))
        bb.emit_func_output(out)
    return spmd.shard(bb.finalize(), 2, {"up": P(None, "tp"), "down": P("tp", None)})


ARRAYS = {n: np.random.default_rng(i).standard_normal(s).astype("float32") for i, (n, s) in enumerate(SHAPES.items())}


class Subclass(np.ndarray):
    """An array by another name."""


class Dense:
    """A tensor of some library: it gives itself as an array."""

    def __init__(self, array):
        self.array = array

    def __array__(self, dtype=None, copy=None):
        return self.array


class Exchanged:
    """A tensor of some library that speaks DLPack alone."""

    def __init__(self, array):
        self.array = array

    def __dlpack__(self, **options):
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.array.__dlpack_device__()


class Trained(Exchanged):
    """As a parameter of PyTorch: what is asked of it before it is detached, moved and in one piece is an error."""

    def __init__(self, array, done=()):
        super().__init__(array)
        self.done = done

    def detach(self):
        return Trained(self.array, (*self.done, "detach"))

    def cpu(self):
        return Trained(self.array, (*self.done, "cpu"))

    def contiguous(self):
        return Trained(np.ascontiguousarray(self.array), (*self.done, "contiguous"))

    def __dlpack__(self, **options):
        assert self.done == ("detach", "cpu", "contiguous")
        return super().__dlpack__(**options)


class Empty(Trained):
    """As one on the meta device."""

    is_meta = True


def read_only(array):
    array = array.copy()
    array.flags.writeable = False
    return array


KINDS = {
    "plain": lambda a: a,
    "of another byte order": lambda a: a.astype(">f4"),
    "by columns": np.asfortranarray,
    "every second": lambda a: np.repeat(a, 2, axis=1)[:, ::2],
    "backwards": lambda a: a[::-1].copy()[::-1],
    "read-only": read_only,
    "a subclass": lambda a: a.view(Subclass),
    "TVM's": tvm.runtime.tensor,
    "an array at heart": Dense,
    "DLPack": Exchanged,
    "trained": Trained,
    "trained, strided": lambda a: Trained(np.asfortranarray(a)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_everywhere(kind):
    x, up, down = map(KINDS[kind], ARRAYS.values())
    expected = ARRAYS["x"] @ ARRAYS["up"] @ ARRAYS["down"]
    program = sharded()
    with spmd.workers(program) as w:
        for found in (w["main"](x, up, down), w["main"](x, *w.load([up, down])), w["main"](x, down=down, up=up)):
            np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    for i, shard in enumerate(program.partition({"up": up, "down": down})):
        np.testing.assert_array_equal(shard["up"], ARRAYS["up"][:, 16 * i : 16 * i + 16])
        np.testing.assert_array_equal(shard["down"], ARRAYS["down"][16 * i : 16 * i + 16])


def test_small_floats_and_no_dimensions():
    small = np.arange(4).astype(ml_dtypes.bfloat16)
    for value in (small, tvm.runtime.tensor(small), Dense(small)):
        found = array_of("here", value)
        assert found.dtype == ml_dtypes.bfloat16 and found.tolist() == [0, 1, 2, 3]
    for value in (np.array(3, "int32"), np.int32(3), tvm.runtime.tensor(np.array(3, "int32"))):
        assert array_of("here", value).shape == () and array_of("here", value) == 3
    assert array_of("here", 3) is array_of("here", [1.0]) is array_of("here", None) is array_of("here", np.ndarray) is None


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (Empty(ARRAYS["up"]), "it is on the meta device, where tensors have no numbers. Load it onto a device first"),
        (np.ma.masked_array(ARRAYS["up"], ARRAYS["up"] > 0), r"it is a masked array, and tensors have no mask. Write array\.filled\(0\)"),
        (ARRAYS["up"].tolist(), "got a list|is a list"),
        (ARRAYS["up"].astype("float64"), "float64"),
        (ARRAYS["up"].astype(object), "object"),
        (ARRAYS["down"], r"\[32, 16\]"),
        (Trained(np.array([None])), "cannot be read"),
    ],
)
def test_what_is_no_such_tensor(value, text):
    program = sharded()
    with spmd.workers(program) as w:
        for act in (
            lambda: w["main"](ARRAYS["x"], value, ARRAYS["down"]),
            lambda: w.load([value, ARRAYS["down"]]),
            lambda: program.partition({"up": value, "down": ARRAYS["down"]}),
        ):
            with pytest.raises(ShardingError, match=text):
                act()


def test_arguments_by_name():
    x, up, down = ARRAYS.values()
    with spmd.workers(sharded()) as w:
        for args, named, text in (
            ((x,), {"up": up, "dwn": down}, r"main\(\): it has no parameter 'dwn'\. Did you mean 'down'"),
            ((x,), {"up": up}, r"main\(\): it got no argument for 'down'\. Its parameters are x, up, down"),
            ((x, up), {"up": up, "down": down}, r"main\(\): parameter 'up' is given twice, in its place and by name"),
            ((x, up, down, down), {}, r"main\(\): it takes 3 arguments \('x', 'up', 'down'\), and got 4"),
        ):
            with pytest.raises(ShardingError, match=text):
                w["main"](*args, **named)


def test_weights_neither_by_name_nor_in_order():
    program = sharded()
    with spmd.workers(program) as w:
        for act, call in ((w.load, "load"), (program.partition, "partition")):
            with pytest.raises(ShardingError, match=rf"it takes weights by name or in order, and got a ndarray\. Write {call}\("):
                act(ARRAYS["up"])
    with pytest.raises(ShardingError, match=r"there is no worker int 2 in Mesh\(tp=2\)\. Workers are 0 to 1"):
        program.partition({"up": ARRAYS["up"], "down": ARRAYS["down"]}, 2)


def test_tensors_of_pytorch():
    """Of every type, trained, strided, expanded, and of no dimension."""
    torch = pytest.importorskip("torch")
    made = torch.arange(6, dtype=torch.float32).reshape(2, 3)
    for dtype in ("float32", "float64", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2", "int8", "uint8", "int64", "bool"):
        tensor = made.to(getattr(torch, dtype))
        for one in (tensor, tensor.t(), tensor[:, ::2], tensor[0].expand(2, 3), tensor[1, 1]):
            found = array_of("here", one)
            assert found.dtype.name == dtype and found.shape == tuple(one.shape)
            np.testing.assert_array_equal(found.astype("float64"), one.to(torch.float64).numpy())
    assert array_of("here", torch.nn.Parameter(made)).tolist() == made.tolist()
    with pytest.raises(ShardingError, match="meta device"):
        array_of("here", torch.empty(2, device="meta"))
    with pytest.raises(ShardingError, match="cannot be read"):
        array_of("here", made.to_sparse())
