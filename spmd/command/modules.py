"""The module that a file holds: a script of Python, a module as JSON, or a model of another framework."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path
from typing import Any

import tvm

from spmd.checks import package
from spmd.errors import ShardingError, nearest
from spmd.frontends import from_onnx, from_torch

KINDS = "a Python file that defines an IRModule, a module as JSON, an exported program (.pt2), an ONNX file, or a folder of Hugging Face"


def module_of(path: Path, name: str | None) -> Any:
    """The module in a file or folder; `name` chooses one of several that a Python file defines."""
    if path.is_dir():
        return _of_folder(path)
    if not path.is_file():
        raise ShardingError(str(path), "there is no such file", f"Give {KINDS}.")
    if path.suffix == ".onnx":
        return from_onnx(path).mod
    if path.suffix == ".pt2":
        return from_torch(_exported(path)).mod
    return _of_json(path) if path.suffix == ".json" else _of_script(path, name)


def _of_json(path: Path) -> Any:
    text = path.read_bytes().decode(errors="replace")
    try:
        found: Any = tvm.ir.load_json(text)
    except Exception:  # TVM raises whatever its readers do
        found = None
    if isinstance(found, tvm.IRModule):
        return found
    what = "it is a plan, no module" if _is_plan(text) else "it holds no IRModule"
    raise ShardingError(str(path), what, "Give the module; python -m spmd explain takes plans too.")


def _is_plan(text: str) -> bool:
    try:
        found: Any = json.loads(text)
    except ValueError:
        return False
    return isinstance(found, dict) and "params" in found


def _exported(path: Path) -> Any:
    torch = package("torch", str(path), "PyTorch is not installed", "torch")
    try:
        return torch.export.load(str(path))
    except Exception as error:
        what = f"torch.export cannot load it: {type(error).__name__}: {error}"
        raise ShardingError(str(path), what, "Give what torch.export.save wrote.") from error


def _of_script(path: Path, name: str | None) -> Any:
    sys.path.insert(0, str(path.parent))
    try:
        defined = runpy.run_path(str(path), run_name=path.stem)
    except Exception as error:
        raise ShardingError(str(path), f"it fails with {type(error).__name__}: {error}", "It must run on its own.") from error
    finally:
        sys.path.remove(str(path.parent))
    modules = {key: value for key, value in defined.items() if isinstance(value, tvm.IRModule)}
    if name is not None:
        if name in modules:
            return modules[name]
        what = f"{name!r} is a {type(defined[name]).__name__}, no IRModule" if name in defined else f"it defines no module {name!r}"
        raise ShardingError(str(path), what, nearest(name, modules))
    found = list({id(value): value for value in modules.values()}.values())
    if len(found) != 1:
        what = f"it defines the modules {', '.join(modules)}" if found else "it defines no IRModule"
        raise ShardingError(str(path), what, "Choose one with --module." if found else "Bind one to a name at the top of the file.")
    return found[0]


def _of_folder(path: Path) -> Any:
    """The language model that a ``config.json`` of transformers describes, without its weights: token numbers and a mask in, logits out."""
    model = _model_of(path)
    torch = package("torch", str(path), "PyTorch is not installed", "torch")
    batch, tokens = torch.export.Dim("batch", max=1024), torch.export.Dim("tokens", max=model.config.max_position_embeddings)
    # Without a mask, transformers looks in the values for sequences that lie one behind another.
    example = {name: torch.ones(2, 8, dtype=torch.long, device="meta") for name in ("input_ids", "attention_mask")}
    return from_torch(model, (), kwargs=example, dynamic_shapes={name: {0: batch, 1: tokens} for name in example}).mod


def _model_of(path: Path) -> Any:
    """That model, of tensors without memory."""
    if not (path / "config.json").is_file():
        raise ShardingError(str(path), "the folder has no config.json", f"Give {KINDS}.")
    torch = package("torch", str(path), "PyTorch is not installed", "torch")
    transformers = package("transformers", str(path), "transformers is not installed", "transformers")
    try:
        config = transformers.AutoConfig.from_pretrained(path, use_cache=False)
        with torch.device("meta"):
            model = transformers.AutoModelForCausalLM.from_config(config).eval()
    except Exception as error:
        raise ShardingError(str(path), f"transformers cannot make the model: {type(error).__name__}: {error}") from error
    return model


def own_plan(path: Path) -> dict[str, str]:
    """The `tp_plan` that the model in a folder of Hugging Face has itself."""
    found = dict(_model_of(path).tp_plan or {})
    if not found:
        raise ShardingError("--tp-plan own", f"the model in {str(path)!r} has no tp_plan", "Leave it out, or write --tp-plan FILE.")
    return found
