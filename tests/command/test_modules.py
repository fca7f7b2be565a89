"""The files that hold modules."""

import json

import pytest
import tvm

import spmd
from spmd.command.modules import module_of, own_plan
from tests.programs import Mlp


def test_a_module_as_json(tmp_path):
    file = tmp_path / "module.json"
    file.write_text(tvm.ir.save_json(Mlp))
    tvm.ir.assert_structural_equal(module_of(file, None), Mlp)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (spmd.plan(Mlp, 2).to_json(), "it is a plan, no module. Give the module"),
        (json.dumps([1]), "it holds no IRModule"),
        ("no JSON", "it holds no IRModule"),
        ("{broken", "it holds no IRModule. Give the module"),
    ],
)
def test_json_that_is_no_module(tmp_path, text, message):
    file = tmp_path / "other.json"
    file.write_text(text)
    with pytest.raises(spmd.ShardingError, match=message):
        module_of(file, None)


def test_bytes_that_are_no_text(tmp_path):
    (tmp_path / "other.json").write_bytes(b"\xff\xfe{")
    with pytest.raises(spmd.ShardingError, match="it holds no IRModule"):
        module_of(tmp_path / "other.json", None)


def test_a_file_that_is_no_exported_program(tmp_path):
    pytest.importorskip("torch")
    (tmp_path / "model.pt2").write_text("nothing")
    with pytest.raises(spmd.ShardingError, match=r"model.pt2: torch.export cannot load it: .* Give what torch.export.save wrote"):
        module_of(tmp_path / "model.pt2", None)


def test_an_exported_program(tmp_path):
    torch = pytest.importorskip("torch")
    linear = torch.nn.Linear(4, 4)
    torch.export.save(torch.export.export(linear, (torch.zeros(2, 4),)), tmp_path / "model.pt2")
    assert [var.name for var in module_of(tmp_path / "model.pt2", None)["main"].params][1:] == ["weight", "bias"]


def test_a_folder_without_a_model(tmp_path):
    with pytest.raises(spmd.ShardingError, match=r"the folder has no config.json. Give a Python file"):
        module_of(tmp_path, None)


def test_a_folder_of_hugging_face(tmp_path):
    """A tiny Llama, of which no weight is there."""
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    transformers.LlamaConfig(vocab_size=64, max_position_embeddings=128, architectures=["LlamaForCausalLM"], **sizes).save_pretrained(
        tmp_path
    )
    mod = module_of(tmp_path, None)
    assert "model.layers.1.mlp.down_proj.weight" in [var.name for var in mod["main"].params]
    plan = spmd.plan(mod, 2, {"model.layers.*.q_proj.weight": spmd.P("tp", None)})
    assert str(plan.params["model.layers.0.self_attn.q_proj.weight"]) == "[tp, -]"
    assert own_plan(tmp_path)["model.layers.*.self_attn.o_proj"] == "rowwise"
    transformers.GPT2Config(vocab_size=64, n_embd=32, n_layer=1, n_head=4).save_pretrained(tmp_path)
    with pytest.raises(spmd.ShardingError, match=r"--tp-plan own: the model in '.*' has no tp_plan"):
        own_plan(tmp_path)
