"""A small Llama of known sizes, weights fused or one by one, for ready-made specs to be tried on."""

from tvm.relax.frontend import nn
from tvm.relax.frontend.nn import op, spec

BATCH, SEQ, HIDDEN, HEADS, KV_HEADS, HEAD, WIDE, VOCAB = 4, 8, 32, 4, 2, 8, 48, 20
Q, KV = HEADS * HEAD, KV_HEADS * HEAD


def linear(into, out, bias=False):
    return nn.Linear(into, out, bias=bias)


class Attention(nn.Module):
    """Grouped-query attention; position is left out."""

    def __init__(self, fused):
        self.fused = fused
        if fused:
            self.qkv_proj = linear(HIDDEN, Q + 2 * KV, bias=True)
        else:
            self.q_proj, self.k_proj, self.v_proj = linear(HIDDEN, Q, bias=True), linear(HIDDEN, KV), linear(HIDDEN, KV)
        self.o_proj = linear(Q, HIDDEN, bias=True)

    def forward(self, x):
        q, k, v = op.split(self.qkv_proj(x), [Q, Q + KV], axis=-1) if self.fused else (self.q_proj(x), self.k_proj(x), self.v_proj(x))
        batch, seq, _ = x.shape
        q = op.reshape(q, (batch, seq, HEADS, HEAD))
        k, v = (op.repeat(op.reshape(t, (batch, seq, KV_HEADS, HEAD)), HEADS // KV_HEADS, axis=2) for t in (k, v))
        q, k, v = (op.permute_dims(t, (0, 2, 1, 3)) for t in (q, k, v))
        weights = op.softmax(op.matmul(q, op.permute_dims(k, (0, 1, 3, 2))), axis=-1)
        out = op.permute_dims(op.matmul(weights, v), (0, 2, 1, 3))
        return self.o_proj(op.reshape(out, (batch, seq, Q)))


class FeedForward(nn.Module):
    """SiLU of the gate, times up, back."""

    def __init__(self, fused):
        self.fused = fused
        if fused:
            self.gate_up_proj = linear(HIDDEN, 2 * WIDE)
        else:
            self.gate_proj, self.up_proj = linear(HIDDEN, WIDE), linear(HIDDEN, WIDE)
        self.down_proj = linear(WIDE, HIDDEN)

    def forward(self, x):
        gate, up = op.split(self.gate_up_proj(x), 2, axis=-1) if self.fused else (self.gate_proj(x), self.up_proj(x))
        return self.down_proj(op.silu(gate) * up)


class Layer(nn.Module):
    """Two blocks, each behind a norm and beside the residual."""

    def __init__(self, fused):
        self.self_attn, self.mlp = Attention(fused), FeedForward(fused)
        self.input_layernorm, self.post_attention_layernorm = (nn.RMSNorm(HIDDEN, -1, bias=False) for _ in range(2))

    def forward(self, x):
        x = self.self_attn(self.input_layernorm(x)) + x
        return self.mlp(self.post_attention_layernorm(x)) + x


class Llama(nn.Module):
    """Token numbers in, logits out."""

    def __init__(self, layers, fused):
        self.embed_tokens = nn.Embedding(VOCAB, HIDDEN)
        self.layers = nn.ModuleList([Layer(fused) for _ in range(layers)])
        self.norm = nn.RMSNorm(HIDDEN, -1, bias=False)
        self.lm_head = linear(HIDDEN, VOCAB)

    def forward(self, ids):
        x = self.embed_tokens(ids)
        for layer in self.layers:
            x = layer(x)
        return self.lm_head(self.norm(x))

    def block(self, x):
        for layer in self.layers:
            x = layer(x)
        return x


def llama(method="forward", layers=1, fused=False, batch=BATCH, seq=SEQ):
    """``forward(ids)`` or ``block(x)``, and the names of the parameters."""
    inputs = {"ids": spec.Tensor([batch, seq], "int32")} if method == "forward" else {"x": spec.Tensor([batch, seq, HIDDEN], "float32")}
    mod, named = Llama(layers, fused).export_tvm({method: {**inputs, "$": {"param_mode": "plain", "effect_mode": "none"}}})
    return mod, [name for name, _ in named]
