"""Models of PyTorch: the numbers, the names, and what is refused."""

import numpy as np
import pytest
import tvm

import spmd
from spmd import P

torch = pytest.importorskip("torch")
nn = torch.nn


class Block(nn.Module):
    """Attention and a gated network, with a norm, a buffer and a constant."""

    def __init__(self, size=16, heads=4):
        super().__init__()
        self.heads = heads
        self.norm = nn.RMSNorm(size)
        self.q, self.k, self.v, self.o = (nn.Linear(size, size, bias=i != 1) for i in range(4))
        self.gate, self.up, self.down = nn.Linear(size, 24), nn.Linear(size, 24), nn.Linear(24, size)
        self.register_buffer("shift", torch.linspace(0, 1, size))
        self.register_buffer("scale", torch.linspace(1, 2, size), persistent=False)

    def forward(self, x):
        h = self.norm(x) * self.scale + self.shift + torch.tensor([0.5] * x.shape[2])
        q, k, v = (p(h).view(*x.shape[:2], self.heads, -1).transpose(1, 2) for p in (self.q, self.k, self.v))
        a = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, scale=0.3)
        x = x + self.o(a.transpose(1, 2).reshape(x.shape))
        return x + self.down(nn.functional.silu(self.gate(x)) * nn.functional.gelu(self.up(x)))


class Model(nn.Module):
    """Two blocks between tied embeddings."""

    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Embedding(32, 16), nn.Linear(16, 32, bias=False)
        self.layers = nn.ModuleList([Block(), Block()])
        self.head.weight = self.embed.weight

    def forward(self, ids):
        x = self.embed(ids)
        for layer in self.layers:
            x = layer(x)
        return self.head(x)


IDS = (torch.arange(12).reshape(2, 6) * 7) % 32
DYNAMIC = ({0: torch.export.Dim("batch"), 1: torch.export.Dim("tokens")},)
COLUMNS, ROWS = P("tp", None), P(None, "tp")
HEADS = {f"layers.*.{name}.weight": COLUMNS for name in ("q", "k", "v", "gate", "up")}
HEADS |= {f"layers.*.{name}.weight": ROWS for name in ("o", "down")}


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(3)
    return Model().eval()


@pytest.fixture(scope="module")
def imported(model):
    return spmd.from_torch(model, (IDS,), dynamic_shapes=DYNAMIC)


def test_weights_have_the_names_of_the_model(model, imported):
    state = model.state_dict()
    extra = {"layers.0.scale", "layers.1.scale", "layers.0.lifted_tensor_0", "layers.1.lifted_tensor_1"}
    assert imported.weights.keys() - state.keys() == extra
    assert state.keys() - imported.weights.keys() == set(imported.same) and len(imported.same) == 1
    main = imported.mod["main"]
    assert [var.name for var in main.params] == ["ids", *imported.weights] and int(main.attrs["num_input"]) == 1


def test_values_have_the_names_of_their_modules(imported):
    plan = spmd.plan(imported.mod, 2)
    assert {"main.layers_0_q_linear", "main.layers_1_down_linear", "main.layers_0_norm_rms_norm"} <= plan.values.keys()
    ops = [choice.op for choice in plan.choices["main"]]
    assert ops.count("relax.nn.attention") == 2 and ops.count("relax.nn.rms_norm") == 2


