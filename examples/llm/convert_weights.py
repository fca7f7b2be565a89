"""`python -m examples.llm.convert_weights --model DIR --quantization q4f16_1 -o dist/`: weights and tokenizer for a built model."""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

import spmd
from spmd.weights.progress import Progress

from . import conversion
from .build import KEPT, quantized
from .command import exit_code
from .config import LlamaConfig
from .conversion import Arrays, files_of, write_index
from .mlc.params import write_params
from .quantization import Formats, chosen, packed_weights, part_name
from .source import Source, open_model
from .weights import parameter_shapes


def convert(model: str, quantization: str, folder: Path, runtime: str = "spmd") -> None:
    """Reads, packs and writes one file after another, so that a model need not fit into memory; in the form that a runtime reads.

    What is in the folder already, of the same files and quantization, is kept (for "mlc" nothing is); a terminal shows how far it is.
    """
    source = open_model(model)
    config, formats = quantized(model, quantization)
    folder.mkdir(parents=True, exist_ok=True)
    source.tokenizer().save(folder)
    files = files_of({name: stored_arrays(name, shape, config, formats) for name, shape in parameter_shapes(config).items()})
    if runtime == "mlc":
        write_params(folder, converted(source, config, formats, quantization in KEPT, [name for file in files for name in file.weights]))
        return
    read = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in source.files()]
    identity = hashlib.sha256(repr([spmd.__version__, quantization, config, files, read]).encode()).hexdigest()
    bar = Progress(sum(file.bytes for file in files))
    with conversion.conversion(folder, identity):
        for file in files:
            if file.is_whole(folder):
                bar.add(file.bytes, skipped=True)
                continue
            arrays = dict[str, np.ndarray]()
            for name, array in converted(source, config, formats, quantization in KEPT, file.weights):
                arrays[name] = array
                bar.add(array.nbytes)
            file.write(folder, arrays)
        write_index(folder, files, identity)
    bar.close()


def stored_arrays(name: str, shape: tuple[int, ...], config: LlamaConfig, formats: Formats) -> Arrays:
    """{name: (shape, dtype)} of what stands for a weight: itself, or the parts of its format."""
    form = chosen(formats, name, shape)
    if form is None:
        return {name: (shape, config.dtype)}
    return {part_name(name, part): array for part, array in form.parts(shape, form.dtype or config.dtype).items()}


def converted(source: Source, config: LlamaConfig, formats: Formats, kept: bool, only: Sequence[str]) -> Iterator[tuple[str, np.ndarray]]:
    """(name, array) of what stands for some weights, as a file has them where its blocks are `kept`, else packed."""
    return source.packed(config.dtype, only) if kept else packed_weights(source.tensors(config.dtype, only), formats)


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code: 0, or 2 after one line on standard error that says what is wrong."""
    parser = argparse.ArgumentParser(prog="python -m examples.llm.convert_weights", description="Weights for a built model.")
    parser.add_argument("--model", required=True, help="a Hugging Face folder, or a .gguf file")
    parser.add_argument("--quantization", default="q4f16_1", help="as the library was built (default q4f16_1)")
    parser.add_argument("--runtime", choices=("spmd", "mlc"), default="spmd", help="as the library was built")
    parser.add_argument("-o", "--output", required=True, type=Path, help="the folder of the library")
    options = parser.parse_args(arguments)
    return exit_code(lambda: convert(options.model, options.quantization, options.output, options.runtime))


if __name__ == "__main__":
    sys.exit(main())
