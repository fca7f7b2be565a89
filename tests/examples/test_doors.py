"""The scripts of examples/doors give what the models give, and split what they say."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "examples" / "doors"
NEEDED = {"llama": ("torch", "transformers"), "dynamic_batch": ("torch",), "onnx_file": ("onnx",)}
SUMS = {"llama": 5, "dynamic_batch": 1, "onnx_file": 1}
"""The all-reduces of each plan: two a layer of the Llama and one of its embedding, else one."""


def test_every_script_is_run():
    assert {path.stem for path in SCRIPTS.glob("*.py")} == {"__init__", *NEEDED}


@pytest.mark.parametrize("name", NEEDED)
def test_a_script_gives_the_numbers_of_its_model(name):
    for package in NEEDED[name]:
        pytest.importorskip(package)
    ran = subprocess.run([sys.executable, SCRIPTS / f"{name}.py"], check=True, capture_output=True, text=True)
    found = [float(number) for number in re.findall(r"difference(?: of a logit)?:? (\S+)$", ran.stdout, re.MULTILINE)]
    assert found and max(found) <= 1e-5
    assert sum(int(count) for count in re.findall(r"(\d+) all_reduce", ran.stdout)) == SUMS[name]
