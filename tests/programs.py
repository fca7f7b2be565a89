"""Small programs that several tests shard."""

from tvm.script import ir as I
from tvm.script import relax as R

from spmd import Profile

BYTES_COUNT = Profile("bytes count", flops=1e12, memory_bandwidth=1e12, link_bandwidth=1e6, link_latency=1e-6)
"""Links so slow that even tiny tensors are sent the way that takes the fewest bytes, and kernels that start at once."""


@I.ir_module
class Mlp:
    """Two products: the first by columns, the second by rows, one sum."""

    @R.function
    def main(x: R.Tensor((4, 16), "float32"), w1: R.Tensor((16, 32), "float32"), w2: R.Tensor((32, 16), "float32")):
        R.func_attr({"num_input": 1})
        with R.dataflow():
            up = R.matmul(x, w1)
            active = R.nn.relu(up)
            down = R.matmul(active, w2)
            R.output(down)
        return down


@I.ir_module
class Two:
    """Two functions over one weight; the second gives a tuple and has a symbolic size."""

    @R.function
    def first(x: R.Tensor((4, 16), "float32"), w: R.Tensor((16, 32), "float32")):
        R.func_attr({"num_input": 1})
        with R.dataflow():
            y = R.matmul(x, w)
            R.output(y)
        return y

    @R.function
    def second(x: R.Tensor(("n", 16), "float32"), w: R.Tensor((16, 32), "float32"), b: R.Tensor((32,), "float32")):
        R.func_attr({"num_input": 1})
        with R.dataflow():
            y = R.matmul(x, w)
            z = R.add(y, b)
            s = R.sum(z, axis=[1])
            R.output(z, s)
        return z, s
