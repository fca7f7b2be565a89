"""Run by `test_mlc.py`: a library for MLC-LLM's engine, called as the engine calls it, on two workers of a session of Disco.

Tokens and positions are copied to worker 0 alone, weights cut by the functions that `_metadata` names. The logits must be those of the
unsharded model. Ends with the number of them.
"""

import json
import os
import sys
import tempfile
from pathlib import Path

import numpy as np
import tvm
from tvm.runtime import ShapeTuple
from tvm.target import Target

import spmd
from examples.llm.mlc import library
from examples.llm.model import build_module
from examples.llm.quantization import packed_weights
from examples.llm.quantize import quantize
from examples.llm.sequences import Sequences
from tests.collectives import disco
from tests.collectives.disco_suite import started
from tests.examples.architectures import config_of, random_weights
from tests.examples.test_architectures import SCALED, WIDE

CPU = {"kind": "llvm", "opt-level": 0}
PROMPT, OTHER, ANSWER = [3, 14, 15, 9, 26], [5, 35, 8], [7, 9, 3, 23]


def main(name: str, form: str, folder: Path) -> None:
    """Build, load, compare."""
    config = config_of(name, **WIDE)
    weights = dict(packed_weights(random_weights(config).items(), form) if form else random_weights(config))
    made, metadata = library.build(config, 2, Target(CPU), form, form or "q0f32", SCALED, 64, False)
    assert any(param["preprocs"] for param in metadata["params"])
    library.write(folder, made, metadata, config)
    session = started("ThreadedSession", 2, 1, folder)
    found = np.concatenate(run(session, folder / library.LIBRARY, weights))
    methods = ["embed", "prefill", "extend", "decode", "batch_prefill", "batch_extend", "create_paged_kv_cache"]
    mod = build_module(config, methods=methods)[0]
    with spmd.workers(quantize(mod, form) if form else mod, target=CPU) as workers:
        expected = wanted(Sequences(workers, weights, 64, 2))
    assert np.isfinite(expected).all()
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    print(f"{len(found)} rows of logits", flush=True)


def wanted(model: Sequences) -> np.ndarray:
    """Rows of logits of the unsharded model."""
    first, second = model.add(), model.add()
    rows = [model.forward({first: PROMPT})[first]]
    rows += [model.forward({first: [token]})[first] for token in ANSWER]
    both = model.forward({first: OTHER, second: PROMPT})
    return np.concatenate([*rows, both[first], both[second]])


def run(session, path: Path, weights: dict[str, np.ndarray]) -> list[np.ndarray]:
    """The same rows, by the functions of the engine."""
    module = session.load_vm_module(str(path), device=tvm.cpu())
    local = tvm.relax.VirtualMachine(tvm.runtime.load_module(str(path)), tvm.cpu())
    told = json.loads(str(local["_metadata"]()))
    shares = [cut(local, param, weights[param["name"]]) for param in told["params"]]
    each = [[tvm.runtime.tensor(np.ascontiguousarray(share[rank])) for share in shares] for rank in range(2)]
    packed = packed_everywhere(session, each)
    number = {
        n: session.get_global_func(f"vm.builtin.{n}") for n in ("kv_state_add_sequence", "kv_state_begin_forward", "kv_state_end_forward")
    }
    cache = module["create_tir_paged_kv_cache"](*(ShapeTuple([size]) for size in (2, 64, 512, 16, 0)))

    def sent(array: np.ndarray):
        """On worker 0 alone: others have other numbers."""
        made = session.empty(array.shape, str(array.dtype), device=tvm.cpu())
        for rank in range(2):
            made.debug_copy_from(rank, tvm.runtime.tensor(array if rank == 0 else array * 0 + 1))
        return made

    def call(name: str, tokens: list[int], pieces: dict[int, int], shape: tuple[int, ...], *more: np.ndarray) -> np.ndarray:
        number["kv_state_begin_forward"](cache, ShapeTuple(list(pieces)), ShapeTuple(list(pieces.values())))
        embedded = module["embed"](sent(np.array(tokens, "int32")), packed)
        view = session.get_global_func("vm.builtin.reshape")(embedded, ShapeTuple(shape))
        result = module[name](view, *map(sent, more), cache, packed)
        logits = session.get_global_func("vm.builtin.tuple_getitem")(result, 0)
        number["kv_state_end_forward"](cache)
        return logits.debug_get_from_remote(0).numpy().reshape(-1, logits.debug_get_from_remote(0).shape[-1])

    hidden = told_hidden(local)
    number["kv_state_add_sequence"](cache, 0)
    rows = [call("prefill", PROMPT, {0: len(PROMPT)}, (1, len(PROMPT), hidden))]
    rows += [call("batch_decode", [token], {0: 1}, (1, 1, hidden)) for token in ANSWER[:2]]
    rows += [call("decode", [token], {0: 1}, (1, 1, hidden)) for token in ANSWER[2:]]
    number["kv_state_add_sequence"](cache, 1)
    last = np.array([len(OTHER) - 1, len(OTHER) + len(PROMPT) - 1], "int32")
    name = "batch_extend" if "batch_extend" in told["memory_usage"] else "batch_prefill"
    tokens = [*OTHER, *PROMPT]
    rows.append(call(name, tokens, {0: len(OTHER), 1: len(PROMPT)}, (1, len(tokens), hidden), last))
    return rows


def told_hidden(local) -> int:
    """The size of an embedding, as the engine finds it."""
    return int(local["alloc_embedding_tensor"]().shape[-1])


def cut(local, param: dict, whole: np.ndarray) -> np.ndarray:
    """What each worker has of a weight, by the function that the library has for it."""
    if not param["preprocs"]:
        return np.stack([whole, whole])
    (step,) = param["preprocs"]
    assert list(whole.shape) == step["in_shape"] and str(whole.dtype) == step["out_dtype"]
    out = tvm.runtime.tensor(np.full(step["out_shape"], 7, step["out_dtype"]))
    local.module.get_function(step["func_name"], query_imports=True)(tvm.runtime.tensor(whole), out)
    return out.numpy()


def packed_everywhere(session, each: list[list]) -> object:
    """An array of tensors on each worker."""
    fields = []
    for i, tensor in enumerate(each[0]):
        made = session.empty(tensor.shape, str(tensor.dtype), device=tvm.cpu())
        for rank in range(2):
            made.debug_copy_from(rank, each[rank][i])
        fields.append(made)
    return session.call_packed(session.get_global_func("vm.builtin.make_tuple"), *fields)


if __name__ == "__main__":
    disco.ready()
    with tempfile.TemporaryDirectory() as made:
        main(sys.argv[1], sys.argv[2], Path(made))
    os._exit(0)  # sessions of this wheel write to workers that have ended when Python gives them back
