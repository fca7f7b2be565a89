"""What help shows can be typed as it stands, where a file of that name is."""

import shlex
import subprocess
import sys

import numpy as np
import pytest
import safetensors.numpy

from spmd.command import main
from spmd.command.examples import EXAMPLES
from tests.mpi import need_mpi

MODEL = """
from tvm.relax.frontend import nn


class MLP(nn.Module):
    def __init__(self):
        self.up, self.down = nn.Linear(64, 128, bias=False), nn.Linear(128, 64, bias=False)

    def forward(self, x: nn.Tensor) -> nn.Tensor:
        return self.down(nn.op.silu(self.up(x)))


mod, _ = MLP().export_tvm({"forward": {"x": nn.spec.Tensor(["batch", 64], "float32")}})
"""


def onnx_model():
    onnx = pytest.importorskip("onnx")
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    nodes = [helper.make_node("MatMul", ["x", "up.weight"], ["h"]), helper.make_node("Relu", ["h"], ["a"])]
    nodes.append(helper.make_node("MatMul", ["a", "down.weight"], ["y"]))
    ends = [[helper.make_tensor_value_info(name, kind, ["batch", 64])] for name in ("x", "y")]
    weights = [onnx.numpy_helper.from_array(array, name) for name, array in arrays("onnx").items()]
    return helper.make_model(helper.make_graph(nodes, "mlp", *ends, weights), opset_imports=[helper.make_opsetid("", 17)])


def arrays(kind):
    shapes = {"up.weight": (64, 128), "down.weight": (128, 64)}
    return {name: np.ones(shape if kind == "onnx" else shape[::-1], "float32") for name, shape in shapes.items()}


@pytest.mark.parametrize("kind", ["py", "onnx"])
def test_examples_of_help_run(kind, tmp_path, monkeypatch, capsys):
    """With a model in Python, and with one of ONNX."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.py").write_text(MODEL)
    (tmp_path / "script.py").write_text("print('ran')")
    (tmp_path / "checkpoint").mkdir()
    safetensors.numpy.save_file(arrays(kind), tmp_path / "checkpoint" / "model.safetensors")
    if kind == "onnx":
        (tmp_path / "model.onnx").write_bytes(onnx_model().SerializeToString())
    for name, examples in EXAMPLES.items():
        for arguments in examples:
            words = shlex.split(arguments.replace("model.onnx", f"model.{kind}"))
            if name == "run":
                need_mpi()
                done = subprocess.run([sys.executable, "-m", "spmd", name, *words], capture_output=True, text=True, timeout=120)
                assert (done.returncode, done.stdout) == (0, "ran\nran\n"), done.stderr
            elif name != "doctor":  # which says what the machine lacks
                assert main([name, *words]) == 0, (name, arguments, capsys.readouterr())
    capsys.readouterr()


@pytest.mark.parametrize("name", EXAMPLES)
def test_help_of_a_command_shows_its_own(name, capsys):
    with pytest.raises(SystemExit) as ended:
        main([name, "--help"])
    out = capsys.readouterr().out
    assert ended.value.code == 0 and all(f"\n  python -m spmd {name} {arguments}\n" in out for arguments in EXAMPLES[name])
