"""Operators of PyTorch one by one: TVM's importer left something out of each of these, counted from the wrong end, or failed."""

import numpy as np
import pytest

import spmd

torch = pytest.importorskip("torch")
F = torch.nn.functional
FLOATS = torch.linspace(-2, 3, 24).reshape(2, 3, 4)
WHOLE = torch.arange(-12, 12).reshape(2, 3, 4)
TRUE = WHOLE % 3 == 0
PICTURE = torch.linspace(-1, 1, 288).reshape(2, 4, 6, 6)
ROWS, ENDS = torch.linspace(-1, 1, 24).reshape(6, 4), torch.tensor([2, 2, 5], dtype=torch.int32)
EXPERTS = torch.linspace(-1, 2, 36).reshape(3, 4, 3)
CASES = {
    "x[:, -1]": (lambda x: x[:, -1], FLOATS),
    "an index from the end": (lambda x, i: x[i], FLOATS, torch.tensor([-1, 0, -2])),
    "indices that were sorted": (lambda x, i: (x[i.sort()[0]], x[i.topk(2, largest=False)[0]]), FLOATS, torch.tensor([-1, 0, -2])),
    "an index that overflows": (lambda x, i: x[(i.relu() * 64).to(torch.int8).long() // 128], FLOATS, torch.arange(1, 4)),
    "indices together": (lambda x: x[:, torch.tensor([0, -1]), torch.tensor([1, 2])], FLOATS),
    "indices apart": (lambda x: x[:, torch.tensor([0, 1]), :, torch.tensor([1, -2])], PICTURE),
    "indices that are broadcast": (lambda x: x[:, :, torch.tensor([[0], [3]]), torch.tensor([1, 2, 5])], PICTURE),
    "add with alpha": (lambda x, y: torch.add(x, y, alpha=2), FLOATS, FLOATS),
    "sub with alpha": (lambda x, y: torch.sub(x, y, alpha=3), FLOATS, FLOATS),
    "rsub with alpha": (lambda x: torch.rsub(x, 2, alpha=3), FLOATS),
    "integers times a float": (lambda x: x * 0.5 + (x > 0.5), WHOLE),
    "integers over integers": (lambda x: (x / 7, x // 3, torch.div(x, 5, rounding_mode="trunc")), WHOLE),
    "a choice of two dtypes": (lambda x, y: torch.where(x > 0, x, y), FLOATS, WHOLE),
    "elu": (lambda x: (F.selu(x), F.elu(x, 0.7), F.celu(x, 0.7)), FLOATS),
    "cumsum of booleans": (lambda x: x.cumsum(-1), TRUE),
    "infinities": (lambda x: torch.where(x > 0, x, torch.full((2, 3, 4), float("-inf"))), FLOATS),
    "infinities alike": (lambda x: torch.maximum(torch.full_like(x, float("-inf")), x), FLOATS),
    "nearest": (lambda x: (F.interpolate(x, size=(4, 4)), F.interpolate(x, scale_factor=2)), PICTURE),
    "group norm without weights": (lambda x: F.group_norm(x, 2, eps=1e-3), PICTURE),
    "reductions": (lambda x: (x.amax((0, 2)), x.amin(-1, keepdim=True), x.prod(-1), x.logsumexp(-1)), FLOATS),
    "any order": (lambda x: x.topk(2, -1, sorted=False)[0].sort(-1)[0], FLOATS),
    "scatter_add": (lambda x, i: torch.zeros(2, 3, 6).scatter_add(2, i, x), FLOATS, WHOLE % 5),
    "histc": (lambda x: torch.histc(x, 7, -1, 2), FLOATS),
    "complex numbers": (lambda x: torch.view_as_real(torch.polar(x, x) * torch.view_as_complex(torch.stack([x, -x], -1))), FLOATS),
    "a view of attention": (lambda x: F.scaled_dot_product_attention(x, x, x).transpose(1, 2).reshape(2, 6, 24).view(-1, 24), PICTURE),
    "experts": (lambda x, w, ends: torch.ops.spmd_test.grouped_mm_fallback(x, w, ends), ROWS, EXPERTS, ENDS),
}


@torch.library.custom_op("spmd_test::grouped_mm_fallback", mutates_args=())
def grouped(x: torch.Tensor, weight: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
    """As transformers has it: rows behind the last end are 0."""
    out, start = x.new_zeros(len(x), weight.shape[2]), 0
    for i, end in enumerate(ends.tolist()):
        out[start:end] = x[start:end] @ weight[i]
        start = end
    return out


@grouped.register_fake
def _(x, weight, ends):
    return x.new_empty(len(x), weight.shape[2])


class Called(torch.nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *args):
        return self.function(*args)


@pytest.mark.parametrize("name", CASES)
def test_numbers_are_those_of_pytorch(name):
    function, *args = CASES[name]
    imported = spmd.from_torch(Called(function), args)
    expected = [x.numpy() for x in torch.utils._pytree.tree_leaves(function(*args))]
    with spmd.workers(spmd.shard(imported.mod, 1)) as w:
        found = w["main"](*args, *(w.load(imported.weights) if imported.weights else ()))
    found = [np.asarray(x) for x in (found if isinstance(found, tuple) else (found,))]
    for got, want in zip(found, expected, strict=True):
        assert got.dtype == want.dtype
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


def test_an_index_from_the_end_of_a_size_that_is_split():
    """The size is that of all workers together, where each knows its own."""
    rows = torch.export.Dim("rows", max=64)
    called = Called(lambda x, i: (x[i + 0], x[-1]))
    imported = spmd.from_torch(called, (FLOATS[0].T, torch.tensor([-1, 0, -3])), dynamic_shapes=(({0: rows}, None),))
    sharded = spmd.shard(imported.mod, 2, {"main.args_0": spmd.P("tp", None)}, divisible={"rows": 2})
    x, i = torch.randn(6, 3), torch.tensor([5, -6, -2])
    with spmd.workers(sharded) as w:
        found = [np.asarray(part) for part in w["main"](x, i)]
    np.testing.assert_allclose(found[0], x[i])
    np.testing.assert_allclose(found[1], x[-1])


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x: torch.histc(x, 7), "the range of histc is that of its values"),
        (lambda x: F.interpolate(x[:, None], scale_factor=1.3), r"a scale of \[1.3, 1.3\] makes no whole number of pixels"),
        (lambda x: x[torch.arange(1, -1, -1)], "TVM's importer fails at aten.arange.start_step"),
        (lambda x: torch.fft.fft(x).real, "TVM's importer does not know aten._fft"),
    ],
)
def test_what_cannot_be_said(function, message):
    with pytest.raises(spmd.ShardingError, match=message):
        spmd.from_torch(Called(function), (FLOATS,))