def test_a_checkpoint_loads_as_it_is(model, imported):
    """Heads are split, and one compiled program serves every batch."""
    sharded = spmd.shard(imported.mod, 2, HEADS, divisible={"batch": 1})
    assert [c.kind for c in sharded.plan.collectives if c.op != "relax.take"].count("all_reduce") >= 4
    with spmd.workers(sharded) as w:
        weights = w.load(imported.named(model.state_dict()))
        for ids in (IDS, IDS[:1, :5], torch.cat([IDS, 31 - IDS])):
            with torch.no_grad():
                expected = model(ids).numpy()
            np.testing.assert_allclose(np.asarray(w["main"](ids, *weights)), expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_sizes_have_the_names_of_their_dimensions(imported):
    assert spmd.plan(imported.mod, 2, {"main.ids": P("tp", None)}, divisible={"batch": 2}).divisible == {"batch": 2}
    with pytest.raises(spmd.ShardingError, match=r"bath.*batch"):
        spmd.plan(imported.mod, 2, sizes={"bath": 4})


def test_half_precision_stays_half():
    linear = nn.Linear(8, 8).half()
    main = spmd.from_torch(linear, (torch.zeros(2, 8, dtype=torch.float16),)).mod["main"]
    assert {str(binding.var.ty.dtype) for block in main.body.blocks for binding in block.bindings} == {"float16"}


class Masked(nn.Module):
    def forward(self, q, k, v, mask):
        return nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=q.shape[1] != k.shape[1])


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("added", [True, False])
def test_masks_and_groups_of_heads(groups, added):
    generator = torch.Generator().manual_seed(5)
    q, k, v = (torch.randn(2, heads, 5, 8, generator=generator) for heads in (4, 4 // groups, 4 // groups))
    mask = torch.randn(2, 4, 5, 5, generator=generator) if added else torch.ones(5, 5, dtype=torch.bool).tril()
    found = spmd.from_torch(Masked(), (q, k, v, mask))
    with spmd.workers(spmd.shard(found.mod, 2, {"main.q": P(None, "tp", None, None)})) as w:
        np.testing.assert_allclose(np.asarray(w["main"](q, k, v, mask)), Masked()(q, k, v, mask).numpy(), atol=1e-5)


def test_what_was_exported_is_taken(model):
    exported = torch.export.export(model, (IDS,))
    assert spmd.from_torch(exported).weights.keys() == spmd.from_torch(model, (IDS,)).weights.keys()


class Counts(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("seen", torch.zeros(2))

    def forward(self, x):
        self.seen.add_(1)
        return x + self.seen


class Odd(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Identity()

    def forward(self, x):
        return torch.special.i0(x)


class Flagged(nn.Module):
    def forward(self, x, flag):
        return x * 2 if flag else x


def test_what_is_no_tensor_is_fixed():
    for flag, factor in ((True, 2), (False, 1)):
        batch = {0: torch.export.Dim("batch")}
        imported = spmd.from_torch(Flagged(), (torch.ones(3), flag), dynamic_shapes=(batch, None))
        assert [str(p.name) for p in imported.mod["main"].params] == ["x"]
        assert imported.mod["main"].params[0].ty.shape[0].name == "batch"
        with spmd.workers(spmd.shard(imported.mod, 2)) as w:
            np.testing.assert_array_equal(w["main"](np.ones(4, "float32")), np.full(4, factor))


class Noisy(nn.Module):
    def forward(self, x):
        return x + torch.randn(2)


class Columns(nn.Module):
    def forward(self, a, b):
        return a[:, :1] + b


@pytest.mark.parametrize("given", ["places", "names"])
def test_a_size_has_its_name_whatever_the_order(given):
    """`b` comes first in what is said, and second in the model."""
    batch, columns = torch.export.Dim("batch"), torch.export.Dim("columns")
    arrays = {"b": torch.ones(3, 1), "a": torch.ones(3, 4)}
    shapes = {"b": {0: batch}, "a": {0: batch, 1: columns}}
    if given == "places":
        found = spmd.from_torch(Columns(), (arrays["a"], arrays["b"]), dynamic_shapes=(shapes["a"], shapes["b"]))
    else:
        found = spmd.from_torch(Columns(), (arrays["a"], arrays["b"]), dynamic_shapes=shapes)
    named = {var.name: [size.name for size in var.ty.shape if isinstance(size, tvm.tirx.Var)] for var in found.mod["main"].params}
    assert named == {"a": ["batch", "columns"], "b": ["batch"]}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: spmd.from_torch(tvm.IRModule()), "it takes an nn.Module or an ExportedProgram, and got a IRModule"),
        (lambda: spmd.from_torch(nn.Linear(2, 2)), "a model needs example inputs"),
        (lambda: spmd.from_torch(nn.Linear(2, 2), torch.zeros(2)), "example_inputs is a Tensor, and holds the arguments"),
        (lambda: spmd.from_torch(nn.Linear(2, 2), (torch.zeros(3),)), "from_torch, Linear: torch.export cannot export it"),
        (lambda: spmd.from_torch(Counts(), (torch.zeros(2),)), "from_torch, 'seen': the model writes it, which would be lost"),
        (lambda: spmd.from_torch(Noisy(), (torch.zeros(2),)), "randn.default draws random numbers"),
        (lambda: spmd.from_torch(nn.Dropout(0.5), (torch.zeros(2),)), "draws random numbers. Call model.eval"),
        (lambda: spmd.from_torch(Odd(), (torch.zeros(2),)), "TVM's importer does not know aten.*i0"),
    ],
)
def test_what_is_refused(call, message):
    with pytest.raises(spmd.ShardingError, match=message):
        call()


def test_a_state_that_the_module_does_not_read():
    norm = nn.BatchNorm1d(4).eval()
    imported = spmd.from_torch(norm, (torch.zeros(2, 4),))
    assert imported.unused == {"num_batches_tracked"}
    assert imported.named(norm.state_dict()).keys() == imported.weights.keys()


def test_checkpoints_of_other_models(model, imported):
    state = model.state_dict()
    with pytest.raises(spmd.ShardingError, match="checkpoint, 'other': the model has no such weight"):
        imported.named({**state, "other": torch.zeros(1)})
    state.pop("layers.0.q.weight")
    with pytest.raises(spmd.ShardingError, match=r"checkpoint: it lacks 'layers.0.q.weight'"):
        imported.named(state)
